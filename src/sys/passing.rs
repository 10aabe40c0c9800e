//! System calls from a short-lived process.
//!
//! The peer of a UNIX socket may ask the kernel for a descriptor of the process that connected it or created
//! the pair (`SO_PEERPIDFD`). A hypervisor under a guest's control must not get the agent's, so another
//! process makes the call: one that shares the agent's memory and descriptors, and ends with the call.

#![allow(
    clippy::cast_possible_truncation,
    reason = "small constants of the kernel's, and sizes of its structures"
)]

use std::{
    ffi::c_void,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::{ffi::OsStrExt as _, net::UnixStream},
    },
    path::Path,
};

/// Bytes of the passing process's stack: for one system call.
const STACK: usize = 16 << 10;

/// One system call and its result.
struct Passing<'a> {
    call: &'a dyn Fn() -> libc::c_int,
    result: Result<(), i32>,
}

extern "C" fn pass(passing: *mut c_void) -> libc::c_int {
    // SAFETY: the pointer is to a `Passing` that outlives this process; its creator waits (CLONE_VFORK).
    let passing = unsafe { &mut *passing.cast::<Passing<'_>>() };
    passing.result = match (passing.call)() {
        -1 => Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)),
        _ => Ok(()),
    };
    0
}

/// Makes a system call in a passing process. The call must neither allocate nor panic.
fn in_passing(call: &dyn Fn() -> libc::c_int) -> io::Result<()> {
    let mut stack = vec![0_u8; STACK];
    let mut passing = Passing { call, result: Err(libc::EIO) };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES;
    // SAFETY: the stack grows down from its end, which is aligned here; it and `passing` outlive the new process, because
    // this thread goes on only when that has ended (CLONE_VFORK). The process makes one system call and ends.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(STACK);
        let top = top.sub(top.addr() % 16);
        libc::clone(pass, top.cast(), flags, (&raw mut passing).cast())
    };
    if pid == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: no status is asked for. The process sends no signal at its end, which __WALL stands for.
    while unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) } == -1
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
    passing.result.map_err(io::Error::from_raw_os_error)
}

/// Connects to a listening UNIX socket. The stream does not block.
pub(crate) fn connect_in_passing(path: &Path) -> io::Result<UnixStream> {
    // SAFETY: all-zero bytes are an address without a name.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in address.sun_path.iter_mut().zip(bytes) {
        *place = byte.cast_signed();
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes numbers only.
    let socket = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if socket == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let number = socket.as_raw_fd();
    let size = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: the address and its size are right, and it outlives the call.
    in_passing(&|| unsafe { libc::connect(number, (&raw const address).cast(), size) })?;
    Ok(socket.into())
}

/// Two streams that are connected to each other.
pub(crate) fn pair_in_passing() -> io::Result<(UnixStream, UnixStream)> {
    let pair = std::cell::Cell::new([-1 as RawFd; 2]);
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: there is room for two numbers. The descriptors are this process's as well (CLONE_FILES).
    in_passing(&|| unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_ptr().cast()) })?;
    // SAFETY: the kernel has just made them, and nobody else has them.
    let [one, other] = pair.get().map(|number| unsafe { OwnedFd::from_raw_fd(number) });
    Ok((one.into(), other.into()))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixListener,
    };

    use super::*;

    /// Who is said to be at the other end, and whether that process can be had.
    fn peer(socket: &UnixStream) -> (i32, bool) {
        let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut size = size_of::<libc::ucred>() as libc::socklen_t;
        let number = socket.as_raw_fd();
        // SAFETY: there is room for what is asked.
        unsafe {
            let into = (&raw mut credentials).cast();
            assert_eq!(libc::getsockopt(number, libc::SOL_SOCKET, libc::SO_PEERCRED, into, &raw mut size), 0);
        }
        let mut pidfd: RawFd = -1;
        let mut size = size_of::<RawFd>() as libc::socklen_t;
        // SAFETY: as above.
        let got =
            unsafe { libc::getsockopt(number, libc::SOL_SOCKET, 77, (&raw mut pidfd).cast(), &raw mut size) };
        let alive = got == 0 && {
            // SAFETY: the kernel has just made it; signal 0 does nothing.
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, 0, 0, 0) == 0 }
        };
        (credentials.pid, alive)
    }

    #[test]
    fn nobody_that_lives_is_at_the_other_end() {
        let own = i32::try_from(std::process::id()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let ours = connect_in_passing(&path).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        let (pid, alive) = peer(&theirs);
        assert!(pid != own && !alive, "{pid}");
        ours.set_nonblocking(false).unwrap();
        (&ours).write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        (&theirs).read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        assert!(
            matches!(connect_in_passing(&dir.path().join("none")), Err(error) if error.kind() == io::ErrorKind::NotFound)
        );

        let (one, other) = pair_in_passing().unwrap();
        for end in [&one, &other] {
            let (pid, alive) = peer(end);
            assert!(pid != own && !alive, "{pid}");
        }
        (&one).write_all(b"x").unwrap();
        (&other).read_exact(&mut heard[..1]).unwrap();
        let (plain, _other) = UnixStream::pair().unwrap();
        assert_eq!(peer(&plain).0, own, "what this is good for");
    }
}
