//! The disks that the agent makes.

use std::{
    fmt,
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use super::error::StorageError;
use crate::crash;

/// Makes and opens disks.
pub trait Volumes: Send + Sync + fmt::Debug {
    /// Makes an empty disk of `size` MiB.
    fn create(&self, path: &Path, size: u64) -> Result<(), StorageError>;
    /// Lets a disk have `size` MiB; it had less.
    fn grow(&self, path: &Path, size: u64) -> Result<(), StorageError>;
    /// Opens a disk for a hypervisor.
    fn open(&self, path: &Path, writable: bool) -> Result<File, StorageError>;
}

/// Raw sparse files: nothing in them has to be parsed, so a guest that owns its hypervisor can't
/// lie about them.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileVolumes;

impl Volumes for FileVolumes {
    fn create(&self, path: &Path, size: u64) -> Result<(), StorageError> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(StorageError::at(path.display().to_string()))?;
        crash::point("disk.created");
        set_size(&file, path, size)
    }

    fn grow(&self, path: &Path, size: u64) -> Result<(), StorageError> {
        set_size(&self.open(path, true)?, path, size)
    }

    fn open(&self, path: &Path, writable: bool) -> Result<File, StorageError> {
        OpenOptions::new()
            .read(true)
            .write(writable)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(StorageError::at(path.display().to_string()))
    }
}

fn set_size(file: &File, path: &Path, size: u64) -> Result<(), StorageError> {
    file.set_len(size.saturating_mul(1 << 20)).map_err(|error| match error.raw_os_error() {
        Some(libc::EFBIG | libc::EINVAL) => StorageError::Full {
            what: format!("{}: the file system takes no file of {size} MiB", path.display()),
        },
        _ => StorageError::at(path.display().to_string())(error),
    })?;
    file.sync_all().map_err(StorageError::at(path.display().to_string()))?;
    crash::point("disk.sized");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn disks_are_sparse_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk0.raw");
        FileVolumes.create(&path, 40960).unwrap();
        let meta = path.metadata().unwrap();
        assert_eq!((meta.len(), meta.blocks(), meta.mode() & 0o777), (40960 << 20, 0, 0o600));
        FileVolumes.create(&path, 1).unwrap_err();
        assert!(matches!(
            FileVolumes.create(&dir.path().join("big"), 10 << 30),
            Err(StorageError::Full { .. })
        ));
        std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
        assert!(matches!(FileVolumes.open(&dir.path().join("link"), true), Err(StorageError::Unsafe { .. })));
    }
}
