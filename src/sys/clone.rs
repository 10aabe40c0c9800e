//! Creates the hypervisor's process.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

/// Which of the two processes this is.
#[derive(Debug)]
pub(crate) enum Side {
    /// The caller; the other process and a descriptor of it.
    Caller {
        /// Process id in the caller's pid namespace.
        pid: i32,
        /// Refers to the process even if its id is reused.
        pidfd: OwnedFd,
    },
    /// The new process.
    New,
}

/// `CLONE_INTO_CGROUP`, which does not fit libc's type for flags.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Creates a sibling of the caller, a child of the caller's parent; it starts in `cgroup`.
///
/// Only for a single-threaded caller: the new process goes on with a copy of its memory, in which
/// a lock that another thread held would stay locked.
pub(crate) fn clone_beside(flags: u64, cgroup: Option<&OwnedFd>) -> io::Result<Side> {
    let mut pidfd: RawFd = -1;
    let into = if cgroup.is_some() { INTO_CGROUP } else { 0 };
    // CLONE_PARENT takes the exit signal from the caller, so it must be 0 here.
    let mut arguments = libc::clone_args {
        flags: flags | (libc::CLONE_PARENT | libc::CLONE_PIDFD) as u64 | into,
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: 0,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |cgroup| u64::from(cgroup.as_raw_fd().unsigned_abs())),
    };
    // SAFETY: without CLONE_VM the new process has its own copy of memory and stack, as after fork;
    // `arguments` and `pidfd` outlive the call. The caller is single threaded (documented above).
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::New),
        pid => {
            let pid = i32::try_from(pid).map_err(io::Error::other)?;
            // SAFETY: the kernel has just put a new descriptor there (CLONE_PIDFD), owned by nobody.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Side::Caller { pid, pidfd })
        }
    }
}
