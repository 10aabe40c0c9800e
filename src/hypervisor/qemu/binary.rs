//! Identifies the QEMU at a path: a replaced binary may behave differently.

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use serde::{Deserialize, Serialize};

/// A file as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Stamp {
    pub(super) async fn of(path: &Path) -> io::Result<Self> {
        let found = tokio::fs::metadata(path).await?;
        let changed = (found.ctime(), found.ctime_nsec());
        Ok(Self { device: found.dev(), inode: found.ino(), changed })
    }
}
