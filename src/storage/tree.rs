//! The folders of a zone.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
    time::Duration,
};

use super::error::StorageError;
use crate::{crash, layout::VmLayout, spec::disk::disk_number};

/// Creates the zonepath and the zone's root. Fails if the zonepath exists: a new UUID has none.
pub(crate) fn make_zone(layout: &VmLayout) -> Result<(), StorageError> {
    let path = layout.zonepath();
    DirBuilder::new().mode(0o700).create(path).map_err(StorageError::at(path.display().to_string()))?;
    crash::point("zone.made(zonepath)");
    for (folder, mode) in [(layout.root(), 0o755), (layout.uploads(), 0o700)] {
        DirBuilder::new()
            .mode(mode)
            .create(&folder)
            .inspect(|()| crash::point(format_args!("zone.made({})", folder_name(&folder))))
            .map_err(StorageError::at(folder.display().to_string()))?;
        // Regardless of the umask.
        fs::set_permissions(&folder, Permissions::from_mode(mode))
            .map_err(StorageError::at(folder.display().to_string()))?;
    }
    Ok(())
}

fn folder_name(folder: &Path) -> std::borrow::Cow<'_, str> {
    folder.file_name().unwrap_or_default().to_string_lossy()
}

/// Gives a disk of a VM another name beside its own, which may have been done before.
pub(crate) fn link_disk(zone: &Path, name: &str, other: &str) -> Result<(), StorageError> {
    let (name, other) = (zone.join(name), zone.join(other));
    let failed = StorageError::at(other.display().to_string());
    match fs::hard_link(&name, &other) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let inode = |path: &Path| fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()));
            let is_same = inode(&name).is_ok_and(|name| inode(&other).is_ok_and(|other| name == other));
            if is_same { Ok(()) } else { Err(StorageError::Exists { path: other.display().to_string() }) }
        }
        linked => linked.map_err(failed),
    }
}

/// Removes disks of a VM by file name. Ignores those already gone.
pub(crate) fn remove_disks(layout: &VmLayout, names: &[String]) -> Result<(), StorageError> {
    for name in names {
        if disk_number(name).is_none() {
            continue;
        }
        let file = layout.zonepath().join(name);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StorageError::at(file.display().to_string())(error));
            }
            Err(_) => {}
            Ok(()) => tracing::warn!(file = %file.display(), "removed a disk of an update that was cut"),
        }
    }
    Ok(())
}

/// Removes everything of a VM. Ignores what is already gone.
pub(crate) fn remove_zone(layout: &VmLayout) -> Result<(), StorageError> {
    crash::point("zone.remove");
    remove_run(layout)?;
    crash::point("zone.remove(run folder is gone)");
    remove_folder(layout.zonepath())?;
    crash::point("zone.removed");
    Ok(())
}

/// Removes a VM's run folder.
pub(crate) fn remove_run(layout: &VmLayout) -> Result<(), StorageError> {
    remove_folder(layout.run())
}

/// An upload that has just begun may put a file into a folder that was empty a moment ago.
const TRIES: u32 = 100;

/// Walks by descriptor and does not follow links.
fn remove_folder(folder: &Path) -> Result<(), StorageError> {
    let mut tries = 0;
    loop {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && tries < TRIES => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StorageError::at(folder.display().to_string())(error));
            }
            _ => return Ok(()),
        }
    }
}

/// Writes the record for people to read. It is never read back as truth.
pub(crate) fn write_vm_json(layout: &VmLayout, text: &str) -> Result<(), StorageError> {
    let path = layout.vm_json();
    let draft = path.with_extension("json.draft");
    let write = || -> io::Result<()> {
        let mut file = fs::File::create(&draft)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        crash::point("vm.json(draft)");
        fs::rename(&draft, &path)?;
        crash::point("vm.json");
        Ok(())
    };
    write().map_err(StorageError::at(path.display().to_string()))
}
