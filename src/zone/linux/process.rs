//! A hypervisor's process on Linux: measured when it is made, found again by what was written then.

use std::{
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    sync::OnceLock,
    time::Duration,
};

use async_trait::async_trait;
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::{
    layout::VmLayout,
    spec::{Enforcement, LimitReport, Limits},
    sys::{ExitStatus, PidFd},
    zone::{
        Ended, Process, ZoneError,
        cgroup::Cgroup,
        identity::{Identity, body, boot_id, is_ending, is_gone},
        launcher::landlock,
        linux::logger::Logger,
        measure::Measured,
    },
};

#[derive(Debug)]
pub(super) struct LinuxProcess {
    pid: i32,
    pidfd: PidFd,
    cgroup: Cgroup,
    enforcements: Vec<Enforcement>,
    limits: Vec<LimitReport>,
    /// Reaping gives the status once; whoever asks later gets it from here.
    ended: OnceLock<Ended>,
    /// Who carries its output, and whose that is.
    heard: Option<(Logger, VmLayout)>,
}

impl LinuxProcess {
    /// A process that may be gone before it can be looked at.
    pub(super) fn unmeasured(pid: i32, pidfd: OwnedFd, cgroup: Cgroup) -> Result<Self, ZoneError> {
        let pidfd = PidFd::new(pidfd).map_err(ZoneError::at("watching the process"))?;
        let (enforcements, limits) = (Vec::new(), Vec::new());
        Ok(Self { pid, pidfd, cgroup, enforcements, limits, ended: OnceLock::new(), heard: None })
    }

    /// Measures a process that runs in its zone.
    pub(super) fn measured(
        pid: i32,
        pidfd: OwnedFd,
        cgroup: Cgroup,
        landlock: bool,
    ) -> Result<Self, ZoneError> {
        let measured = Measured::of(pid).map_err(ZoneError::at("measuring the zone"));
        let enforcements = match measured {
            Ok(Some(measured)) => measured.enforcements(landlock),
            // It has ended already: whoever waits for it learns why, and it can no longer do anything.
            Ok(None) => Vec::new(),
            Err(error) => {
                let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
                let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
                return Err(error);
            }
        };
        Ok(Self { enforcements, ..Self::unmeasured(pid, pidfd, cgroup)? })
    }

    /// With what the host keeps to of its limits.
    pub(super) fn within(self, limits: Vec<LimitReport>) -> Self {
        Self { limits, ..self }
    }

    /// One whose output goes through pipes.
    pub(super) fn heard_by(self, logger: &Logger, layout: &VmLayout) -> Self {
        Self { heard: Some((logger.clone(), layout.clone())), ..self }
    }

    /// Waits until its last words are where they are looked for.
    async fn hear_out(&self) {
        let Some((logger, layout)) = self.heard.clone() else { return };
        let settled = tokio::task::spawn_blocking(move || logger.settle(&layout)).await;
        if let Ok(Err(error)) = settled {
            tracing::warn!(%error, pid = self.pid, "its last words may be missing");
        }
    }

    /// The status of a process that an earlier agent started: of its body, as long as nobody has taken that, else
    /// what the kernel still knows.
    async fn anothers_status(&self) -> Option<ExitStatus> {
        let body = body(self.pid).ok().flatten();
        // The number was still its own if the descriptor leads to it yet. A signal does nothing to a body.
        let its_own = self.pidfd.signal(Signal::CONT).is_ok();
        match body.and_then(|body| body.status).filter(|_| its_own) {
            Some(status) => Some(status),
            None => self.pidfd.reaped().await,
        }
    }
}

/// How a process ended that had this status.
fn ended(status: ExitStatus, cgroup: &Cgroup) -> Ended {
    match status {
        ExitStatus::Code(code) => Ended::Code(code),
        ExitStatus::Signal(libc::SIGKILL) if cgroup.was_out_of_memory() => Ended::OutOfMemory,
        ExitStatus::Signal(signal) => Ended::Signal(signal),
    }
}

/// The process that the run folder names, if it is still that one; else how it ended.
pub(super) fn find(layout: &VmLayout) -> io::Result<Result<LinuxProcess, Ended>> {
    let cgroup = Cgroup::read(&layout.cgroup())?;
    match Identity::read(&layout.process())? {
        Some(written) if written.boot_id == boot_id()? => find_process(written, cgroup),
        _ => Ok(Err(unseen(&cgroup))),
    }
}

/// The process in the VM's control groups: its zone has but one, besides a launcher that is not done yet and ends
/// with the agent that began it. `None` when there are no groups to look at.
pub(super) fn find_in(cgroup: Cgroup) -> io::Result<Option<Result<LinuxProcess, Ended>>> {
    if !cgroup.is_there() {
        return Ok(None);
    }
    // A launcher ends when it notices that its agent did.
    for _ in 0..LOOKS {
        let processes = cgroup.processes()?;
        if processes.is_empty() {
            return Ok(Some(Err(unseen(&cgroup))));
        }
        for pid in processes {
            match is_launcher(pid).and_then(|is| Ok((is, Identity::of(pid)?))) {
                Ok((true, _)) => {}
                Ok((false, identity)) => return find_process(identity, cgroup).map(Some),
                // Gone while it was looked at.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        std::thread::sleep(LOOK);
    }
    Err(io::Error::other("its control groups hold a launcher that does not end"))
}

/// How often a process is looked at that is on its way out, and what lies between.
const LOOKS: u32 = 50;
const LOOK: Duration = Duration::from_millis(10);

fn find_process(written: Identity, cgroup: Cgroup) -> io::Result<Result<LinuxProcess, Ended>> {
    let gone = unseen(&cgroup);
    // First the descriptor, then the look: what is looked at is what the descriptor holds.
    let pidfd = match PidFd::open(written.pid) {
        Ok(pidfd) => pidfd,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(Err(gone)),
        Err(error) => return Err(error),
    };
    match Identity::of(written.pid) {
        // An orphan's body may lie about until init sees to it.
        Ok(found) if found == written => {
            for _ in 0..LOOKS {
                let looked = body(written.pid).and_then(|body| Ok((body, is_ending(written.pid)?)));
                match looked {
                    Ok((Some(body), _)) => {
                        return Ok(Err(body.status.map_or(gone, |status| ended(status, &cgroup))));
                    }
                    Ok((None, false)) => break,
                    Ok((None, true)) => std::thread::sleep(LOOK),
                    // Reaped meanwhile.
                    Err(error) if is_gone(&error) => return Ok(Err(gone)),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(_) => return Ok(Err(gone)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err(gone)),
        Err(error) => return Err(error),
    }
    let mut process = LinuxProcess::unmeasured(written.pid, pidfd, cgroup).map_err(io::Error::other)?;
    // A guest that runs is not ended for want of a look at it.
    match Measured::of(written.pid) {
        Ok(Some(measured)) => process.enforcements = measured.enforcements(landlock::is_there()),
        Ok(None) => return Ok(Err(gone)),
        Err(error) => tracing::warn!(%error, pid = written.pid, "the zone can't be measured"),
    }
    Ok(Ok(process))
}

/// Whether a process is a launcher, or what a launcher has not made a hypervisor yet: told by what a hypervisor can't
/// change. Root's launchers are root, which no hypervisor is or becomes; those of other users are this program.
fn is_launcher(pid: i32) -> io::Result<bool> {
    let own = rustix::process::geteuid();
    if own.is_root() {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        return Ok(uids.is_some_and(|uids| uids.split_whitespace().all(|uid| uid == "0")));
    }
    let program = |process: &str| {
        let found = std::fs::metadata(format!("/proc/{process}/exe"))?;
        io::Result::Ok((found.dev(), found.ino()))
    };
    Ok(program(&pid.to_string())? == program("self")?)
}

/// How a process ended that nobody saw end.
fn unseen(cgroup: &Cgroup) -> Ended {
    if cgroup.was_out_of_memory() { Ended::OutOfMemory } else { Ended::Unseen }
}

#[async_trait]
impl Process for LinuxProcess {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn enforcements(&self) -> &[Enforcement] {
        &self.enforcements
    }

    fn limits(&self) -> &[LimitReport] {
        &self.limits
    }

    fn bound(&self, limits: &Limits) -> Vec<LimitReport> {
        self.cgroup.apply(limits)
    }

    async fn ended(&self) -> Ended {
        if let Some(ended) = self.ended.get() {
            return *ended;
        }
        let status = match self.pidfd.exited().await {
            Ok(None) => Ok(self.anothers_status().await),
            ours => ours,
        };
        let ended = match status {
            Ok(Some(status)) => ended(status, &self.cgroup),
            Ok(None) if self.cgroup.was_out_of_memory() => Ended::OutOfMemory,
            Ok(None) => Ended::Unseen,
            Err(error) => {
                tracing::error!(%error, pid = self.pid, "cannot wait for the hypervisor");
                Ended::Unseen
            }
        };
        self.hear_out().await;
        *self.ended.get_or_init(|| ended)
    }

    fn kill(&self) -> Result<(), ZoneError> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> Result<(), ZoneError> {
        match self.pidfd.signal(signal) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                Err(ZoneError::System { what: "signalling the hypervisor", source: error })
            }
            _ => Ok(()),
        }
    }
}
