//! `zoneward probe`: a hostile program in a real zone, act by act.
//!
//! The zone is built by the code that builds a VM's, and this program runs in the hypervisor's place, after
//! everything is in force, once for each act. The kernel's answer shows what stopped it. The targets are
//! real: a process of the zone's own user, a file that everybody may open, a socket that listens; and the
//! program holds what a hypervisor does: the VM's own descriptors where there is a VM.

mod acts;
mod deeds;
mod table;

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStringExt as _,
            net::{SocketAddr, UnixListener},
            process::CommandExt as _,
        },
    },
    process::{Child, Command, Stdio},
};

pub use acts::ACTS;
pub(crate) use acts::Act;
use acts::Deed;
use deeds::Target;
pub use table::print;
use uuid::Uuid;

use crate::{
    layout::VmLayout,
    spec::Restriction,
    sys::{self, Aim},
    zone::{
        Ended, ZoneError,
        linux::{Hostile, LinuxZone},
        sandbox::Mechanism,
    },
};

/// The hidden subcommand that does one act.
pub const SUBCOMMAND: &str = "zone-act";

/// The result of an act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The tested restriction; `None` for acts that no zone may do, whichever restriction they would break.
    pub restriction: Option<Restriction>,
    /// In words.
    pub name: &'static str,
    /// It was stopped, or it is allowed and worked.
    pub as_it_should: bool,
    /// The kernel's answer.
    pub observed: String,
    /// The expected result.
    pub expected: &'static str,
    /// The layer that stopped it, as far as the kernel's answer shows it.
    pub mechanism: &'static str,
}

/// Tries every act in a zone made for it; without the mechanisms in `without`.
pub async fn run(zone: &LinuxZone, without: &[Mechanism]) -> Result<Vec<Attempt>, ZoneError> {
    try_all(Hostile::build(zone, without).await?).await
}

/// Tries every act that would not harm the VM in the zone of a running VM.
pub async fn run_inside(zone: &LinuxZone, layout: &VmLayout, uuid: Uuid) -> Result<Vec<Attempt>, ZoneError> {
    try_all(Hostile::enter(zone, layout, uuid).await?).await
}

async fn try_all(hostile: Hostile) -> Result<Vec<Attempt>, ZoneError> {
    let outside = Outside::make(&hostile).map_err(ZoneError::at("creating the targets"))?;
    let words = serde_json::to_string(&outside.target).map_err(ZoneError::at("encoding the targets"))?;
    let mut attempts = Vec::new();
    for (index, act) in ACTS.iter().enumerate() {
        // A bomb in a VM's own groups would hit the VM; and a VM may have no disk.
        let has = act.descriptor().is_none_or(|number| hostile.holds(number));
        if has && !(hostile.is_live() && act.is_bomb()) {
            attempts.push(attempt(&hostile, index, act, &words).await?);
        }
    }
    Ok(attempts)
}

/// The targets; removed when dropped.
struct Outside {
    target: Target,
    victim: Child,
    _socket: UnixListener,
}

impl Outside {
    fn make(hostile: &Hostile) -> io::Result<Self> {
        let socket = format!("zoneward-probe-{}", Uuid::new_v4());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&socket)?)?;
        let disk = CString::new(hostile.other_disk().into_os_string().into_vec())?;
        let victim = Command::new("/usr/bin/sleep")
            .arg("infinity")
            .uid(hostile.uid())
            .gid(hostile.uid())
            .stdin(Stdio::null())
            .spawn()?;
        let pid = i32::try_from(victim.id()).map_err(io::Error::other)?;
        let address = stack_of(pid)?;
        Ok(Self { target: Target { victim: pid, address, disk, socket }, victim, _socket: listener })
    }
}

/// An address near the end of a process's stack, where it can be read and written.
fn stack_of(pid: i32) -> io::Result<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let stack = maps.lines().find(|line| line.ends_with("[stack]"));
    let end = stack.and_then(|line| line.split([' ', '-']).nth(1));
    let end = end.and_then(|hex| u64::from_str_radix(hex, 16).ok());
    end.map(|end| end - 64).ok_or_else(|| io::Error::other(format!("process {pid} has no stack")))
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
    }
}

async fn attempt(hostile: &Hostile, index: usize, act: &Act, target: &str) -> Result<Attempt, ZoneError> {
    let mut said = tempfile::tempfile().map_err(ZoneError::at("a file for the answer"))?;
    let output = said.try_clone().map_err(ZoneError::at("a file for the answer"))?;
    let arguments = vec![SUBCOMMAND.to_owned(), index.to_string(), target.to_owned()];
    let ended = hostile.run(arguments, output).await?;
    let observed = answer(&mut said, ended);
    let succeeded = observed == "succeeded";
    Ok(Attempt {
        restriction: act.restriction,
        name: act.name,
        as_it_should: succeeded == act.allowed,
        mechanism: mechanism(&observed),
        observed,
        expected: if act.allowed { "succeeds" } else { "refused" },
    })
}

/// Names the layer by its own answer.
fn mechanism(observed: &str) -> &'static str {
    match observed {
        "succeeded" => "",
        "EPERM" | "ENOSYS" => "seccomp",
        "EROFS" => "read-only mounts",
        "ENOENT" | "ENXIO" | "ENODEV" => "root of its own",
        "ESRCH" => "pid namespace",
        "EACCES" => "landlock",
        "EBADF" => "one-shot exec",
        "EAGAIN" => "cgroup and rlimit",
        "ESPIPE" | "EINVAL" => "a pipe",
        "signal 25" | "EFBIG" => "rlimit",
        "OOM kill" => "cgroup",
        "signal 31" => "seccomp, killed",
        _ => "the kernel",
    }
}

fn answer(said: &mut File, ended: Ended) -> String {
    let mut text = String::new();
    let read = said.rewind().and_then(|()| said.read_to_string(&mut text));
    match (read, ended) {
        (Ok(1..), _) => text.trim().to_owned(),
        // It always says something, unless it became another program.
        (_, Ended::Code(_)) => "succeeded".to_owned(),
        (_, Ended::OutOfMemory) => "OOM kill".to_owned(),
        (_, ended) => ended.to_string(),
    }
}

/// Runs inside the zone: does one act and prints the kernel's answer. Returns this program's exit code.
#[must_use]
pub fn act(words: &[String]) -> u8 {
    let [index, target] = words else { return 2 };
    let (Ok(index), Ok(target)) = (index.parse::<usize>(), serde_json::from_str::<Target>(target)) else {
        return 2;
    };
    let Some(act) = ACTS.get(index) else { return 2 };
    let result = match act.deed {
        Deed::Call(call, arguments) => {
            let Target { victim, address, disk, .. } = &target;
            sys::act(call, arguments, &Aim { victim: *victim, address: *address, disk }).map(drop)
        }
        Deed::Several(deed) => deed(&target),
    };
    let text = match result {
        Ok(()) => "succeeded".to_owned(),
        Err(error) => errno_name(error.raw_os_error().unwrap_or_default()),
    };
    let _ = io::stdout().write_all(text.as_bytes());
    0
}

/// `EPERM` and its kin.
fn errno_name(number: i32) -> String {
    let known = [
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::ESRCH, "ESRCH"),
        (libc::EACCES, "EACCES"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::EROFS, "EROFS"),
        (libc::EINVAL, "EINVAL"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::EBADF, "EBADF"),
        (libc::ENXIO, "ENXIO"),
        (libc::EFAULT, "EFAULT"),
        (libc::EMFILE, "EMFILE"),
        (libc::ENOTDIR, "ENOTDIR"),
        (libc::EXDEV, "EXDEV"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
        (libc::ENODEV, "ENODEV"),
        (libc::EEXIST, "EEXIST"),
        (libc::ESPIPE, "ESPIPE"),
        (libc::EFBIG, "EFBIG"),
    ];
    known
        .iter()
        .find(|(n, _)| *n == number)
        .map_or_else(|| format!("errno {number}"), |(_, name)| (*name).to_owned())
}
