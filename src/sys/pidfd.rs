//! Processes by descriptor, so that a reused process id is never mistaken for ours.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::io::{Interest, unix::AsyncFd};

/// How long to wait for another's dead child to be reaped: some hosts' init is slow.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// A process that was alive when this was made.
#[derive(Debug)]
pub(crate) struct PidFd {
    fd: AsyncFd<OwnedFd>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    Code(i32),
    Signal(i32),
}

impl ExitStatus {
    /// Decodes a `wait(2)` status.
    pub(crate) fn from_wait(status: i32) -> Self {
        match libc::WIFSIGNALED(status) {
            true => Self::Signal(libc::WTERMSIG(status)),
            false => Self::Code(libc::WEXITSTATUS(status)),
        }
    }
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

    /// Opens a descriptor of a process by id. The caller must check afterwards that it is the right one.
    pub(crate) fn open(pid: i32) -> io::Result<OwnedFd> {
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
    }

    /// Blocks until a child has ended, and reaps it unless somebody has.
    pub(crate) fn reap(&self) {
        use std::os::fd::AsFd as _;
        let _ = rustix::process::waitid(WaitId::PidFd(self.fd.get_ref().as_fd()), WaitIdOptions::EXITED);
    }

    /// Sends a signal; fails when the process is gone.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::pidfd_send_signal(self.fd.get_ref(), signal)?)
    }

    /// Waits for the end of the process, and reaps it if it is our child; `None` when it is another's.
    pub(crate) async fn exited(&self) -> io::Result<Option<ExitStatus>> {
        let _ready = self.fd.readable().await?;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match rustix::process::waitid(WaitId::PidFd(self.fd.get_ref().as_fd()), options) {
            Ok(status) => Ok(status.and_then(|status| match status.exit_status() {
                Some(code) => Some(ExitStatus::Code(code)),
                None => status.terminating_signal().map(ExitStatus::Signal),
            })),
            Err(rustix::io::Errno::CHILD) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the status of a process that another has reaped; `None` where the kernel hides it (before
    /// Linux 6.15).
    pub(crate) async fn reaped(&self) -> Option<ExitStatus> {
        // Polled, because readiness that a dropped future has cleared would be lost for the next one.
        for _ in 0..LOOKS {
            match exit_status(self.fd.get_ref().as_fd()) {
                Ok(None) => tokio::time::sleep(BETWEEN_LOOKS).await,
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
        None
    }
}

/// Returns the kernel's record of a reaped process; `None` before that.
fn exit_status(pidfd: BorrowedFd<'_>) -> io::Result<Option<ExitStatus>> {
    /// The kernel's `struct pidfd_info` in its first version.
    #[repr(C)]
    #[derive(Default)]
    struct PidfdInfo {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const EXIT: u64 = 1 << 3;
    const GET_INFO: libc::Ioctl = libc::_IOWR::<PidfdInfo>(0xff, 11);
    let mut info = PidfdInfo { mask: EXIT, ..PidfdInfo::default() };
    // SAFETY: the structure has the kernel's layout and the size that is in the request's number, and outlives
    // the call.
    if unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut info) } == -1 {
        // Also from a kernel that no longer finds the process, and does not keep the status.
        return Err(io::Error::last_os_error());
    }
    Ok((info.mask & EXIT != 0).then(|| ExitStatus::from_wait(info.exit_code)))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    async fn status_of(script: &str) -> Option<ExitStatus> {
        // A grandchild: its parent is not us, and waits for it.
        let mut shell = Command::new("sh")
            .args(["-c", &format!("read line; ({script}) & echo $!; wait")])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = shell.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, b"go\n").unwrap();
        let mut line = String::new();
        let mut output = std::io::BufReader::new(shell.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        let pidfd = PidFd::new(PidFd::open(line.trim().parse().unwrap()).unwrap()).unwrap();
        assert_eq!(pidfd.exited().await.unwrap(), None);
        let status = pidfd.reaped().await;
        shell.wait().unwrap();
        status
    }

    #[tokio::test]
    async fn the_status_of_anothers_child_is_known_where_the_kernel_keeps_it() {
        let code = status_of("sleep 0.2; exit 7").await;
        let signal = status_of("sleep 0.2; kill -9 $(sh -c 'echo $PPID')").await;
        let known = [Some(ExitStatus::Code(7)), Some(ExitStatus::Signal(9))];
        assert!([code, signal] == known || [code, signal] == [None, None], "{code:?} {signal:?}");
    }
}
