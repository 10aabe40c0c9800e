//! Performs one forbidden act at a time, for real: `zoneward probe` runs this inside a zone.
//!
//! Each act is a system call (or two) that a guest which owns its hypervisor would try. It is called by
//! number, without a library, in a process of its own.

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
    /// Memory that holds the number 4: a size, and where the kernel writes one.
    Four,
    /// No memory.
    Null,
    /// The process id of the victim outside.
    Victim,
    /// The process's own id.
    Own,
    /// One byte of its own memory, as a vector.
    OwnByte,
    /// One byte of the victim's stack, as a vector.
    VictimByte,
    /// The path of another VM's disk on the host.
    Disk,
}

/// The act's targets outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aim<'a> {
    /// A process.
    pub(crate) victim: i32,
    /// An address of its stack.
    pub(crate) address: u64,
    /// A file.
    pub(crate) disk: &'a CStr,
}

/// Performs the call; returns the kernel's result.
pub(crate) fn act(call: i64, arguments: &[Arg], target: &Aim<'_>) -> io::Result<i64> {
    // Page sized, so that no call writes past it; leaked, because nothing is freed here from now on.
    let zeroes: &'static mut [u8; 4096] = Box::leak(Box::new([0; 4096]));
    let vector = |address: u64| Box::leak(Box::new([address, 1])).as_ptr() as i64;
    let mut raw: [i64; 6] = [0; 6];
    for (slot, argument) in raw.iter_mut().zip(arguments) {
        *slot = match argument {
            Arg::Number(number) => *number,
            Arg::Text(text) => text.as_ptr() as i64,
            Arg::Zeroes => zeroes.as_mut_ptr() as i64,
            Arg::Four => Box::leak(Box::new([4_i32, 0])).as_mut_ptr() as i64,
            Arg::Null => 0,
            Arg::Victim => target.victim.into(),
            Arg::OwnByte => vector(zeroes.as_ptr() as u64),
            Arg::VictimByte => vector(target.address),
            Arg::Disk => target.disk.as_ptr() as i64,
            Arg::Own => std::process::id().into(),
        };
    }
    if makes_process(call) {
        return make_process(call, raw);
    }
    let [a, b, c, d, e, f] = raw;
    // SAFETY: every pointer among the arguments is to memory that lives for ever and is large enough for
    // what these calls write.
    let result = unsafe { libc::syscall(call, a, b, c, d, e, f) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

fn makes_process(call: i64) -> bool {
    #[cfg(target_arch = "x86_64")]
    let old = call == libc::SYS_fork || call == libc::SYS_vfork;
    #[cfg(not(target_arch = "x86_64"))]
    let old = false;
    old || call == libc::SYS_clone || call == libc::SYS_clone3
}

/// Creates a process that exits at once. It may share this one's memory and stack, so it must not touch them:
/// its only instructions are its exit.
fn make_process(call: i64, [a, b, c, d, e, _]: [i64; 6]) -> io::Result<i64> {
    let result: i64;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel keeps all registers but those that are named; the new process never leaves this
    // block, and uses registers only.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov eax, 60",
            "xor edi, edi",
            "syscall",
            "2:",
            inlateout("rax") call => result,
            inlateout("rdi") a => _,
            in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x8, 93",
            "svc 0",
            "2:",
            in("x8") call, inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e,
        );
    }
    match i32::try_from(result) {
        Ok(error @ ..=-1) => Err(io::Error::from_raw_os_error(-error)),
        _ => Ok(result),
    }
}
