//! Interrupted uploads: found by the note beside each part, resumed, or given up.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::fs::FlockOperation;

use super::{
    error::StorageError,
    plan::{INTENT, INTENT_DRAFT, UploadPlan, is_old},
};
use crate::layout::VmLayout;

/// An interrupted upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partial {
    /// Its plan.
    pub plan: UploadPlan,
    /// Bytes received.
    pub committed: u64,
    /// When it grew last.
    pub touched: SystemTime,
}

/// Lists a VM's active and interrupted uploads.
pub(crate) fn unfinished(layout: &VmLayout) -> Result<Vec<Partial>, StorageError> {
    let mut found: Vec<Partial> = intents(layout)?.into_iter().map(|(partial, _)| partial).collect();
    found.sort_by(|a, b| a.plan.path.cmp(&b.plan.path));
    Ok(found)
}

/// Removes interrupted uploads, but no active one. Returns the removed ones.
pub(crate) fn give_up(
    layout: &VmLayout,
    which: impl Fn(&Partial) -> bool,
) -> Result<Vec<Partial>, StorageError> {
    let mut gone = Vec::new();
    for (partial, part) in intents(layout)?.into_iter().filter(|(partial, _)| which(partial)) {
        // The lock is held until both are gone, so that nobody resumes the upload.
        let Some(_lock) = lock(&part) else { continue };
        remove(&part).map_err(StorageError::at(partial.plan.path.as_str()))?;
        gone.push(partial);
    }
    Ok(gone)
}

/// Frees space that an upload holds beyond what arrived.
pub(crate) fn shrink(layout: &VmLayout) -> Result<(), StorageError> {
    for (partial, part) in intents(layout)? {
        // The lock is held: a resumed upload must not lose its new bytes.
        let Some(_lock) = lock(&part) else { continue };
        let shrink = || {
            let file = fs::OpenOptions::new().write(true).open(&part)?;
            file.set_len(file.metadata()?.len())
        };
        shrink().map_err(StorageError::at(partial.plan.path.as_str()))?;
    }
    Ok(())
}

/// Removes a note, then its part, so that a crash in between leaves an orphan.
pub(super) fn remove(part: &Path) -> io::Result<()> {
    for path in [&part.with_extension("json"), part] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn intents(layout: &VmLayout) -> Result<Vec<(Partial, PathBuf)>, StorageError> {
    let folder = layout.uploads();
    let at = || StorageError::at(folder.display().to_string());
    let mut found = Vec::new();
    let files = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        files => files.map_err(at())?,
    };
    for file in files {
        let path = file.map_err(at())?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let plan = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let part = path.with_extension("part");
        if let (Some(plan), Ok(meta)) = (plan, part.metadata()) {
            let touched = meta.modified().map_err(at())?;
            found.push((Partial { plan, committed: meta.len(), touched }, part));
        }
    }
    Ok(found)
}

fn lock(part: &Path) -> Option<File> {
    let file = File::open(part).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}

/// A file of an upload that can't be resumed.
#[derive(Debug)]
pub(crate) struct Orphan {
    path: PathBuf,
    _lock: File,
}

impl Orphan {
    /// Parts without a note and notes without a part.
    pub(crate) fn all(layout: &VmLayout) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(layout.uploads()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        // A new upload has no note yet.
        let left = |path: &PathBuf| is_lonely(path) && is_old(path);
        Ok(entries.flatten().map(|entry| entry.path()).filter(left).collect())
    }

    /// Locks one, so that no upload of that name starts.
    pub(crate) fn take(path: &Path) -> Result<Self, StorageError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(StorageError::at(name.as_str()))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() || !is_lonely(path) {
            return Err(StorageError::Busy { path: name });
        }
        Ok(Self { path: path.to_owned(), _lock: file })
    }

    /// Removes it.
    pub(crate) fn remove(self) -> Result<(), StorageError> {
        fs::remove_file(&self.path).map_err(StorageError::at(self.path.display().to_string()))
    }
}

/// Whether the other half is missing.
fn is_lonely(path: &Path) -> bool {
    let other = match path.extension().and_then(|extension| extension.to_str()) {
        Some("part") => "json",
        Some("json") => "part",
        // Its intent is journaled soon, or by the next start.
        Some(INTENT | INTENT_DRAFT) => return false,
        _ => return true,
    };
    !path.with_extension(other).exists()
}
