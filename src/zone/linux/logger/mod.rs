//! The way of a hypervisor's output into its logs: pipes that a process of the host's own empties.
//!
//! ```text
//!   hypervisor ──▶ out/console.log (a pipe) ────┐            ┌──▶ console.log
//!              ──▶ out/hypervisor.log (a pipe) ─┴─▶ logger ──┴──▶ hypervisor.log
//!                                                     ▲
//!   agent ── carry, settle (over logger.sock) ────────┘
//! ```
//!
//! A hypervisor in a guest's hands could do to a file what it likes: take the host's disk with it, cut it, write it
//! again. A pipe it can only fill. The logger is one for all VMs of an agent, and no part of the agent: it outlives it,
//! so that no guest waits and no byte is lost while there is none. It ends when it has neither an agent nor a pipe.
//! Bytes go from pipe to file inside the kernel (splice), so that it may be killed at any instruction, too: what it had
//! not carried is still in the pipe, which the hypervisor holds at both ends. A pipe that nobody empties holds 1 MiB;
//! then the guest waits. What may be lost is what a pipe holds whose hypervisor and logger both end.

mod pipe;
pub(crate) mod serve;

use std::{
    collections::HashMap,
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::{
    fs::{CWD, Mode},
    net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt},
};
use serde::{Deserialize, Serialize};

use crate::{
    layout::{VmLayout, short_socket_name},
    logfile::MESSAGES,
};

/// The hidden subcommand that makes this program the logger.
pub const SUBCOMMAND: &str = "zone-logger";
/// Where the logger finds the socket that it serves.
const SOCKET: i32 = 3;
/// Bytes that a pipe holds; more than a user may have is no error.
const PIPE: usize = 1 << 20;
/// How long the logger may take for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest message.
const MAX_MESSAGE: usize = 16 << 10;

/// What an agent asks of the logger.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Request {
    /// From now on, empty these pipes.
    Carry(Vec<Way>),
    /// Answer when what is in these pipes now is in their logs.
    Settle(Vec<PathBuf>),
}

/// From a pipe to a log.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Way {
    pipe: PathBuf,
    log: PathBuf,
    /// Bytes of the log that are kept.
    keep: u64,
}

/// What it answers: nothing, or what went wrong.
#[derive(Debug, Serialize, Deserialize)]
struct Reply(Option<String>);

/// The hypervisor's ends.
#[derive(Debug)]
pub(super) struct Outputs {
    pub(super) output: File,
    pub(super) errors: File,
}

/// The agent's side.
#[derive(Clone, Debug)]
pub(super) struct Logger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    socket: PathBuf,
    /// Bytes of a console's output that are kept.
    keep: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<OwnedFd>,
    /// What another logger has to be told, should this one end.
    carried: HashMap<PathBuf, Vec<Way>>,
}

impl Logger {
    pub(super) fn new(run: &Path, keep: u64) -> Self {
        let socket = run.join("logger.sock");
        Self { inner: Arc::new(Inner { socket, keep, state: Mutex::default() }) }
    }

    /// Makes the pipes of a hypervisor that is about to be, and lets them be emptied.
    pub(super) fn open(&self, layout: &VmLayout) -> io::Result<Outputs> {
        let pipes = [layout.console_pipe(), layout.errors_pipe()];
        if let Some(folder) = pipes[0].parent() {
            DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
        }
        let [output, errors] = pipes.map(|pipe| make_pipe(&pipe));
        let outputs = Outputs { output: output?, errors: errors? };
        // A hypervisor must not wait with its own words for whoever reads them.
        rustix::io::ioctl_fionbio(&outputs.errors, true)?;
        self.carry(layout)?;
        Ok(outputs)
    }

    /// Lets the pipes of a hypervisor be emptied, if it runs. May be repeated.
    pub(super) fn carry(&self, layout: &VmLayout) -> io::Result<()> {
        let keep = self.inner.keep;
        let ways = vec![
            Way { pipe: layout.console_pipe(), log: layout.console_log(), keep },
            Way { pipe: layout.errors_pipe(), log: layout.hypervisor_log(), keep: MESSAGES },
        ];
        // An earlier agent gave its hypervisors the logs themselves.
        if !ways[0].pipe.exists() {
            return Ok(());
        }
        let mut state = self.lock();
        state.carried.insert(layout.run().to_owned(), ways.clone());
        self.ask(&mut state, &Request::Carry(ways))
    }

    /// Waits until everything that a hypervisor said so far is in its logs.
    pub(super) fn settle(&self, layout: &VmLayout) -> io::Result<()> {
        let mut state = self.lock();
        if !layout.console_pipe().exists() {
            return Ok(());
        }
        self.ask(&mut state, &Request::Settle(vec![layout.console_pipe(), layout.errors_pipe()]))
    }

    /// Its hypervisor is gone, and so are its pipes.
    pub(super) fn forget(&self, layout: &VmLayout) {
        self.lock().carried.remove(layout.run());
        if let Some(folder) = layout.console_pipe().parent() {
            let _ = std::fs::remove_dir_all(folder);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the logger that runs; one that ended is followed by another.
    fn ask(&self, state: &mut State, request: &Request) -> io::Result<()> {
        for _ in 0..2 {
            let connection = match &state.connection {
                Some(connection) => connection,
                None => self.connect(state)?,
            };
            match exchange(connection, request) {
                Ok(Reply(None)) => return Ok(()),
                Ok(Reply(Some(why))) => return Err(io::Error::other(why)),
                Err(error) if is_gone(&error) => state.connection = None,
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("the logger ends again and again"))
    }

    /// Connects to a logger; to a new one where there is none, which is told of everything.
    fn connect<'s>(&self, state: &'s mut State) -> io::Result<&'s OwnedFd> {
        let (connection, child) = match connect(&self.inner.socket) {
            Ok(connection) => (connection, None),
            Err(_) => {
                let child = self.spawn()?;
                (connect(&self.inner.socket)?, Some(child))
            }
        };
        if child.is_some() {
            for ways in state.carried.values() {
                exchange(&connection, &Request::Carry(ways.clone()))?;
            }
        }
        self.watch(child)?;
        Ok(state.connection.insert(connection))
    }

    /// Starts a logger on a socket that already exists.
    fn spawn(&self) -> io::Result<Child> {
        let path = &self.inner.socket;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        let (_folder, name) = short_socket_name(path)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&name)?)?;
        rustix::net::listen(&socket, 16)?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(SUBCOMMAND)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
            .fd_mappings(vec![FdMapping { parent_fd: socket, child_fd: SOCKET }])
            .map_err(io::Error::other)?;
        command.spawn()
    }

    /// Starts another logger as soon as this one ends: no guest waits for the next call.
    fn watch(&self, child: Option<Child>) -> io::Result<()> {
        let idle = connect(&self.inner.socket)?;
        let inner = Arc::downgrade(&self.inner);
        let wait = move || {
            // It never says anything here; the end is all that there is to hear.
            let _ = rustix::net::recv(&idle, &mut [0; 1], RecvFlags::empty());
            if let Some(mut child) = child {
                let _ = child.wait();
            }
            let Some(logger) = inner.upgrade().map(|inner| Self { inner }) else { return };
            let mut state = logger.lock();
            state.connection = None;
            if let Err(error) = logger.ask(&mut state, &Request::Carry(Vec::new())) {
                tracing::error!(%error, "there is no logger; guests wait that print much");
            }
        };
        std::thread::Builder::new().name("logger-watch".to_owned()).stack_size(64 << 10).spawn(wait).map(drop)
    }
}

/// A pipe with a name, open at both ends: for as long as the hypervisor exists nothing in it is lost.
pub(super) fn make_pipe(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    rustix::fs::mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR)?;
    let pipe = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let _ = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE);
    Ok(pipe)
}

fn connect(socket: &Path) -> io::Result<OwnedFd> {
    let connection =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&connection, sockopt::Timeout::Send, Some(PATIENCE))?;
    let (_folder, name) = short_socket_name(socket)?;
    rustix::net::connect(&connection, &SocketAddrUnix::new(&name)?)?;
    Ok(connection)
}

fn exchange(connection: &OwnedFd, request: &Request) -> io::Result<Reply> {
    sockopt::set_socket_timeout(connection, sockopt::Timeout::Recv, Some(PATIENCE))?;
    rustix::net::send(connection.as_fd(), &serde_json::to_vec(request)?, SendFlags::NOSIGNAL)?;
    let mut buffer = vec![0; MAX_MESSAGE];
    let (got, _) = rustix::net::recv(connection.as_fd(), &mut buffer[..], RecvFlags::empty())?;
    if got == 0 {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(serde_json::from_slice(&buffer[..got])?)
}

/// Whether the logger at the other end is no more.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
