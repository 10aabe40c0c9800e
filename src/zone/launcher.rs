//! The launcher: this program again, single threaded, between the agent and the hypervisor.
//!
//! It finds its orders in descriptor 3 and reports on 4, then it is gone. See the picture in
//! [`super`].

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
    process::{Resource, Rlimit},
};
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use crate::sys::{self, Side};

/// Where the orders are.
pub(super) const ORDERS: i32 = 3;
/// Where the report goes.
pub(super) const REPORT: i32 = 4;
/// The hidden subcommand that makes this program a launcher.
pub const SUBCOMMAND: &str = "zone-init";

/// What the launcher is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    /// The hypervisor.
    pub(super) program: PathBuf,
    /// Without its name.
    pub(super) arguments: Vec<String>,
    /// Descriptors that the hypervisor keeps.
    pub(super) keep: Vec<i32>,
    /// Where to write which process it is.
    pub(super) process: PathBuf,
}

/// Runs the launcher; the exit code of this program.
#[must_use]
pub fn run() -> u8 {
    let report = match sys::inherited(REPORT) {
        Ok(report) => report,
        Err(_) => {
            let _ = writeln!(io::stderr(), "{SUBCOMMAND} is the agent's own; run: zoneward serve");
            return 2;
        }
    };
    match launch(&report) {
        Ok(()) => 0,
        Err(error) => {
            send(&report, format!("E{error}").as_bytes(), None);
            1
        }
    }
}

fn launch(report: &OwnedFd) -> io::Result<()> {
    let orders = read_orders()?;
    let mut keep = orders.keep.clone();
    keep.push(report.as_raw_fd());
    sys::close_on_exec_except(&keep)?;
    // The report must not reach the hypervisor: its end of file tells that the exec is done.
    rustix::io::fcntl_setfd(report, rustix::io::FdFlags::CLOEXEC)?;

    let (gate, opener) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match sys::clone_beside(0)? {
        Side::New => {
            drop(opener);
            let error = match become_hypervisor(&orders, gate) {
                Ok(never) => match never {},
                Err(error) => error,
            };
            Err(error)
        }
        Side::Caller { pid, pidfd } => {
            drop(gate);
            Identity::of(pid)?.write(&orders.process)?;
            send(report, format!("P{pid}").as_bytes(), Some(pidfd.as_fd()));
            rustix::io::write(&opener, b"!")?;
            Ok(())
        }
    }
}

fn read_orders() -> io::Result<Orders> {
    let mut file = File::from(sys::inherited(ORDERS)?);
    file.rewind()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// The new process: waits at the gate, puts itself apart from the agent, and execs.
fn become_hypervisor(orders: &Orders, gate: OwnedFd) -> io::Result<std::convert::Infallible> {
    if rustix::io::read(&gate, &mut [0; 1])? != 1 {
        return Err(io::Error::other("the launcher is gone"));
    }
    // A session of its own: no signal for the agent's terminal or group reaches the guest.
    rustix::process::setsid()?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    let program = c_string(&orders.program)?;
    let mut arguments = vec![program.clone()];
    for argument in &orders.arguments {
        arguments.push(c_string(Path::new(argument))?);
    }
    sys::exec(&program, &arguments, &[]).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot run {}: {error}", orders.program.display()))
    })
}

fn c_string(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt as _;
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn send(report: &OwnedFd, message: &[u8], descriptor: Option<BorrowedFd<'_>>) {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    // Nobody is left to tell when this fails; the agent sees the end of file.
    let _ = rustix::net::sendmsg(report, &[io::IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL);
}
