//! Restricts the agent's files to its own user.
//!
//! Files are created that way; an older agent, a copy or an administrator may have changed them, which each
//! start repairs. A file with a hard link elsewhere is left alone: its mode is not this zone's alone.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::{
    error::StorageError,
    zone_root::{EntryKind, ZoneRoot},
};
use crate::layout::{Layout, VmLayout};

/// Depth to which a zone's root is searched.
const DEPTH: usize = 16;

/// Closes the state folder, the database, and SQLite's files beside it.
pub(crate) fn close_state(layout: &Layout) -> io::Result<()> {
    close(layout.state())?;
    let database = layout.database();
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut name = database.clone().into_os_string();
        name.push(suffix);
        match close(&PathBuf::from(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Closes the zonepath, its files, and those in the zone's root.
pub(crate) fn close_to_others(layout: &VmLayout) -> Result<(), StorageError> {
    let zonepath = layout.zonepath();
    let at = || StorageError::at(zonepath.display().to_string());
    match close(zonepath) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        closed => closed.map_err(at())?,
    }
    for file in fs::read_dir(zonepath).map_err(at())?.flatten() {
        if file.file_type().is_ok_and(|kind| kind.is_file()) {
            close(&file.path()).map_err(at())?;
        }
    }
    match ZoneRoot::open(&layout.root()) {
        Ok(root) => close_below(&root, "/", DEPTH),
        // The error shows when the root is needed.
        Err(_) => Ok(()),
    }
}

fn close_below(root: &ZoneRoot, folder: &str, depth: usize) -> Result<(), StorageError> {
    for entry in root.list(folder)? {
        match entry.kind {
            EntryKind::File if !entry.path.contains('\u{fffd}') => {
                let file = root.open_file(&entry.path, false)?;
                close_file(&file, Path::new(&entry.path)).map_err(StorageError::at(entry.path.as_str()))?;
            }
            EntryKind::Folder if depth > 0 => close_below(root, &entry.path, depth - 1)?,
            _ => {}
        }
    }
    Ok(())
}

fn close(path: &Path) -> io::Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    close_file(&OpenOptions::new().read(true).custom_flags(flags).open(path)?, path)
}

fn close_file(file: &File, path: &Path) -> io::Result<()> {
    let found = file.metadata()?;
    let is_ours = found.uid() == rustix::process::geteuid().as_raw();
    let is_shared = found.is_file() && found.nlink() > 1;
    if !is_ours || is_shared || found.mode() & 0o077 == 0 {
        return Ok(());
    }
    tracing::info!(path = %path.display(), mode = format_args!("{:04o}", found.mode() & 0o7777), "closed to others");
    file.set_permissions(fs::Permissions::from_mode(found.mode() & 0o700))
}
