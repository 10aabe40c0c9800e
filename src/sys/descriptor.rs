//! Descriptors by number, as a re-executed program finds them.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd, OwnedFd, RawFd},
};

/// Takes a descriptor that this program inherited. Only for numbers that the parent passed and nobody took
/// yet.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl takes any number and only looks.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and by this function's contract owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Marks everything close-on-exec but 0, 1, 2 and `keep`.
pub(crate) fn close_on_exec_except(keep: &[RawFd]) -> io::Result<()> {
    let mut kept: Vec<u32> = keep.iter().chain(&[0, 1, 2]).filter_map(|n| u32::try_from(*n).ok()).collect();
    kept.sort_unstable();
    kept.dedup();
    let mut from = 0;
    for number in kept {
        if number > from {
            mark(from, number - 1)?;
        }
        from = number + 1;
    }
    mark(from, u32::MAX)
}

fn mark(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed; only flags change.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Duplicates another process's descriptor: the same open file.
pub(crate) fn descriptor_of(process: &OwnedFd, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let got = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    let got = RawFd::try_from(got).map_err(io::Error::other)?;
    if got == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(got) })
}
