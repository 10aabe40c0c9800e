//! `zoneward probe`: a hostile program in a real zone, act by act.
//!
//! The zone is built by the code that builds a VM's, and this program is run in the hypervisor's place,
//! after everything is in force, once for each act. What stopped it is what the kernel answered.

mod acts;

use std::{
    fs::File,
    io::{Read as _, Seek as _, Write as _},
};

pub use acts::{ACTS, Act};

use crate::{
    spec::Restriction,
    sys,
    zone::{Ended, ZoneError, linux::LinuxZone},
};

/// The hidden subcommand that does one act.
pub const SUBCOMMAND: &str = "zone-act";

/// What came of an act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What belongs to what; `None` for what no zone may do, whichever restriction it would break.
    pub restriction: Option<Restriction>,
    /// In words.
    pub name: &'static str,
    /// It was stopped, or it is one that must work and did.
    pub as_it_should: bool,
    /// What the kernel answered.
    pub observed: String,
    /// What should happen.
    pub expected: &'static str,
    /// What stopped it, as far as the kernel's answer tells the layers apart.
    pub mechanism: &'static str,
}

/// Tries every act in a zone of its own.
pub async fn run(zone: &LinuxZone) -> Result<Vec<Attempt>, ZoneError> {
    let mut attempts = Vec::new();
    for (index, act) in ACTS.iter().enumerate() {
        attempts.push(attempt(zone, index, act).await?);
    }
    Ok(attempts)
}

async fn attempt(zone: &LinuxZone, index: usize, act: &Act) -> Result<Attempt, ZoneError> {
    let mut said = tempfile::tempfile().map_err(ZoneError::at("a file for the answer"))?;
    let output = said.try_clone().map_err(ZoneError::at("a file for the answer"))?;
    let victim = std::process::id().to_string();
    let arguments = vec![SUBCOMMAND.to_owned(), index.to_string(), victim];
    let ended = zone.run_hostile(arguments, output).await?;
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

/// Each layer has an answer of its own.
fn mechanism(observed: &str) -> &'static str {
    match observed {
        "succeeded" => "",
        "EPERM" | "ENOSYS" => "seccomp",
        "EROFS" => "read-only mounts",
        "ENOENT" | "ENXIO" | "ENODEV" => "root of its own",
        "ESRCH" => "pid namespace",
        "EACCES" => "landlock",
        "EBADF" => "one-shot exec",
        "signal 31" => "seccomp, killed",
        _ => "the kernel",
    }
}

fn answer(said: &mut File, ended: Ended) -> String {
    let mut text = String::new();
    let read = said.rewind().and_then(|()| said.read_to_string(&mut text));
    match (read, ended) {
        (Ok(1..), _) => text.trim().to_owned(),
        (_, ended) => ended.to_string(),
    }
}

/// The inside: does one act and says what the kernel answered. Gives the exit code of this program.
#[must_use]
pub fn act(words: &[String]) -> u8 {
    let [index, victim] = words else { return 2 };
    let (Ok(index), Ok(victim)) = (index.parse::<usize>(), victim.parse()) else { return 2 };
    let Some(act) = ACTS.get(index) else { return 2 };
    let result = sys::act(act.call, act.arguments, victim);
    let text = match result {
        Ok(_) => "succeeded".to_owned(),
        Err(error) => errno_name(error.raw_os_error().unwrap_or_default()),
    };
    let _ = std::io::stdout().write_all(text.as_bytes());
    0
}

/// `EPERM` and its kin.
fn errno_name(number: i32) -> String {
    let known = [
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::ESRCH, "ESRCH"),
        (libc::EACCES, "EACCES"),
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
    ];
    known
        .iter()
        .find(|(n, _)| *n == number)
        .map_or_else(|| format!("errno {number}"), |(_, name)| (*name).to_owned())
}
