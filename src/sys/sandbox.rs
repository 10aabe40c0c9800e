//! System calls of the launcher that no safe crate has.

use std::{
    convert::Infallible,
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    ptr,
};

/// Attributes of a mount; the kernel's `MOUNT_ATTR_*`.
pub(crate) const RDONLY: u64 = 1;
pub(crate) const NOSUID: u64 = 2;
pub(crate) const NODEV: u64 = 4;
pub(crate) const NOEXEC: u64 = 8;

fn done(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Sets attributes of a mount by its descriptor, and makes it private.
pub(crate) fn set_mount_attributes(mount: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attr = MountAttr { attr_set: attributes, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    // SAFETY: the structure has the kernel's layout (mount_setattr(2)) and outlives the call; the path
    // is empty and stands for the descriptor.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    done(result).map(drop)
}

/// Becomes that user and group, and a member of no other group.
pub(crate) fn become_user(uid: u32) -> io::Result<()> {
    // SAFETY: these take numbers only, and no list of groups.
    unsafe {
        done(libc::setgroups(0, ptr::null()).into())?;
        done(libc::setresgid(uid, uid, uid).into())?;
        done(libc::setresuid(uid, uid, uid).into()).map(drop)
    }
}

/// Moves this single-threaded process into new namespaces.
pub(crate) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: no memory is involved; that the process is single threaded is the caller's promise.
    done(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Moves this single-threaded process into another's namespaces; only its later children enter the pid
/// namespace.
pub(crate) fn enter_namespaces(process: &OwnedFd, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: takes a descriptor and flags; that the process is single threaded is the caller's promise.
    done(unsafe { libc::setns(process.as_raw_fd(), flags) }.into()).map(drop)
}

/// Removes every capability from the bounding set.
pub(crate) fn drop_bounding_set() -> io::Result<()> {
    for capability in 0..64 as libc::c_ulong {
        // SAFETY: takes numbers only.
        match done(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }.into()) {
            Ok(_) => {}
            // Beyond the kernel's last capability.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The kernel's version of Landlock; 0 when it has none.
pub(crate) fn landlock_abi() -> i64 {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the kernel takes a null pointer and only answers.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<u8>(), 0_usize, VERSION) }.max(0)
}

/// Becomes the program that a descriptor refers to. Returns only if that failed.
pub(crate) fn exec_descriptor(
    program: i32,
    arguments: &[CString],
    environment: &[CString],
) -> io::Result<Infallible> {
    let list = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
    };
    let (argv, envp) = (list(arguments), list(environment));
    // SAFETY: both lists end with a null pointer and point to strings that live until the call returns,
    // which it does only on failure; the path is empty and stands for the descriptor.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program,
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(io::Error::last_os_error())
}
