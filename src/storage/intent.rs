//! Intents: records of changes to a zone's root, kept until the changes are journaled.
//!
//! ```text
//!   note ──▶ made ──▶ journaled ──▶ the note is removed
//!     │        └ found: the finder journals it
//!     └ found: it was not made; the note is removed
//! ```
//!
//! Notes lie beside the uploads, where no guest can reach them. The task that makes the change holds the
//! note's lock.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{
    error::StorageError,
    plan::{INTENT, INTENT_DRAFT, is_old},
    zone_root::{Entry, ZoneRoot},
};
use crate::{crash, layout::VmLayout};

/// The change to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FileAct {
    /// The upload of this name becomes the file.
    Put {
        /// File name of its part.
        part: String,
    },
    /// The file, or the empty folder, is removed.
    Remove,
}

/// A change of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Intent {
    /// What.
    pub act: FileAct,
    /// The file as it is afterwards, or was before.
    pub entry: Entry,
    /// The caller of the change; opaque to this module.
    pub owner: Value,
}

/// The locked note of an intent.
#[derive(Debug)]
pub(crate) struct IntentNote {
    id: Uuid,
    path: PathBuf,
    _lock: File,
}

impl IntentNote {
    /// Writes the note durably; `None` where a full disk has no room for it: a removal frees space, and an
    /// upload already exists.
    pub(super) fn write(layout: &VmLayout, intent: &Intent) -> Result<Option<Self>, StorageError> {
        let folder = layout.uploads();
        let id = Uuid::new_v4();
        let path = folder.join(format!("{id}.{INTENT}"));
        // It does not count as a note before it is complete and locked.
        let draft = path.with_extension(INTENT_DRAFT);
        let write = || -> io::Result<File> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            file.write_all(&serde_json::to_vec(intent)?)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&folder)?.sync_all()?;
            Ok(file)
        };
        match write().map_err(StorageError::at(intent.entry.path.as_str())) {
            Ok(lock) => {
                crash::point("file.noted");
                Ok(Some(Self { id, path, _lock: lock }))
            }
            Err(error) => {
                for left in [draft, path] {
                    let _ = fs::remove_file(left);
                }
                if matches!(error, StorageError::Full { .. }) { Ok(None) } else { Err(error) }
            }
        }
    }

    /// Identifies the intent: it may be journaled while its note still exists.
    #[must_use]
    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    /// Removes the note of a settled intent.
    pub(crate) fn remove(self) {
        crash::point("file.journaled");
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, note = %self.path.display(), "the note of a intent stays");
        }
    }
}

/// Removes a file, a link or an empty folder from a zone's root.
pub(crate) fn remove_file(
    layout: &VmLayout,
    path: &str,
    owner: Value,
) -> Result<(Entry, Option<IntentNote>), StorageError> {
    let root = ZoneRoot::open(&layout.root())?;
    let entry = root.stat(path)?.ok_or_else(|| StorageError::Missing { what: path.to_owned() })?;
    let intent = Intent { act: FileAct::Remove, entry, owner };
    let note = IntentNote::write(layout, &intent)?;
    let removed = root.remove(path);
    crash::point("file.removed");
    settle(layout, intent, note, removed)
}

/// Settles an intent. One that failed after the change counts as done.
pub(super) fn settle(
    layout: &VmLayout,
    intent: Intent,
    note: Option<IntentNote>,
    done: Result<Entry, StorageError>,
) -> Result<(Entry, Option<IntentNote>), StorageError> {
    match done {
        Ok(entry) => Ok((entry, note)),
        Err(error) if was_done(layout, &intent).unwrap_or(false) => {
            tracing::warn!(%error, path = intent.entry.path, "a file was changed, and may not outlive a power cut");
            Ok((intent.entry, note))
        }
        Err(error) => {
            note.into_iter().for_each(IntentNote::remove);
            Err(error)
        }
    }
}

/// Returns intents that were carried out but still have notes. Removes the notes of all others.
pub(crate) fn intents(layout: &VmLayout) -> Result<Vec<(Intent, IntentNote)>, StorageError> {
    let folder = layout.uploads();
    let at = |error| StorageError::at(folder.display().to_string())(error);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(at)?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(INTENT) => {}
            Some(INTENT_DRAFT) if is_old(&path) => {
                // From an intent that never started.
                let _ = fs::remove_file(&path);
                continue;
            }
            _ => continue,
        }
        let id = path.file_stem().and_then(|name| Uuid::try_parse(name.to_str()?).ok()).unwrap_or_default();
        let Ok(lock) = File::open(&path) else { continue };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            // Its task is about to journal it.
            continue;
        }
        let note = IntentNote { id, path, _lock: lock };
        let intent = fs::read(&note.path).ok().and_then(|text| serde_json::from_slice::<Intent>(&text).ok());
        match intent {
            Some(intent) => match was_done(layout, &intent) {
                Ok(true) => found.push((intent, note)),
                Ok(false) => note.remove(),
                // Checked again later; others do not wait for it.
                Err(error) => {
                    tracing::warn!(%error, note = %note.path.display(), "cannot check if a change was made");
                }
            },
            None => note.remove(),
        }
    }
    Ok(found)
}

fn was_done(layout: &VmLayout, intent: &Intent) -> Result<bool, StorageError> {
    match &intent.act {
        FileAct::Put { part } => {
            let part = layout.uploads().join(part);
            let placed = !part.try_exists().map_err(StorageError::at(intent.entry.path.as_str()))?;
            if placed {
                // The rest of the upload.
                let _ = fs::remove_file(part.with_extension("json"));
            }
            Ok(placed)
        }
        FileAct::Remove => match ZoneRoot::open(&layout.root())?.stat(&intent.entry.path) {
            Ok(found) => Ok(found.is_none()),
            // Its folder is gone, too, or is no longer a folder.
            Err(StorageError::Missing { .. } | StorageError::Unsafe { .. }) => Ok(true),
            Err(error) => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{layout::Layout, storage::make_zone};

    fn zone() -> (tempfile::TempDir, VmLayout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), "/state", "/run").vm(Uuid::from_u128(1));
        make_zone(&layout).unwrap();
        (dir, layout)
    }

    #[test]
    fn what_was_done_is_found_and_what_was_not_is_forgotten() {
        let (_dir, layout) = zone();
        for name in ["a", "b"] {
            fs::write(layout.root().join(name), name).unwrap();
        }
        let (entry, held) = remove_file(&layout, "/a", json!("me")).unwrap();
        assert_eq!((entry.path.as_str(), entry.size), ("/a", 1));
        assert!(intents(&layout).unwrap().is_empty(), "who did it is still there");
        drop(held);
        let found = intents(&layout).unwrap();
        assert_eq!((&found[0].0.entry, &found[0].0.owner), (&entry, &json!("me")));
        found.into_iter().for_each(|(_, note)| note.remove());

        let entry = Entry { path: "/b".into(), ..entry };
        drop(
            IntentNote::write(&layout, &Intent { act: FileAct::Remove, entry, owner: json!(null) })
                .unwrap()
                .unwrap(),
        );
        fs::write(layout.uploads().join("x.deed"), "{").unwrap();
        assert!(intents(&layout).unwrap().is_empty());
        assert_eq!(fs::read_dir(layout.uploads()).unwrap().count(), 0);
        assert!(layout.root().join("b").exists());
        assert!(matches!(remove_file(&layout, "/c", json!(null)), Err(StorageError::Missing { .. })));
        assert_eq!(fs::read_dir(layout.uploads()).unwrap().count(), 0);
    }
}
