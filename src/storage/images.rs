//! The files of images: one raw disk each, which appears under its name when it is complete.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::{CWD, Mode, OFlags};

use super::{copy, error::StorageError};
use crate::{crash, layout::ImageLayout};

/// The disk of an image under way, and a file without a name beside it.
#[derive(Debug)]
pub(crate) struct ImageDraft {
    /// The disk.
    pub(crate) disk: File,
    /// For the converter.
    pub(crate) scratch: File,
}

/// Begins an image; what an earlier try left is removed. A difference begins with the content of its origin.
pub(crate) fn begin_image(
    layout: &ImageLayout,
    origin: Option<&ImageLayout>,
) -> Result<ImageDraft, StorageError> {
    let failed = || StorageError::at(layout.folder().display().to_string());
    remove_image(layout)?;
    DirBuilder::new().recursive(true).mode(0o700).create(layout.folder()).map_err(failed())?;
    crash::point("image.folder");
    let create = |path: &Path| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
    };
    let disk = create(&layout.partial()).map_err(failed())?;
    if let Some(origin) = origin {
        let from = open_image(origin)?;
        if !copy::share(&from, &disk).map_err(failed())? {
            copy::copy(&from, &disk).map_err(failed())?;
        }
    }
    let scratch = without_name(layout.folder()).map_err(failed())?;
    crash::point("image.draft");
    Ok(ImageDraft { disk, scratch })
}

/// A file without a name, which goes with its last descriptor.
fn without_name(folder: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => tempfile::tempfile_in(folder),
        Err(error) => Err(error.into()),
    }
}

/// The part of a file system that imports leave to VMs, and the most of it in bytes.
const KEPT: u64 = 16;
const MOST_KEPT: u64 = 1 << 30;

/// Fails if an import would take the room that is kept for VMs.
pub(crate) fn check_image_room(layout: &ImageLayout) -> Result<(), StorageError> {
    let at = || layout.folder().display().to_string();
    let found = rustix::fs::statvfs(layout.folder()).map_err(StorageError::at(at()))?;
    let kept = (found.f_blocks.saturating_mul(found.f_frsize) / KEPT).min(MOST_KEPT);
    match found.f_bavail.saturating_mul(found.f_frsize) >= kept {
        true => Ok(()),
        false => {
            Err(StorageError::Full { what: format!("{}: {} MiB are kept free for VMs", at(), kept >> 20) })
        }
    }
}

/// Gives a complete image its size, in whole MiB, and its name. It may have been done before.
pub(crate) fn finish_image(layout: &ImageLayout, disk: &File, mebibytes: u64) -> Result<(), StorageError> {
    let failed = || StorageError::at(layout.folder().display().to_string());
    disk.set_len(mebibytes << 20).map_err(failed())?;
    disk.sync_all().map_err(failed())?;
    crash::point("image.synced");
    fs::rename(layout.partial(), layout.disk()).map_err(failed())?;
    crash::point("image.named");
    let sync = |folder: &Path| File::open(folder)?.sync_all();
    sync(layout.folder()).map_err(failed())?;
    layout.folder().parent().map_or(Ok(()), sync).map_err(failed())
}

/// Opens an image's disk, to read.
pub(crate) fn open_image(layout: &ImageLayout) -> Result<File, StorageError> {
    let path = layout.disk();
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path);
    opened.map_err(StorageError::at(path.display().to_string()))
}

/// Bytes that an image takes on the file system; 0 if it can't be told.
#[must_use]
pub(crate) fn image_used(layout: &ImageLayout) -> u64 {
    let found = fs::symlink_metadata(layout.disk()).or_else(|_| fs::symlink_metadata(layout.partial()));
    found.map_or(0, |found| found.blocks() * 512)
}

/// Takes an image's name away, before its deletion is committed.
pub(crate) fn set_image_aside(layout: &ImageLayout) -> Result<(), StorageError> {
    let failed = || StorageError::at(layout.folder().display().to_string());
    remove_folder(&layout.deleted()).map_err(failed())?;
    match fs::rename(layout.folder(), layout.deleted()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed()(error)),
        _ => {
            crash::point("image.aside");
            Ok(())
        }
    }
}

/// Gives it back, where the deletion was not committed.
pub(crate) fn take_image_back(layout: &ImageLayout) -> Result<(), StorageError> {
    match fs::rename(layout.deleted(), layout.folder()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StorageError::at(layout.folder().display().to_string())(error))
        }
        _ => Ok(()),
    }
}

/// Removes what was set aside.
pub(crate) fn remove_deleted_image(layout: &ImageLayout) -> Result<(), StorageError> {
    let removed = remove_folder(&layout.deleted());
    crash::point("image.removed");
    removed.map_err(StorageError::at(layout.deleted().display().to_string()))
}

/// Removes an image's folder; it may be gone.
pub(crate) fn remove_image(layout: &ImageLayout) -> Result<(), StorageError> {
    remove_folder(layout.folder()).map_err(StorageError::at(layout.folder().display().to_string()))
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
