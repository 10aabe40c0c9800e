//! The zone's file systems: built detached, so that the host never sees them, and assembled inside the new
//! mount namespace. Nothing below the zone's root is ever accessed by path.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
        UnmountFlags,
    },
};

use super::at;
use crate::{
    sys,
    zone::sandbox::{Level, Mechanism, Sandbox},
};

/// File systems that are not attached yet.
pub(super) struct Mounts {
    root: OwnedFd,
    platform: Vec<(OwnedFd, String)>,
    dev: OwnedFd,
    /// Device nodes of the host, for users who may not create any.
    binds: Vec<(OwnedFd, String)>,
    sealed: bool,
}

/// A detached copy of a mount with restrictive attributes.
fn detached(path: &Path, attributes: u64) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree =
        rustix::mount::open_tree(CWD, path, flags).map_err(at(format!("open_tree {}", path.display())))?;
    sys::set_mount_attributes(tree.as_fd(), attributes)
        .map_err(at(format!("mount_setattr {}", path.display())))?;
    Ok(tree)
}

/// Builds the zone's file systems. Device nodes are created where permitted, else bound from the host.
pub(super) fn build(sandbox: &Sandbox) -> io::Result<Mounts> {
    let privileged = matches!(sandbox.level, Level::Full | Level::NoUserNamespace);
    let read_only = if sandbox.has(Mechanism::ReadOnlyMounts) { sys::RDONLY } else { 0 };
    let root = detached(&sandbox.root, read_only | sys::NOSUID | sys::NODEV | sys::NOEXEC)?;
    let mut platform = Vec::new();
    for (source, place) in &sandbox.platform {
        platform.push((detached(source, read_only | sys::NOSUID | sys::NODEV)?, place.clone()));
    }
    let dev = empty_dev()?;
    let mut binds = Vec::new();
    for device in &sandbox.devices {
        if privileged {
            let number = rustix::fs::makedev(device.major, device.minor);
            rustix::fs::mknodat(
                &dev,
                &device.name,
                FileType::CharacterDevice,
                Mode::RUSR | Mode::WUSR,
                number,
            )
            .map_err(at(format!("mknod {}", device.name)))?;
            let (uid, gid) = (Uid::from_raw(sandbox.uid), Gid::from_raw(sandbox.uid));
            rustix::fs::chownat(&dev, &device.name, Some(uid), Some(gid), AtFlags::empty())
                .map_err(at(format!("chown {}", device.name)))?;
        } else {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&dev, &device.name, flags, Mode::RUSR | Mode::WUSR)
                .map_err(at(format!("create dev/{}", device.name)))?;
            let host = Path::new("/dev").join(&device.name);
            binds.push((detached(&host, sys::NOSUID | sys::NOEXEC)?, format!("dev/{}", device.name)));
        }
    }
    if privileged {
        sys::set_mount_attributes(dev.as_fd(), sys::RDONLY).map_err(at("mount_setattr dev"))?;
    }
    Ok(Mounts { root, platform, dev, binds, sealed: privileged })
}

/// Creates an empty `/dev`.
fn empty_dev() -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("fsopen tmpfs"))?;
    for (key, value) in [("mode", "0755"), ("size", "64k"), ("nr_inodes", "64")] {
        rustix::mount::fsconfig_set_string(&fs, key, value).map_err(at("fsconfig tmpfs"))?;
    }
    rustix::mount::fsconfig_create(&fs).map_err(at("fsconfig tmpfs"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(at("fsmount tmpfs"))
}

impl Mounts {
    /// Makes this the root of the mount namespace, and unmounts everything else.
    pub(super) fn enter(self) -> io::Result<()> {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).map_err(at("making mounts private"))?;
        // Any folder can be the mount point; it is only covered, and only in this namespace.
        let moved =
            ["/tmp", "/mnt", "/run"].iter().find(|foothold| attach(&self.root, CWD, foothold).is_ok());
        moved.ok_or_else(|| io::Error::other("no folder of /tmp, /mnt, /run can hold the zone's root"))?;
        let root = self.root.as_fd();
        for (tree, place) in &self.platform {
            attach(tree, root, place)?;
        }
        attach(&self.dev, root, "dev")?;
        for (tree, place) in &self.binds {
            attach(tree, root, place)?;
        }
        if !self.sealed {
            sys::set_mount_attributes(self.dev.as_fd(), sys::RDONLY).map_err(at("mount_setattr dev"))?;
        }
        rustix::process::fchdir(root).map_err(at("entering the zone's root"))?;
        rustix::process::pivot_root(".", ".").map_err(at("pivot_root"))?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(at("letting go of the host's root"))?;
        rustix::process::chdir("/").map_err(at("chdir /"))?;
        Ok(())
    }
}

fn attach(tree: &OwnedFd, folder: BorrowedFd<'_>, place: &str) -> io::Result<()> {
    rustix::mount::move_mount(tree, "", folder, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(at(format!("mounting {place}")))?;
    Ok(())
}
