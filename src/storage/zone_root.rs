//! The agent's only way into a zone's root.
//!
//! Everything below the root is hostile. Each path is resolved by the kernel in one step, relative
//! to a descriptor of the root, with no symbolic link followed anywhere and no way out
//! (`openat2` with `RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS`); what is opened is checked through its
//! descriptor, never by name again.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::Path,
};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};

use serde::{Deserialize, Serialize};

use super::error::StorageError;

/// Entries of one folder that are read; a guest may create more.
const MAX_ENTRIES: usize = 10_000;

/// A zone's root folder.
#[derive(Debug)]
pub(crate) struct ZoneRoot {
    root: OwnedFd,
}

/// A name in a folder of the zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Absolute, inside the root.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes.
    pub size: u64,
    /// Seconds since 1970.
    pub modified: i64,
}

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link, which is never followed.
    Link,
    /// A device, pipe or socket.
    Other,
}

impl ZoneRoot {
    /// Opens the root itself, whose path only the agent can change.
    pub(crate) fn open(root: &Path) -> Result<Self, StorageError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, root, flags, Mode::empty())
            .map_err(StorageError::at(root.display().to_string()))?;
        Ok(Self { root })
    }

    fn resolve(&self, path: &str, flags: OFlags) -> Result<OwnedFd, StorageError> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let relative = match path.trim_start_matches('/') {
            "" => ".",
            other => other,
        };
        rustix::fs::openat2(&self.root, relative, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
            .map_err(StorageError::at(path))
    }

    /// Opens a regular file. Opening never blocks (a guest's pipe would).
    pub(crate) fn open_file(&self, path: &str, writable: bool) -> Result<File, StorageError> {
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        let fd = self.resolve(path, access | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = rustix::fs::fstat(&fd).map_err(StorageError::at(path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(StorageError::Unsafe { path: path.to_owned(), why: "it is not a regular file" });
        }
        Ok(File::from(fd))
    }

    /// The folder that holds `path`, and its name in it.
    fn parent<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str), StorageError> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let folder = if folder.is_empty() { "/" } else { folder };
        Ok((self.resolve(folder, OFlags::PATH | OFlags::DIRECTORY)?, name))
    }

    /// Returns the entry at `path`, or `None`.
    pub(crate) fn stat(&self, path: &str) -> Result<Option<Entry>, StorageError> {
        let (folder, name) = self.parent(path)?;
        match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(entry(path.to_owned(), &stat))),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(StorageError::at(path)(error)),
        }
    }

    /// Lists a folder, sorted by name.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<Entry>, StorageError> {
        let folder = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for found in Dir::read_from(&folder).map_err(StorageError::at(path))? {
            let found = found.map_err(StorageError::at(path))?;
            let name = found.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if entries.len() == MAX_ENTRIES {
                return Err(StorageError::Unsafe { path: path.to_owned(), why: "it has over 10000 entries" });
            }
            // It may be gone by now.
            if let Ok(stat) = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                let name = name.to_string_lossy();
                entries.push(entry(format!("{}/{name}", path.trim_end_matches('/')), &stat));
            }
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    /// Moves the agent's finished file into the zone at `path`.
    pub(crate) fn place(
        &self,
        from: (impl AsFd, &str),
        path: &str,
        overwrite: bool,
    ) -> Result<Entry, StorageError> {
        let (folder, name) = self.parent(path)?;
        let flags = if overwrite { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        match rustix::fs::renameat_with(from.0, from.1, &folder, name, flags) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST | rustix::io::Errno::ISDIR) => {
                return Err(StorageError::Exists { path: path.to_owned() });
            }
            Err(error) => return Err(StorageError::at(path)(error)),
        }
        self.sync_parent(path)?;
        self.stat(path)?.ok_or_else(|| StorageError::Missing { what: path.to_owned() })
    }

    /// Writes a small file of the agent, replacing any at `path`; `draft` lies outside the root on the same
    /// file system. Creates the folder if it is missing.
    pub(crate) fn put(&self, draft: &Path, path: &str, content: &[u8]) -> Result<Entry, StorageError> {
        let (parent, _) = path.rsplit_once('/').unwrap_or_default();
        if !parent.is_empty() && self.stat(parent)?.is_none() {
            let (folder, name) = self.parent(parent)?;
            rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755))
                .map_err(StorageError::at(parent))?;
        }
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(draft);
        file.and_then(|mut file| file.write_all(content)).map_err(StorageError::at(path))?;
        let (Some(folder), Some(name)) = (draft.parent(), draft.file_name().and_then(|name| name.to_str()))
        else {
            return Err(StorageError::Missing { what: path.to_owned() });
        };
        let folder = File::open(folder).map_err(StorageError::at(path))?;
        self.place((&folder, name), path, true)
    }

    /// Removes a file, a link (not what it leads to) or an empty folder.
    pub(crate) fn remove(&self, path: &str) -> Result<Entry, StorageError> {
        let found = self.stat(path)?.ok_or_else(|| StorageError::Missing { what: path.to_owned() })?;
        let (folder, name) = self.parent(path)?;
        let flags = if found.kind == EntryKind::Folder { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(&folder, name, flags).map_err(|error| match error {
            rustix::io::Errno::NOTEMPTY => {
                StorageError::Unsafe { path: path.to_owned(), why: "the folder is not empty" }
            }
            error => StorageError::at(path)(io::Error::from(error)),
        })?;
        self.sync_parent(path)?;
        Ok(found)
    }

    fn sync_parent(&self, path: &str) -> Result<(), StorageError> {
        let parent = path.rsplit_once('/').map_or("/", |(parent, _)| parent);
        let folder = self.resolve(parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::fsync(&folder).map_err(StorageError::at(path))
    }
}

fn entry(path: String, stat: &Stat) -> Entry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Folder,
        FileType::Symlink => EntryKind::Link,
        _ => EntryKind::Other,
    };
    Entry { path, kind, size: u64::try_from(stat.st_size).unwrap_or_default(), modified: stat.st_mtime }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn nothing_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        fs::write(root.join("a.iso"), "iso").unwrap();
        symlink("../secret", root.join("link")).unwrap();
        symlink("/a.iso", root.join("inside")).unwrap();
        symlink("..", root.join("up")).unwrap();
        rustix::fs::mkfifoat(CWD, root.join("pipe"), Mode::RUSR).unwrap();
        let zone = ZoneRoot::open(&root).unwrap();

        zone.open_file("/a.iso", true).unwrap();
        for path in ["/link", "/inside", "/up/secret", "/up/root/a.iso"] {
            assert!(matches!(zone.open_file(path, false), Err(StorageError::Unsafe { .. })), "{path}");
        }
        assert!(matches!(zone.open_file("/pipe", false), Err(StorageError::Unsafe { .. })));
        // ".." stops at the root even when it gets this far.
        assert!(matches!(zone.open_file("/../secret", false), Err(StorageError::Missing { .. })));
        assert!(matches!(zone.open_file("/sub", false), Err(StorageError::Unsafe { .. })));

        let kinds: Vec<_> = zone.list("/").unwrap().into_iter().map(|e| (e.path, e.kind)).collect();
        assert_eq!(kinds[0], ("/a.iso".to_owned(), EntryKind::File));
        assert!(kinds.contains(&("/pipe".to_owned(), EntryKind::Other)));
        zone.list("/up").unwrap_err();

        assert_eq!(zone.remove("/link").unwrap().kind, EntryKind::Link);
        assert!(dir.path().join("secret").exists());
        zone.remove("/up/secret").unwrap_err();
        zone.remove("/sub").unwrap();
        assert!(matches!(zone.remove("/sub"), Err(StorageError::Missing { .. })));
    }

    /// A hostile neighbour swaps a folder for a link out of the zone, a file for a pipe or a hard link,
    /// as fast as it can, while the agent works on these names: nothing outside is read, written or
    /// removed, and nothing waits.
    #[test]
    fn a_race_against_the_agent_is_lost() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("real")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(root.join("real/file"), "inside").unwrap();
        fs::write(outside.join("file"), "secret").unwrap();
        rustix::fs::mkfifoat(CWD, root.join("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let name = root.join("name");
                    let _ = symlink(&outside, &name);
                    let _ = fs::remove_file(&name);
                    let _ = fs::rename(root.join("real"), &name);
                    let _ = fs::rename(&name, root.join("real"));
                    let _ = symlink("../outside", root.join("up"));
                    let _ = fs::hard_link(root.join("pipe"), root.join("up/x"));
                    let _ = fs::remove_file(root.join("up"));
                }
            });
            let zone = ZoneRoot::open(&root).unwrap();
            for turn in 0..20_000 {
                for path in ["/name/file", "/up/file", "/pipe"] {
                    if let Ok(mut file) = zone.open_file(path, turn % 2 == 0) {
                        let mut text = String::new();
                        io::Read::read_to_string(&mut file, &mut text).unwrap();
                        assert_eq!(text, "inside");
                    }
                }
                let _ = zone.list("/name").map(|entries| assert!(entries.len() <= 1));
                let _ = zone.remove("/up/file");
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "secret");
        assert_eq!(
            fs::read_dir(&outside).unwrap().filter(|e| e.as_ref().unwrap().file_name() == "file").count(),
            1
        );
    }
}
