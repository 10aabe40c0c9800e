//! Processes by descriptor, so that a reused process id is never mistaken for ours.

use std::{io, os::fd::OwnedFd};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::io::{Interest, unix::AsyncFd};

/// A process that was alive when this was made.
#[derive(Debug)]
pub(crate) struct PidFd {
    fd: AsyncFd<OwnedFd>,
}

impl PidFd {
    /// Takes a descriptor from `clone3` or [`Self::open`]. Needs a runtime.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned by the AsyncFd, which nobody gets out again, so it stays
        // open and the same for as long as it is registered.
        let fd =
            unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)?;
        Ok(Self { fd })
    }

    /// A descriptor of a process by its id. The caller must check afterwards that it is the one meant.
    pub(crate) fn open(pid: i32) -> io::Result<OwnedFd> {
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
    }

    /// Sends a signal; an error when the process is gone.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::pidfd_send_signal(self.fd.get_ref(), signal)?)
    }

    /// Waits for the end of the process and reaps it. `None` when it is not our child, so that its
    /// status went to another.
    pub(crate) async fn exited(&self) -> io::Result<Option<rustix::process::WaitIdStatus>> {
        let _ready = self.fd.readable().await?;
        match rustix::process::waitid(
            WaitId::PidFd(std::os::fd::AsFd::as_fd(self.fd.get_ref())),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        ) {
            Ok(status) => Ok(status),
            Err(rustix::io::Errno::CHILD) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
