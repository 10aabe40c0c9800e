//! How a hypervisor's output reaches its logs: through pipes that a separate host process drains.
//!
//! ```text
//!   hypervisor ──▶ out/console.log (a pipe) ────┐            ┌──▶ console.log
//!              ──▶ out/hypervisor.log (a pipe) ─┴─▶ logger ──┴──▶ hypervisor.log
//!                                                     ▲
//!   agent ── carry, settle (over logger.sock) ────────┘
//! ```
//!
//! A hypervisor under a guest's control could misuse a file: fill the host's disk, truncate it, overwrite it.
//! A pipe it can only fill. One logger serves all VMs of an agent but is not part of it: it outlives the
//! agent, so that no guest waits and no byte is lost while no agent runs. It exits when it has neither an
//! agent nor a pipe. The kernel moves the bytes from pipe to file (splice), so that the logger, too, may be
//! killed at any instruction: the rest stays in the pipe, which the hypervisor holds at both ends. A pipe
//! that nobody drains holds 1 MiB; then the guest waits. Only the content of a pipe whose hypervisor and
//! logger both end may be lost.

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
/// Descriptor of the logger's listening socket.
const SOCKET: i32 = 3;
/// Bytes that a pipe holds; exceeding the user's limit is no error.
const PIPE: usize = 1 << 20;
/// Time limit of the logger's reply.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest message.
const MAX_MESSAGE: usize = 16 << 10;

/// An agent's request to the logger.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Request {
    /// Drain these pipes from now on.
    Carry(Vec<Way>),
    /// Reply when the present content of these pipes is in their logs.
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

/// The reply: nothing, or an error.
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
    /// Requests to repeat to the next logger, should this one end.
    carried: HashMap<PathBuf, Vec<Way>>,
}

impl Logger {
    pub(super) fn new(run: &Path, keep: u64) -> Self {
        let socket = run.join("logger.sock");
        Self { inner: Arc::new(Inner { socket, keep, state: Mutex::default() }) }
    }

    /// Creates the pipes of a new hypervisor, and has them drained.
    pub(super) fn open(&self, layout: &VmLayout) -> io::Result<Outputs> {
        let pipes = [layout.console_pipe(), layout.errors_pipe()];
        if let Some(folder) = pipes[0].parent() {
            DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
        }
        let [output, errors] = pipes.map(|pipe| make_pipe(&pipe));
        let outputs = Outputs { output: output?, errors: errors? };
        // A hypervisor must not block on a reader of its own messages.
        rustix::io::ioctl_fionbio(&outputs.errors, true)?;
        self.carry(layout)?;
        Ok(outputs)
    }

    /// Has the pipes of a running hypervisor drained. May be repeated.
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

    /// Waits until all output of a hypervisor so far is in its logs.
    pub(super) fn settle(&self, layout: &VmLayout) -> io::Result<()> {
        let mut state = self.lock();
        if !layout.console_pipe().exists() {
            return Ok(());
        }
        self.ask(&mut state, &Request::Settle(vec![layout.console_pipe(), layout.errors_pipe()]))
    }

    /// Removes the pipes of a hypervisor that is gone.
    pub(super) fn forget(&self, layout: &VmLayout) {
        self.lock().carried.remove(layout.run());
        if let Some(folder) = layout.console_pipe().parent() {
            let _ = std::fs::remove_dir_all(folder);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request to the running logger, or starts another if it ended.
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

    /// Connects to the logger; if none runs, starts one and repeats all requests to it.
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
            // The logger sends nothing here; only the end of the connection arrives.
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

/// Creates a named pipe, open at both ends: nothing in it is lost while the hypervisor exists.
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

/// Whether the logger at the other end is gone.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
