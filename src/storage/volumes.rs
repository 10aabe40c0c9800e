//! The disks that the agent creates.

use std::{
    fmt,
    fs::File,
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt as _, MetadataExt as _},
    },
    path::Path,
};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, ResolveFlags};

use super::{copy, error::StorageError, overlay};
use crate::{
    crash,
    spec::{DiskForm, disk},
};

/// Creates and opens disks. Each is named by its file in its zonepath; no name leads out of that.
pub trait Volumes: Send + Sync + fmt::Debug {
    /// Makes an empty disk of `size` MiB.
    fn create(&self, zone: &Path, name: &str, size: u64) -> Result<(), StorageError>;
    /// Makes a disk of `size` MiB that begins as an image; returns its form.
    fn clone(&self, zone: &Path, name: &str, image: &File, size: u64) -> Result<DiskForm, StorageError>;
    /// Grows a disk to `size` MiB.
    fn grow(&self, zone: &Path, name: &str, size: u64) -> Result<(), StorageError>;
    /// Opens a disk for a hypervisor.
    fn open(&self, zone: &Path, name: &str, writable: bool) -> Result<File, StorageError>;
    /// Restores a disk to `size` MiB after a hypervisor resized it; returns whether it had.
    fn settle(&self, zone: &Path, name: &str, size: u64) -> Result<bool, StorageError>;
    /// Removes a disk; it may already be gone.
    fn remove(&self, zone: &Path, name: &str) -> Result<(), StorageError>;
}

/// Raw sparse files: nothing in them has to be parsed, so a guest that owns its hypervisor can't
/// lie about them.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileVolumes;

/// Bytes that a file may occupy beyond its size: the file system's metadata.
const OVERHEAD: u64 = 1 << 20;

impl Volumes for FileVolumes {
    fn create(&self, zone: &Path, name: &str, size: u64) -> Result<(), StorageError> {
        let file = open_in(zone, name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        crash::point("disk.created");
        set_size(&file, name, size)
    }

    fn clone(&self, zone: &Path, name: &str, image: &File, size: u64) -> Result<DiskForm, StorageError> {
        let file = open_in(zone, name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
        crash::point("disk.created");
        if copy::share(image, &file).map_err(StorageError::at(name))? {
            return set_size(&file, name, size).map(|()| DiskForm::Reflink);
        }
        overlay::write(&file, size.saturating_mul(1 << 20)).map_err(StorageError::at(name))?;
        file.sync_all().map_err(StorageError::at(name))?;
        crash::point("disk.sized");
        Ok(DiskForm::Overlay)
    }

    fn grow(&self, zone: &Path, name: &str, size: u64) -> Result<(), StorageError> {
        set_size(&open_in(zone, name, OFlags::RDWR)?, name, size)
    }

    fn open(&self, zone: &Path, name: &str, writable: bool) -> Result<File, StorageError> {
        open_in(zone, name, if writable { OFlags::RDWR } else { OFlags::RDONLY })
    }

    fn settle(&self, zone: &Path, name: &str, size: u64) -> Result<bool, StorageError> {
        let file = open_in(zone, name, OFlags::RDWR)?;
        let found = file.metadata().map_err(StorageError::at(name))?;
        let bytes = size.saturating_mul(1 << 20);
        let is_changed = found.len() != bytes || found.blocks() * 512 > bytes.saturating_add(OVERHEAD);
        if is_changed {
            set_size(&file, name, size)?;
        }
        Ok(is_changed)
    }

    fn remove(&self, zone: &Path, name: &str) -> Result<(), StorageError> {
        let folder = open_folder(zone)?;
        match rustix::fs::unlinkat(&folder, plain(name)?, rustix::fs::AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) | Ok(()) => Ok(()),
            Err(error) => Err(StorageError::at(name)(error)),
        }
    }
}

/// Locks an open disk for one machine: exclusively if it writes, else shared with other readers. The lock
/// lasts as long as any process holds the descriptor, also the hypervisor, whichever agent runs.
pub(crate) fn take_disk(file: &File, path: &str, writable: bool) -> Result<(), StorageError> {
    let lock = match writable {
        true => FlockOperation::NonBlockingLockExclusive,
        false => FlockOperation::NonBlockingLockShared,
    };
    match rustix::fs::flock(file, lock) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StorageError::Taken { path: path.to_owned() }),
        Err(error) => Err(StorageError::at(path)(error)),
    }
}

/// Whether a file is a qcow2 image, QEMU's default container format.
#[must_use]
pub(crate) fn is_qcow2(file: &File) -> bool {
    let mut head = [0; 4];
    file.read_exact_at(&mut head, 0).is_ok() && disk::is_qcow2(&head)
}

/// A name without a folder.
fn plain(name: &str) -> Result<&str, StorageError> {
    if name.is_empty() || name.contains('/') || matches!(name, "." | "..") {
        return Err(StorageError::Unsafe {
            path: name.to_owned(),
            why: "it is not a file name in the VM's folder",
        });
    }
    Ok(name)
}

fn open_folder(zone: &Path) -> Result<OwnedFd, StorageError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, zone, flags, Mode::empty()).map_err(StorageError::at(zone.display().to_string()))
}

/// Opens a file in a zonepath, and nothing outside of it.
fn open_in(zone: &Path, name: &str, flags: OFlags) -> Result<File, StorageError> {
    let folder = open_folder(zone)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mode = if flags.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
    let file = rustix::fs::openat2(&folder, plain(name)?, flags | OFlags::CLOEXEC, mode, resolve);
    file.map(File::from).map_err(|error| match error {
        rustix::io::Errno::EXIST => StorageError::Exists { path: zone.join(name).display().to_string() },
        error => StorageError::at(zone.join(name).display().to_string())(error),
    })
}

fn set_size(file: &File, name: &str, size: u64) -> Result<(), StorageError> {
    file.set_len(size.saturating_mul(1 << 20)).map_err(|error| match error.raw_os_error() {
        Some(libc::EFBIG | libc::EINVAL) => {
            StorageError::Full { what: format!("{name}: the file system takes no file of {size} MiB") }
        }
        _ => StorageError::at(name)(error),
    })?;
    file.sync_all().map_err(StorageError::at(name))?;
    crash::point("disk.sized");
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::fs::FallocateFlags;

    use super::*;

    #[test]
    fn disks_are_sparse_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let (zone, volumes) = (dir.path(), FileVolumes);
        volumes.create(zone, "disk0", 40960).unwrap();
        let meta = zone.join("disk0").metadata().unwrap();
        assert_eq!((meta.len(), meta.blocks(), meta.mode() & 0o777), (40960 << 20, 0, 0o600));
        assert!(matches!(volumes.create(zone, "disk0", 1), Err(StorageError::Exists { .. })));
        assert!(matches!(volumes.create(zone, "big", 10 << 30), Err(StorageError::Full { .. })));
        std::os::unix::fs::symlink(zone.join("disk0"), zone.join("link")).unwrap();
        assert!(matches!(volumes.open(zone, "link", true), Err(StorageError::Unsafe { .. })));
        volumes.remove(zone, "disk0").unwrap();
        volumes.remove(zone, "disk0").unwrap();
        assert!(!zone.join("disk0").exists());
    }

    #[test]
    fn no_name_leads_out_of_the_zone() {
        let dir = tempfile::tempdir().unwrap();
        let zone = dir.path().join("zone");
        std::fs::create_dir(&zone).unwrap();
        std::fs::write(dir.path().join("other"), "x").unwrap();
        std::os::unix::fs::symlink("..", zone.join("up")).unwrap();
        for name in ["../new", "/tmp/new", "..", ".", "", "up/new", "a/b", "../other"] {
            for result in [
                FileVolumes.create(&zone, name, 1),
                FileVolumes.open(&zone, name, true).map(drop),
                FileVolumes.grow(&zone, name, 9),
                FileVolumes.remove(&zone, name),
            ] {
                assert!(matches!(result, Err(StorageError::Unsafe { .. })), "{name}: {result:?}");
            }
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_disk_gets_its_size_again() {
        let dir = tempfile::tempdir().unwrap();
        let zone = dir.path();
        FileVolumes.create(zone, "disk0", 4).unwrap();
        assert!(!FileVolumes.settle(zone, "disk0", 4).unwrap());
        let file = FileVolumes.open(zone, "disk0", true).unwrap();
        let room = || zone.join("disk0").metadata().unwrap();
        rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 4 << 20, 16 << 20).unwrap();
        assert!(room().blocks() * 512 >= 16 << 20, "{}", room().blocks());
        assert!(FileVolumes.settle(zone, "disk0", 4).unwrap());
        assert!(room().blocks() * 512 <= 4 << 20, "{}", room().blocks());
        file.set_len(64 << 20).unwrap();
        assert!(FileVolumes.settle(zone, "disk0", 4).unwrap());
        assert_eq!(room().len(), 4 << 20);
        file.set_len(0).unwrap();
        assert!(FileVolumes.settle(zone, "disk0", 4).unwrap());
        assert_eq!(room().len(), 4 << 20);
    }

    #[test]
    fn one_machine_writes_a_disk() {
        let dir = tempfile::tempdir().unwrap();
        FileVolumes.create(dir.path(), "disk0", 1).unwrap();
        let open = |writable| FileVolumes.open(dir.path(), "disk0", writable).unwrap();
        let (first, second) = (open(true), open(true));
        take_disk(&first, "d", true).unwrap();
        for writable in [true, false] {
            let refused = take_disk(&second, "d", writable);
            assert!(matches!(refused, Err(StorageError::Taken { .. })), "{refused:?}");
        }
        let held = first.try_clone().unwrap();
        drop(first);
        take_disk(&second, "d", true).unwrap_err();
        drop(held);
        take_disk(&second, "d", false).unwrap();
        take_disk(&open(false), "d", false).unwrap();
    }
}
