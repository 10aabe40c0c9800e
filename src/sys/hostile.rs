//! One forbidden act at a time, done in earnest: what `zoneward probe` runs inside a zone.
//!
//! Each act is a system call (or two) that a guest which owns its hypervisor would try. It is done by
//! number, with no library between, in a process that exists for it alone.

use std::{ffi::CStr, io};

/// An argument of a system call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg {
    /// A number, a flag, a descriptor.
    Number(i64),
    /// A path or name.
    Text(&'static CStr),
    /// Zeroed memory.
    Zeroes,
    /// No memory.
    Null,
    /// The process id of the victim outside.
    Victim,
    /// The process's own id.
    Own,
}

/// Does it; gives what the kernel answered.
pub(crate) fn act(call: i64, arguments: &[Arg], victim: i32) -> io::Result<i64> {
    // Page sized, so that no call writes past it; leaked, because nothing is freed here any more.
    let zeroes: &'static mut [u8; 4096] = Box::leak(Box::new([0; 4096]));
    let mut raw: [i64; 6] = [0; 6];
    for (slot, argument) in raw.iter_mut().zip(arguments) {
        *slot = match argument {
            Arg::Number(number) => *number,
            Arg::Text(text) => text.as_ptr() as i64,
            Arg::Zeroes => zeroes.as_mut_ptr() as i64,
            Arg::Null => 0,
            Arg::Victim => victim.into(),
            Arg::Own => std::process::id().into(),
        };
    }
    let [a, b, c, d, e, f] = raw;
    // SAFETY: every pointer among the arguments is to memory that lives for ever and is large enough for
    // what these calls write; a call that makes a process without a stack of its own copies this one.
    let result = unsafe { libc::syscall(call, a, b, c, d, e, f) };
    let makes_process = [libc::SYS_clone, libc::SYS_clone3];
    #[cfg(target_arch = "x86_64")]
    let is_fork = call == libc::SYS_fork || call == libc::SYS_vfork || makes_process.contains(&call);
    #[cfg(not(target_arch = "x86_64"))]
    let is_fork = makes_process.contains(&call);
    if is_fork && result == 0 {
        // SAFETY: ends the process that should not have been; nothing is run in it.
        unsafe { libc::_exit(0) };
    }
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}
