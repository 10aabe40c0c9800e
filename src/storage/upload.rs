//! Resumable uploads into a zone's root.
//!
//! ```text
//!   begin ──▶ uploads/<key>.part grows ──▶ finish: length and SHA-256 right ──▶ renamed into the root
//!                 │ cut: the part stays          │ wrong: the part is removed
//!                 ▼                              ▼
//!            begin at its length              nothing was there
//! ```
//!
//! The part lies outside the root, where no guest can reach it. Its name derives from path, size and
//! digest, so a retry finds it. A lock on it keeps two uploads of the same file apart.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    time::SystemTime,
};

use data_encoding::HEXLOWER;
use rustix::fs::FlockOperation;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    error::StorageError,
    intent::{self, FileAct, Intent, IntentNote},
    plan::UploadPlan,
    unfinished::{self, Partial},
    zone_root::{Entry, EntryKind, ZoneRoot},
};
use crate::{crash, layout::VmLayout};

/// An upload under way.
#[derive(Debug)]
pub(crate) struct Upload {
    plan: UploadPlan,
    overwrite: bool,
    root: ZoneRoot,
    part: PathBuf,
    note: PathBuf,
    layout: VmLayout,
    file: File,
    written: u64,
    hash: Sha256,
}

impl Upload {
    /// Starts or resumes an upload whose first chunk belongs at `offset`.
    pub(crate) fn begin(
        layout: &VmLayout,
        plan: UploadPlan,
        offset: u64,
        overwrite: bool,
    ) -> Result<Self, StorageError> {
        let root = ZoneRoot::open(&layout.root())?;
        if !overwrite && root.stat(&plan.path)?.is_some() {
            return Err(StorageError::Exists { path: plan.path });
        }
        let part = layout.uploads().join(format!("{}.part", plan.key()));
        let note = part.with_extension("json");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&part)
            .map_err(StorageError::at(plan.path.as_str()))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(StorageError::Busy { path: plan.path });
        }
        // One file has one upload: an earlier one for the same path with other content is given up.
        let begun = |other: &Partial| other.plan.path == plan.path && other.plan != plan;
        unfinished::give_up(layout, begun)?;
        crash::point("upload.part");
        let (layout, hash) = (layout.clone(), Sha256::new());
        let mut upload = Self { plan, overwrite, root, part, note, layout, file, written: 0, hash };
        match upload.resume(offset) {
            Ok(()) => Ok(upload),
            Err(error @ StorageError::Offset { committed: 1.., .. }) => Err(error),
            Err(error) => {
                upload.discard();
                Err(error)
            }
        }
    }

    fn at(&self) -> impl FnOnce(io::Error) -> StorageError + use<> {
        StorageError::at(self.plan.path.clone())
    }

    /// Resumes the part at `offset`, which may lie within the received bytes.
    fn resume(&mut self, offset: u64) -> Result<(), StorageError> {
        let here = self.file.metadata().map_err(self.at())?.len();
        if offset > here {
            return Err(StorageError::Offset { path: self.plan.path.clone(), committed: here });
        }
        self.file.set_len(offset).map_err(self.at())?;
        // A full disk is reported before anything is sent. Nothing is reserved: an announcement alone takes
        // no space.
        let room = rustix::fs::fstatvfs(&self.file).map_err(io::Error::from).map_err(self.at())?;
        if self.plan.size.saturating_sub(offset) > room.f_bavail.saturating_mul(room.f_frsize) {
            return Err(StorageError::Full { what: self.plan.path.clone() });
        }
        let note = serde_json::to_vec(&self.plan).map_err(io::Error::from).map_err(self.at())?;
        fs::write(&self.note, note).map_err(self.at())?;
        crash::point("upload.note");
        self.rehash(offset)?;
        self.written = offset;
        Ok(())
    }

    fn rehash(&mut self, until: u64) -> Result<(), StorageError> {
        self.file.rewind().map_err(self.at())?;
        let mut buffer = vec![0; 1 << 16];
        let mut left = until;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let got = self.file.read(&mut buffer[..want]).map_err(self.at())?;
            if got == 0 {
                return Err(StorageError::System {
                    what: self.plan.path.clone(),
                    source: io::ErrorKind::UnexpectedEof.into(),
                });
            }
            self.hash.update(&buffer[..got]);
            left -= got as u64;
        }
        self.file.seek(SeekFrom::Start(until)).map_err(self.at())?;
        Ok(())
    }

    /// Writes the next bytes.
    pub(crate) fn write(&mut self, chunk: &[u8]) -> Result<(), StorageError> {
        let after = self.written + chunk.len() as u64;
        if after > self.plan.size {
            let error =
                StorageError::Length { path: self.plan.path.clone(), got: after, announced: self.plan.size };
            self.discard();
            return Err(error);
        }
        self.file.write_all(chunk).map_err(self.at())?;
        crash::point("upload.chunk");
        self.hash.update(chunk);
        self.written = after;
        Ok(())
    }

    /// Verifies a complete upload, and moves the file to its path. The note keeps the `owner` until the
    /// change is journaled.
    pub(crate) fn finish(self, owner: Value) -> Result<(Entry, Option<IntentNote>), StorageError> {
        if self.written < self.plan.size {
            // Treated as interrupted: the part stays.
            return Err(StorageError::Length {
                path: self.plan.path,
                got: self.written,
                announced: self.plan.size,
            });
        }
        let got = HEXLOWER.encode(&self.hash.clone().finalize());
        if got != self.plan.sha256 {
            self.discard();
            return Err(StorageError::Digest { path: self.plan.path, got, announced: self.plan.sha256 });
        }
        self.file.sync_all().map_err(self.at())?;
        crash::point("upload.synced");
        let intent = self.intent(owner)?;
        let note = IntentNote::write(&self.layout, &intent)?;
        let part = self.part.to_string_lossy().into_owned();
        let placed = self.root.place((rustix::fs::CWD, &part), &self.plan.path, self.overwrite);
        crash::point("upload.placed");
        if placed.is_ok() {
            let _ = fs::remove_file(&self.note);
        }
        crash::point("upload.done");
        intent::settle(&self.layout, intent, note, placed)
    }

    fn intent(&self, owner: Value) -> Result<Intent, StorageError> {
        let part = self.part.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let modified = self.file.metadata().and_then(|found| found.modified()).map_err(self.at())?;
        let modified = modified.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let entry = Entry {
            path: self.plan.path.clone(),
            kind: EntryKind::File,
            size: self.plan.size,
            modified: i64::try_from(modified).unwrap_or(i64::MAX),
        };
        Ok(Intent { act: FileAct::Put { part }, entry, owner })
    }

    fn discard(&self) {
        let _ = unfinished::remove(&self.part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{layout::Layout, storage::make_zone};

    fn zone() -> (tempfile::TempDir, VmLayout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), "/state", "/run").vm(uuid::Uuid::from_u128(1));
        make_zone(&layout).unwrap();
        (dir, layout)
    }

    fn plan(content: &[u8]) -> UploadPlan {
        UploadPlan {
            path: "/a.iso".into(),
            size: content.len() as u64,
            sha256: HEXLOWER.encode(&Sha256::digest(content)),
        }
    }

    #[test]
    fn a_cut_upload_is_resumed_and_appears_only_whole() {
        let (_dir, layout) = zone();
        let content = vec![7; 300_000];
        let mut first = Upload::begin(&layout, plan(&content), 0, false).unwrap();
        first.write(&content[..100_000]).unwrap();
        assert!(matches!(Upload::begin(&layout, plan(&content), 0, false), Err(StorageError::Busy { .. })));
        drop(first);
        assert!(!layout.root().join("a.iso").exists());
        let cut = unfinished::unfinished(&layout).unwrap();
        assert_eq!((cut[0].committed, &cut[0].plan), (100_000, &plan(&content)));

        let beyond = Upload::begin(&layout, plan(&content), 100_001, false).unwrap_err();
        assert!(matches!(beyond, StorageError::Offset { committed: 100_000, .. }));
        let mut second = Upload::begin(&layout, plan(&content), 100_000, false).unwrap();
        second.write(&content[100_000..]).unwrap();
        assert_eq!(second.finish(Value::Null).unwrap().0.size, 300_000);
        assert_eq!(fs::read(layout.root().join("a.iso")).unwrap(), content);
        assert_eq!(unfinished::unfinished(&layout).unwrap(), []);
        let (intent, note) = intent::intents(&layout).unwrap().pop().unwrap();
        assert_eq!((intent.entry.path.as_str(), intent.entry.size), ("/a.iso", 300_000));
        note.remove();
        assert_eq!(fs::read_dir(layout.uploads()).unwrap().count(), 0);
    }

    #[test]
    fn wrong_content_leaves_nothing() {
        let (_dir, layout) = zone();
        let mut wrong = Upload::begin(&layout, plan(b"right"), 0, false).unwrap();
        wrong.write(b"wrong").unwrap();
        assert!(matches!(wrong.finish(Value::Null), Err(StorageError::Digest { .. })));
        let mut long = Upload::begin(&layout, plan(b"right"), 0, false).unwrap();
        assert!(matches!(long.write(b"right+"), Err(StorageError::Length { .. })));
        drop(long);
        let short = Upload::begin(&layout, plan(b"right"), 0, false).unwrap();
        assert!(matches!(short.finish(Value::Null), Err(StorageError::Length { .. })));
        assert_eq!(fs::read_dir(layout.root()).unwrap().count(), 0);
    }

    #[test]
    fn an_existing_file_is_replaced_only_when_asked() {
        let (_dir, layout) = zone();
        fs::write(layout.root().join("a.iso"), "old").unwrap();
        assert!(matches!(Upload::begin(&layout, plan(b"new"), 0, false), Err(StorageError::Exists { .. })));
        let mut upload = Upload::begin(&layout, plan(b"new"), 0, true).unwrap();
        upload.write(b"new").unwrap();
        upload.finish(Value::Null).unwrap().1.unwrap().remove();
        assert_eq!(fs::read(layout.root().join("a.iso")).unwrap(), b"new");
    }

    #[test]
    fn a_disk_that_is_too_full_is_told_at_once() {
        let (_dir, layout) = zone();
        let huge = UploadPlan { size: 1 << 50, ..plan(b"x") };
        assert!(matches!(Upload::begin(&layout, huge, 0, false), Err(StorageError::Full { .. })));
        assert_eq!(fs::read_dir(layout.uploads()).unwrap().count(), 0);
    }
}
