//! The identity of a hypervisor's process: recorded before it runs, verified before it is used.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::sys::ExitStatus;

/// Identifies a process uniquely: ids are reused, but not within one clock tick of one boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// On the host.
    pub pid: i32,
    /// Clock ticks from boot to its start.
    pub start_time: u64,
    /// The host's boot.
    pub boot_id: String,
}

impl Identity {
    /// Identifies a live process.
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, start_time: start_time(pid)?, boot_id: boot_id()? })
    }

    /// Writes the identity atomically.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let draft = path.with_extension("draft");
        fs::write(&draft, serde_json::to_vec(self)?)?;
        fs::rename(&draft, path)
    }

    /// Reads the identity; `None` when no file exists.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Returns this boot's id.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// A zombie: a process that has ended but is not reaped.
pub(super) struct Body {
    /// Exit status, if the kernel shows it.
    pub(super) status: Option<ExitStatus>,
}

/// Returns the zombie of a process; `None` while it lives. A process whose first thread ended lives as long
/// as any other thread.
pub(super) fn body(pid: i32) -> io::Result<Option<Body>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let Some((_, fields)) = stat.rsplit_once(')') else { return Ok(None) };
    // Field 52. 0 may also mean that the status is hidden, so it is ignored.
    let status =
        fields.split_whitespace().nth(49).and_then(|field| field.parse().ok()).filter(|status| *status != 0);
    let dead = is_dead(fields) && !has_living_thread(pid)?;
    Ok(dead.then(|| Body { status: status.map(ExitStatus::from_wait) }))
}

/// Whether an error of `/proc` says that the process does not exist.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Whether the first thread ended: the process is ending, or its other threads continue without it.
pub(super) fn is_ending(pid: i32) -> io::Result<bool> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(stat.rsplit_once(')').is_some_and(|(_, fields)| is_dead(fields)))
}

/// Takes the fields after the name in `stat`.
fn is_dead(fields: &str) -> bool {
    fields.trim_start().starts_with(['Z', 'X'])
}

fn has_living_thread(pid: i32) -> io::Result<bool> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        match fs::read_to_string(thread?.path().join("stat")) {
            Ok(stat) if stat.rsplit_once(')').is_some_and(|(_, fields)| is_dead(fields)) => {}
            // The thread has just ended.
            Err(error) if is_gone(&error) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Reads field 22 of `/proc/<pid>/stat`, counted from the end of the name, which may contain anything.
fn start_time(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    stat.rsplit_once(')')
        .and_then(|(_, fields)| fields.split_whitespace().nth(19))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has no start time")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("process.json");
        assert_eq!(Identity::read(&path).unwrap(), None);
        let own = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        own.write(&path).unwrap();
        assert_eq!(Identity::read(&path).unwrap(), Some(own));
        fs::write(&path, "{").unwrap();
        Identity::read(&path).unwrap_err();
    }
}
