//! The launcher: this program again, single threaded, between the agent and the hypervisor.
//!
//! It reads its orders from descriptor 3, reports on 4, then exits. See the diagram in `zone`. The new
//! process takes these steps in order, because each needs a privilege that a later one drops:
//!
//! ```text
//!   gate ─▶ session ─▶ user ─▶ host name ─▶ root and /dev ─▶ program opened, parked
//!        ─▶ limits ─▶ bounding set ─▶ capabilities, no_new_privs ─▶ Landlock ─▶ filters ─▶ exec, once
//! ```

mod filter;
pub(super) mod landlock;
mod mounts;
mod privileges;

use std::{
    convert::Infallible,
    ffi::CString,
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
};
use serde::{Deserialize, Serialize};

use super::{
    identity::Identity,
    sandbox::{Level, Mechanism, Sandbox},
};
use crate::sys::{self, Side};

/// Descriptor of the orders.
pub(super) const ORDERS: i32 = 3;
/// Descriptor of the report.
pub(super) const REPORT: i32 = 4;
/// The hidden subcommand that makes this program a launcher.
pub const SUBCOMMAND: &str = "zone-init";

/// The launcher's instructions.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    /// The hypervisor.
    pub(super) program: PathBuf,
    /// Without its name.
    pub(super) arguments: Vec<String>,
    /// Descriptors that the hypervisor keeps.
    pub(super) keep: Vec<i32>,
    /// Where to record its identity.
    pub(super) process: PathBuf,
    /// The sandbox around it.
    pub(super) sandbox: Sandbox,
}

/// Prefixes a system error with the failed action.
fn at<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> io::Error {
    move |error| {
        let error = error.into();
        io::Error::new(error.kind(), format!("{}: {error}", what.into()))
    }
}

/// Runs the launcher; returns this program's exit code.
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
    // The report must not reach the hypervisor: its end of file shows that the exec is done.
    rustix::io::fcntl_setfd(report, rustix::io::FdFlags::CLOEXEC)?;

    let birthplace = enter_groups(&orders.sandbox)?;
    let live = orders.sandbox.join.map(open_zone).transpose()?;
    let level = orders.sandbox.level;
    if level == Level::Rootless && live.is_none() {
        become_root_of_own_namespace()?;
    }
    let mounts = match &live {
        Some(_) => None,
        None => level.has_namespaces().then(|| mounts::build(&orders.sandbox)).transpose()?,
    };
    let new = if live.is_some() { 0 } else { namespaces(&orders.sandbox) };
    let (gate, opener) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    match sys::clone_beside(new, birthplace.as_ref()).map_err(at("clone3"))? {
        Side::New => {
            drop(opener);
            match become_hypervisor(&orders, mounts, live.as_ref(), &gate) {
                Ok(never) => match never {},
                Err(error) => Err(error),
            }
        }
        Side::Caller { pid, pidfd } => {
            drop(gate);
            if level == Level::Full && live.is_none() {
                map_one_user(pid, orders.sandbox.uid)?;
            }
            let own = Identity::of(pid)?;
            own.write(&orders.process)?;
            // If the agent died, a newer one may have found no process yet: the gate then stays shut, and the
            // process behind it ends.
            if !send(report, format!("P{pid}").as_bytes(), Some(pidfd.as_fd())) {
                // The newer agent may have started the VM again.
                if Identity::read(&orders.process)? == Some(own) {
                    std::fs::remove_file(&orders.process)?;
                }
                return Err(io::Error::other("the agent is gone"));
            }
            rustix::io::write(&opener, b"!")?;
            Ok(())
        }
    }
}

/// Enters the version 1 control groups, and opens the version 2 group, in which the process can start. Runs
/// with the agent's privileges, before any are dropped.
fn enter_groups(sandbox: &Sandbox) -> io::Result<Option<OwnedFd>> {
    for door in &sandbox.doors {
        std::fs::write(door, "0").map_err(at(format!("entering {}", door.display())))?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |folder: &PathBuf| {
        rustix::fs::openat(CWD, folder, flags, Mode::empty())
            .map_err(at(format!("opening {}", folder.display())))
    };
    sandbox.birthplace.as_ref().map(open).transpose()
}

fn read_orders() -> io::Result<Orders> {
    let mut file = File::from(sys::inherited(ORDERS)?);
    file.rewind()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Returns the flags of the zone's own namespaces.
fn namespaces(sandbox: &Sandbox) -> u64 {
    let pid = if sandbox.has(Mechanism::PidNamespace) { libc::CLONE_NEWPID } else { 0 };
    let net = if sandbox.has(Mechanism::NetworkNamespace) { libc::CLONE_NEWNET } else { 0 };
    let all = pid | net | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
    let flags = match sandbox.level {
        Level::Full => all | libc::CLONE_NEWUSER,
        Level::NoUserNamespace | Level::Rootless => all,
        Level::FiltersOnly => 0,
    };
    u64::from(flags.unsigned_abs())
}

/// Opens an existing zone: new children of this process are in its pid namespace.
fn open_zone(pid: i32) -> io::Result<OwnedFd> {
    let process = sys::PidFd::open(pid).map_err(at(format!("process {pid}")))?;
    sys::enter_namespaces(&process, libc::CLONE_NEWPID).map_err(at("entering the zone's pid namespace"))?;
    Ok(process)
}

/// Enters a user namespace, in which an ordinary user may build a zone; the launcher continues there.
fn become_root_of_own_namespace() -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    sys::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).map_err(at("user namespace"))?;
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{uid} {uid} 1")),
        ("gid_map", format!("{gid} {gid} 1")),
    ] {
        let path = format!("/proc/self/{file}");
        std::fs::write(&path, text).map_err(at(path))?;
    }
    Ok(())
}

/// Only the zone's own user exists in its user namespace: there is no uid 0 to become.
fn map_one_user(pid: i32, uid: u32) -> io::Result<()> {
    for file in ["uid_map", "gid_map"] {
        let path = format!("/proc/{pid}/{file}");
        std::fs::write(&path, format!("{uid} {uid} 1")).map_err(at(path))?;
    }
    Ok(())
}

fn become_hypervisor(
    orders: &Orders,
    mounts: Option<mounts::Mounts>,
    live: Option<&OwnedFd>,
    gate: &OwnedFd,
) -> io::Result<Infallible> {
    if rustix::io::read(gate, &mut [0; 1])? != 1 {
        return Err(io::Error::other("the launcher is gone"));
    }
    let sandbox = &orders.sandbox;
    // This program has no path in an existing zone.
    let parked = live.map(|_| park_program(&orders.program)).transpose()?;
    if let Some(live) = live {
        let all = namespaces(sandbox) & !u64::from(libc::CLONE_NEWPID.unsigned_abs());
        let all = i32::try_from(all).map_err(io::Error::other)?;
        sys::enter_namespaces(live, all).map_err(at("entering the zone's namespaces"))?;
    }
    // A new session: no signal to the agent's terminal or group reaches the guest.
    rustix::process::setsid()?;
    if sandbox.level == Level::Full {
        // In its namespace this keeps the capabilities, because no uid 0 is mapped.
        sys::become_user(sandbox.uid).map_err(at("becoming the zone's user"))?;
    }
    if let Some(mounts) = mounts {
        rustix::system::sethostname(sandbox.hostname.as_bytes()).map_err(at("sethostname"))?;
        mounts.enter()?;
    }
    let program = parked.map_or_else(|| park_program(&orders.program), Ok)?;
    privileges::limit_resources(sandbox)?;
    // Without namespaces an ordinary user can't change these, and has no capabilities.
    let root = rustix::process::geteuid().is_root();
    if sandbox.level.has_namespaces() || root {
        privileges::drop_bounding_set()?;
    }
    if root {
        sys::become_user(sandbox.uid).map_err(at("becoming the zone's user"))?;
    }
    privileges::drop_capabilities()?;
    if sandbox.landlock && sandbox.has(Mechanism::Landlock) {
        landlock::apply(sandbox, &program).map_err(io::Error::other)?;
    }
    let filters = filter::programs(std::process::id(), program.as_raw_fd(), sandbox.level.has_namespaces())?;
    let mut arguments = vec![c_string(&orders.program)?];
    for argument in &orders.arguments {
        arguments.push(c_string(Path::new(argument))?);
    }
    // Nothing but the filters and the exec from here on.
    if sandbox.has(Mechanism::Seccomp) {
        for filter in &filters {
            filter::load(filter)?;
        }
    }
    sys::exec_descriptor(program.as_raw_fd(), &arguments, &[])
        .map_err(at(format!("cannot run {}", orders.program.display())))
}

/// Opens the program inside the zone, at a number above the limit that is set next: once the exec closes it,
/// no descriptor can get that number again.
fn park_program(path: &Path) -> io::Result<OwnedFd> {
    privileges::raise_descriptors();
    let opened = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(at(format!("cannot run {}", path.display())))?;
    let least = i32::try_from(privileges::MAX_DESCRIPTORS).unwrap_or(i32::MAX) + 1000;
    // The filter must not allow the launcher's own copy.
    rustix::io::fcntl_dupfd_cloexec(&opened, least).map_err(at("parking the program"))
}

fn c_string(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt as _;
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Reports to the agent; returns whether it arrived.
fn send(report: &OwnedFd, message: &[u8], descriptor: Option<BorrowedFd<'_>>) -> bool {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    rustix::net::sendmsg(report, &[io::IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL).is_ok()
}
