//! A hypervisor's process on Linux: measured when it starts, found again by its record.

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
    /// Reaping yields the status only once; later calls read it here.
    ended: OnceLock<Ended>,
    /// The logger of its output, and the VM's layout.
    heard: Option<(Logger, VmLayout)>,
}

impl LinuxProcess {
    /// Wraps a process that may end before it can be measured.
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
            // The process has ended: its waiter learns why, and it can no longer act.
            Ok(None) => Vec::new(),
            Err(error) => {
                let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
                let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
                return Err(error);
            }
        };
        Ok(Self { enforcements, ..Self::unmeasured(pid, pidfd, cgroup)? })
    }

    /// Blocks until it has ended, and reaps it.
    pub(super) fn reap(&self) {
        self.pidfd.reap();
    }

    /// Adds the report of its limits.
    pub(super) fn within(self, limits: Vec<LimitReport>) -> Self {
        Self { limits, ..self }
    }

    /// Adds the logger of its output.
    pub(super) fn heard_by(self, logger: &Logger, layout: &VmLayout) -> Self {
        Self { heard: Some((logger.clone(), layout.clone())), ..self }
    }

    /// Waits until its last output is in its logs.
    async fn hear_out(&self) {
        let Some((logger, layout)) = self.heard.clone() else { return };
        let settled = tokio::task::spawn_blocking(move || logger.settle(&layout)).await;
        if let Ok(Err(error)) = settled {
            tracing::warn!(%error, pid = self.pid, "the last output may be missing");
        }
    }

    /// Returns the status of a process that an earlier agent started: from its zombie while that is not
    /// reaped, else from the kernel's record.
    async fn anothers_status(&self) -> Option<ExitStatus> {
        let body = body(self.pid).ok().flatten();
        // The pid was still its own if the descriptor still refers to it. A signal does nothing to a zombie.
        let its_own = self.pidfd.signal(Signal::CONT).is_ok();
        match body.and_then(|body| body.status).filter(|_| its_own) {
            Some(status) => Some(status),
            None => self.pidfd.reaped().await,
        }
    }
}

/// Interprets the exit status of a process.
fn ended(status: ExitStatus, cgroup: &Cgroup) -> Ended {
    match status {
        ExitStatus::Code(code) => Ended::Code(code),
        ExitStatus::Signal(libc::SIGKILL) if cgroup.was_out_of_memory() => Ended::OutOfMemory,
        ExitStatus::Signal(signal) => Ended::Signal(signal),
    }
}

/// Finds the process that the run folder names, if it still lives; else returns how it ended.
pub(super) fn find(layout: &VmLayout) -> io::Result<Result<LinuxProcess, Ended>> {
    let cgroup = Cgroup::read(&layout.cgroup())?;
    match Identity::read(&layout.process())? {
        Some(written) if written.boot_id == boot_id()? => find_process(written, cgroup),
        _ => Ok(Err(unseen(&cgroup))),
    }
}

/// Finds the process in the VM's control groups: a zone has only one, besides an unfinished launcher, which
/// ends with its agent. `None` when there are no groups.
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
                // The process has just ended.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        std::thread::sleep(LOOK);
    }
    Err(io::Error::other("its control groups hold a launcher that does not end"))
}

/// Checks of a process that is ending, and the interval between them.
const LOOKS: u32 = 50;
const LOOK: Duration = Duration::from_millis(10);

fn find_process(written: Identity, cgroup: Cgroup) -> io::Result<Result<LinuxProcess, Ended>> {
    let gone = unseen(&cgroup);
    // Opened before the check, so that the check is of the process that the descriptor holds.
    let pidfd = match PidFd::open(written.pid) {
        Ok(pidfd) => pidfd,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(Err(gone)),
        Err(error) => return Err(error),
    };
    match Identity::of(written.pid) {
        // An orphan may stay a zombie until init reaps it.
        Ok(found) if found == written => {
            for _ in 0..LOOKS {
                let looked = body(written.pid).and_then(|body| Ok((body, is_ending(written.pid)?)));
                match looked {
                    Ok((Some(body), _)) => {
                        return Ok(Err(body.status.map_or(gone, |status| ended(status, &cgroup))));
                    }
                    Ok((None, false)) => break,
                    Ok((None, true)) => std::thread::sleep(LOOK),
                    // It was just reaped.
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
    // A running guest is not killed because it can't be measured.
    match Measured::of(written.pid) {
        Ok(Some(measured)) => process.enforcements = measured.enforcements(landlock::is_there()),
        Ok(None) => return Ok(Err(gone)),
        Err(error) => tracing::warn!(%error, pid = written.pid, "the zone can't be measured"),
    }
    Ok(Ok(process))
}

/// Whether a process is a launcher, or its child before the exec: decided by what a hypervisor can't change.
/// Root's launchers run as root, which no hypervisor is or becomes; those of other users run this program.
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

/// Returns how an unobserved process ended.
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
