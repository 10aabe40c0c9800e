//! Acts that take more than one system call.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixStream},
    },
};

use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};

use crate::sys;

/// The targets outside of the zone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Target {
    /// A process of the zone's own user, so that no ordinary permission protects it.
    pub(super) victim: i32,
    /// An address of its stack.
    pub(super) address: u64,
    /// Another VM's disk, open to everybody.
    pub(super) disk: CString,
    /// The name of an abstract UNIX socket.
    pub(super) socket: String,
}

/// Four times the zone's limit.
const BOMB_BYTES: usize = 256 << 20;
/// Several times the zone's limit.
const BOMB_THREADS: usize = 400;

pub(super) fn connect_to_abstract_socket(target: &Target) -> io::Result<()> {
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(&target.socket)?).map(drop)
}

/// Runs a program from no file system: `memfd_create` and `fexecve`.
pub(super) fn run_from_memory(_target: &Target) -> io::Result<()> {
    let mut program = Vec::new();
    File::open("/usr/bin/echo")?.read_to_end(&mut program)?;
    let mut memory = File::from(rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC)?);
    memory.write_all(&program)?;
    let word = |text: &str| CString::new(text).map_err(io::Error::other);
    match sys::exec_descriptor(memory.as_raw_fd(), &[word("echo")?, word("succeeded")?], &[])? {}
}

/// Is killed by the kernel where there is a limit.
pub(super) fn memory_bomb(_target: &Target) -> io::Result<()> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(BOMB_BYTES).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
    memory.resize(BOMB_BYTES, 1_u8);
    std::hint::black_box(&memory);
    Ok(())
}

/// Creates threads that wait until the last exists.
pub(super) fn thread_bomb(_target: &Target) -> io::Result<()> {
    let (hold, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
    let mut threads = Vec::new();
    let mut make = || -> io::Result<()> {
        for _ in 0..BOMB_THREADS {
            let wait = wait.clone();
            let idle = move || drop(wait.lock().map(|wait| wait.recv()));
            threads.push(std::thread::Builder::new().stack_size(16 << 10).spawn(idle)?);
        }
        Ok(())
    };
    let result = make();
    drop(hold);
    result
}
