//! The zone's root before anything is mounted on it.

use std::{
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags},
    io::Errno,
};

use crate::zone::ZoneError;

/// Mount points in the root.
const MOUNT_POINTS: [&str; 2] = ["usr", "dev"];
/// Links by which the programs of a merged `/usr` find each other.
const LINKS: [&str; 3] = ["lib", "lib64", "bin"];

/// Creates the mount points and links in the root, and refuses a root that is not the agent's own.
pub(super) fn prepare(root: &Path) -> Result<(), ZoneError> {
    let folder = open_own(root)?;
    let there = |result: rustix::io::Result<()>| match result {
        Err(Errno::EXIST) | Ok(()) => Ok(()),
        Err(error) => Err(ZoneError::at("preparing the zone's root")(error)),
    };
    for name in MOUNT_POINTS {
        there(rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)))?;
        let found = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(ZoneError::at("preparing the zone's root"))?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
            return Err(ZoneError::Folder {
                path: root.join(name),
                what: "it is not a folder, and the zone needs one there".to_owned(),
                advice: "remove it; the next boot makes it again",
            });
        }
    }
    for name in LINKS {
        there(rustix::fs::symlinkat(format!("usr/{name}"), &folder, name))?;
    }
    Ok(())
}

/// Opens the root, if it is this agent's own folder and nothing is mounted on it.
fn open_own(root: &Path) -> Result<OwnedFd, ZoneError> {
    let wrong = |what: String, advice| ZoneError::Folder { path: root.to_owned(), what, advice };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match rustix::fs::openat(CWD, root, flags, Mode::empty()) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => {
            return Err(wrong(
                "it is gone".to_owned(),
                "make the folder again, owned by the agent's user and with mode 0755, or delete the VM",
            ));
        }
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return Err(wrong("it is not a folder".to_owned(), "move it away and make a folder there"));
        }
        Err(error) => return Err(ZoneError::at("opening the zone's root")(error)),
    };
    let found = std::fs::metadata(root).map_err(ZoneError::at("looking at the zone's root"))?;
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own {
        return Err(wrong(
            format!("it belongs to user {}, not to the agent's user {own}", found.uid()),
            "give it back with chown",
        ));
    }
    if found.mode() & 0o022 != 0 || found.mode() & 0o001 == 0 {
        return Err(wrong(format!("its mode is {:04o}", found.mode() & 0o7777), "set it to 0755 with chmod"));
    }
    let mount = |path: &Path| -> Result<u64, ZoneError> {
        let found = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)
            .map_err(ZoneError::at("looking at the zone's root"))?;
        Ok(found.stx_mnt_id)
    };
    if mount(root)? != mount(root.parent().unwrap_or(root))? {
        return Err(wrong("something is mounted over it".to_owned(), "unmount it with umount"));
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn refused(root: &Path) -> String {
        prepare(root).unwrap_err().to_string()
    }

    #[test]
    fn a_root_that_is_not_as_it_was_made_is_named_with_its_cure() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        assert!(refused(&root).contains("it is gone; make the folder again"));
        std::fs::write(&root, "").unwrap();
        assert!(refused(&root).contains("not a folder; move it away"));
        std::fs::remove_file(&root).unwrap();
        std::fs::create_dir(&root).unwrap();
        let mode = |mode| std::fs::set_permissions(&root, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o700);
        assert!(refused(&root).contains("its mode is 0700; set it to 0755"));
        mode(0o777);
        assert!(refused(&root).contains("its mode is 0777"));
        mode(0o755);
        prepare(&root).unwrap();
        prepare(&root).unwrap();
        std::fs::remove_dir(root.join("usr")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("usr")).unwrap();
        assert!(refused(&root).contains("usr: it is not a folder"));
        std::fs::remove_file(root.join("usr")).unwrap();
        prepare(&root).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&root, Some(65534), None).unwrap();
            assert!(
                refused(&root).contains("it belongs to user 65534, not to the agent's user 0; give it back")
            );
        }
    }
}
