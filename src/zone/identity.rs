//! Which process a hypervisor is: written before it runs, checked before it is believed.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::sys::ExitStatus;

/// A process, beyond doubt: ids are reused, but not within the same clock tick of the same boot.
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
    /// Of a process that lives now.
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, start_time: start_time(pid)?, boot_id: boot_id()? })
    }

    /// Writes it as a whole or not at all.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let draft = path.with_extension("draft");
        fs::write(&draft, serde_json::to_vec(self)?)?;
        fs::rename(&draft, path)
    }

    /// What was written; `None` when nothing was.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// This boot of the host.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// A process that has ended and only waits to be reaped.
pub(super) struct Body {
    /// How it ended, if that is shown to us.
    pub(super) status: Option<ExitStatus>,
}

/// What is left of a process; `None` for one that lives. A process whose first thread ended lives for as long as
/// another thread of it does.
pub(super) fn body(pid: i32) -> io::Result<Option<Body>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let Some((_, fields)) = stat.rsplit_once(')') else { return Ok(None) };
    // Field 52. 0 may mean that it is not shown, so it means nothing.
    let status =
        fields.split_whitespace().nth(49).and_then(|field| field.parse().ok()).filter(|status| *status != 0);
    let dead = is_dead(fields) && !has_living_thread(pid)?;
    Ok(dead.then(|| Body { status: status.map(ExitStatus::from_wait) }))
}

/// Whether an error of `/proc` says that there is no such process.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Whether its first thread ended: so it is on its way out, or has others that go on without it.
pub(super) fn is_ending(pid: i32) -> io::Result<bool> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(stat.rsplit_once(')').is_some_and(|(_, fields)| is_dead(fields)))
}

/// By what follows the name in `stat`.
fn is_dead(fields: &str) -> bool {
    fields.trim_start().starts_with(['Z', 'X'])
}

fn has_living_thread(pid: i32) -> io::Result<bool> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        match fs::read_to_string(thread?.path().join("stat")) {
            Ok(stat) if stat.rsplit_once(')').is_some_and(|(_, fields)| is_dead(fields)) => {}
            // Gone while it was looked at.
            Err(error) if is_gone(&error) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Field 22 of `/proc/<pid>/stat`; the name before it may hold anything, so count from its end.
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
