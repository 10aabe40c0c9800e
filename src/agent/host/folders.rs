//! The agent's own directories: created, and locked while the agent runs.

use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::FlockOperation;
use uuid::Uuid;

use crate::{agent::error::StartError, layout::Layout};

/// Creates missing folders.
pub(in crate::agent) fn make(layout: &Layout) -> Result<(), StartError> {
    for (folder, mode) in [(layout.zones(), 0o755), (layout.state(), 0o700), (layout.run(), 0o755)] {
        make_folder(folder, mode)?;
    }
    Ok(())
}

/// The host's UUID: the configured one, or one that is made once and kept.
pub(in crate::agent) fn server_uuid(layout: &Layout, configured: &str) -> Result<Uuid, StartError> {
    if let Ok(uuid) = configured.parse() {
        return Ok(uuid);
    }
    let path = layout.server_uuid();
    if let Some(kept) = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()) {
        return Ok(kept);
    }
    let uuid = Uuid::new_v4();
    let failed = |source| StartError::Folder { path: path.clone(), source };
    let draft = path.with_extension("draft");
    fs::write(&draft, format!("{uuid}\n")).and_then(|()| fs::rename(&draft, &path)).map_err(failed)?;
    Ok(uuid)
}

fn make_folder(path: &Path, mode: u32) -> Result<(), StartError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|source| StartError::Folder { path: path.to_owned(), source })
}

/// How long to wait for a lock: a program that a killed agent was just starting may hold it for a moment.
const LINGER: Duration = Duration::from_secs(2);

/// Locks each folder for this agent alone. The folders are locked, and not files in them: a full or read-only
/// disk must not keep an agent from its guests.
pub(in crate::agent) async fn lock(layout: &Layout) -> Result<Vec<File>, StartError> {
    let began = Instant::now();
    let mut locks = Vec::new();
    for folder in [layout.state(), layout.zones(), layout.run()] {
        let failed = |source| StartError::Folder { path: folder.to_owned(), source };
        let file = File::open(folder).map_err(failed)?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < LINGER => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(StartError::Locked(folder.to_owned())),
                Err(error) => return Err(failed(error.into())),
            }
        }
        locks.push(file);
    }
    Ok(locks)
}
