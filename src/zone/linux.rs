//! Zones on Linux.

use std::{
    fs::File,
    io::{self, IoSliceMut, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use command_fds::{CommandFdExt as _, FdMapping};
use rustix::{
    fs::MemfdFlags,
    net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType},
    process::{Signal, WaitId, WaitIdOptions},
};
use uuid::Uuid;

use super::{
    Ended, Found, Launch, Process, Zone, ZoneError,
    identity::{Identity, boot_id},
    launcher::{ORDERS, Orders, REPORT, SUBCOMMAND},
};
use crate::{layout::VmLayout, sys::PidFd};

/// Makes zones with the launcher.
#[derive(Debug)]
pub struct LinuxZone {
    /// The program that is the launcher: the agent's own, whatever lies at its path meanwhile.
    launcher: PathBuf,
}

impl LinuxZone {
    /// Zones made by this program.
    #[must_use]
    pub fn new() -> Self {
        Self { launcher: "/proc/self/exe".into() }
    }
}

impl Default for LinuxZone {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Zone for LinuxZone {
    async fn spawn(&self, layout: &VmLayout, launch: Launch) -> Result<Arc<dyn Process>, ZoneError> {
        let launcher = self.launcher.clone();
        let process = layout.process();
        let (pid, pidfd) = tokio::task::spawn_blocking(move || spawn(&launcher, process, launch))
            .await
            .map_err(|error| ZoneError::Launcher(error.to_string()))??;
        let process = LinuxProcess::new(pid, pidfd).map_err(ZoneError::at("watching the process"))?;
        Ok(Arc::new(process))
    }

    fn find(&self, _uuid: Uuid, layout: &VmLayout) -> Found {
        match find(layout) {
            Ok(Some(process)) => Found::Alive(Arc::new(process)),
            Ok(None) => Found::Gone,
            Err(error) => Found::Unknown(error.to_string()),
        }
    }

    fn forget(&self, _uuid: Uuid, layout: &VmLayout) {
        if let Err(error) = std::fs::remove_file(layout.process())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %layout.process().display(), "cannot remove");
        }
    }
}

fn spawn(launcher: &PathBuf, process: PathBuf, launch: Launch) -> Result<(i32, OwnedFd), ZoneError> {
    let orders = Orders {
        program: launch.program,
        arguments: launch.arguments,
        keep: launch.descriptors.iter().map(|(_, number)| *number).collect(),
        process,
    };
    let mut file = File::from(
        rustix::fs::memfd_create("zone-orders", MemfdFlags::CLOEXEC).map_err(ZoneError::at("memfd"))?,
    );
    let text = serde_json::to_vec(&orders).map_err(ZoneError::at("writing the orders"))?;
    file.write_all(&text).map_err(ZoneError::at("writing the orders"))?;
    let (report, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(ZoneError::at("socketpair"))?;

    let mut mappings = vec![
        FdMapping { parent_fd: file.into(), child_fd: ORDERS },
        FdMapping { parent_fd: theirs, child_fd: REPORT },
    ];
    mappings.extend(
        launch.descriptors.into_iter().map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }),
    );
    let mut command = Command::new(launcher);
    command
        .arg(SUBCOMMAND)
        .env_clear()
        .stdin(Stdio::from(launch.input))
        .stdout(Stdio::from(launch.output))
        .stderr(Stdio::from(launch.errors));
    command.fd_mappings(mappings).map_err(|error| ZoneError::Launcher(error.to_string()))?;
    let mut child = command.spawn().map_err(ZoneError::at("starting the launcher"))?;
    // Closes our copies of the launcher's descriptors, so that the report ends when it does.
    drop(command);

    let report = read_report(&report);
    let status = child.wait().map_err(ZoneError::at("waiting for the launcher"))?;
    match report? {
        Some(made) => Ok(made),
        None => Err(ZoneError::Launcher(format!("it said nothing ({status})"))),
    }
}

/// Reads until the end of file, which is when the hypervisor's exec closed the last copy.
fn read_report(report: &OwnedFd) -> Result<Option<(i32, OwnedFd)>, ZoneError> {
    let mut made = None;
    let mut failure = None;
    loop {
        let mut buffer = vec![0; 4096];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            report,
            &mut [IoSliceMut::new(&mut buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
        .map_err(ZoneError::at("reading the launcher's report"))?;
        if received.bytes == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&buffer[1..received.bytes]).into_owned();
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        match (buffer[0], text.parse(), descriptor) {
            (b'P', Ok(pid), Some(pidfd)) => made = Some((pid, pidfd)),
            _ => failure = Some(text),
        }
    }
    let Some(text) = failure else { return Ok(made) };
    // The process that could not exec is our child: take it off the list of the dead.
    if let Some((_, pidfd)) = &made {
        let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    }
    Err(ZoneError::Launcher(text))
}

/// The process that `process.json` names, if it is still that one.
fn find(layout: &VmLayout) -> io::Result<Option<LinuxProcess>> {
    let Some(written) = Identity::read(&layout.process())? else { return Ok(None) };
    if written.boot_id != boot_id()? {
        return Ok(None);
    }
    // First the descriptor, then the look: what is looked at is what the descriptor holds.
    let pidfd = match PidFd::open(written.pid) {
        Ok(pidfd) => pidfd,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    match Identity::of(written.pid) {
        Ok(found) if found == written => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    LinuxProcess::new(written.pid, pidfd).map(Some)
}

#[derive(Debug)]
struct LinuxProcess {
    pid: i32,
    pidfd: PidFd,
    /// Reaping gives the status once; whoever asks later gets it from here.
    ended: OnceLock<Ended>,
}

impl LinuxProcess {
    fn new(pid: i32, pidfd: OwnedFd) -> io::Result<Self> {
        Ok(Self { pid, pidfd: PidFd::new(pidfd)?, ended: OnceLock::new() })
    }
}

#[async_trait]
impl Process for LinuxProcess {
    fn pid(&self) -> i32 {
        self.pid
    }

    async fn ended(&self) -> Ended {
        let ended = match self.pidfd.exited().await {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Ended::Code(code),
                (_, Some(signal)) => Ended::Signal(signal),
                _ => Ended::Unseen,
            },
            Ok(None) => Ended::Unseen,
            Err(error) => {
                tracing::error!(%error, pid = self.pid, "cannot wait for the hypervisor");
                Ended::Unseen
            }
        };
        *self.ended.get_or_init(|| ended)
    }

    fn kill(&self) -> Result<(), ZoneError> {
        match self.pidfd.signal(Signal::KILL) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                Err(ZoneError::System { what: "killing the hypervisor", source: error })
            }
            _ => Ok(()),
        }
    }
}
