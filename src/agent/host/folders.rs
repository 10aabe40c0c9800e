//! The agent's own directories: created, and locked while the agent runs.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
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

/// The host's UUID: the configured one, or one that is made once and kept. Where a full disk has no room for
/// it, it lasts as long as this agent, which must not be kept from its guests.
pub(in crate::agent) fn server_uuid(layout: &Layout, configured: &str) -> Result<Uuid, StartError> {
    if let Ok(uuid) = configured.parse() {
        return Ok(uuid);
    }
    let path = layout.server_uuid();
    match fs::read_to_string(&path) {
        Ok(kept) => kept.trim().parse().map_err(|_| StartError::ServerUuid(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let uuid = Uuid::new_v4();
            if let Err(error) = keep(&path, uuid) {
                tracing::error!(%error, path = %path.display(), "the next start makes another host UUID");
            }
            Ok(uuid)
        }
        Err(source) => Err(StartError::Folder { path, source }),
    }
}

/// Writes the host's UUID durably: after a power cut it is there as a whole, or not at all.
fn keep(path: &Path, uuid: Uuid) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = File::create(&draft)?;
    writeln!(file, "{uuid}")?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
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
