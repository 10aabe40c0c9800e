//! The plan of an upload, and the names of the files beside it.

use std::{path::Path, time::Duration};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Extension of a note.
pub(super) const INTENT: &str = "deed";
/// Extension while it is being written.
pub(super) const INTENT_DRAFT: &str = "draft";

/// The plan of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadPlan {
    /// Inside the zone's root.
    pub path: String,
    /// Bytes of the whole file.
    pub size: u64,
    /// Of the whole file, lower-case hexadecimal.
    pub sha256: String,
}

impl UploadPlan {
    /// Name of the part; the same for each try.
    pub(super) fn key(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.path.as_bytes());
        hash.update([0]);
        hash.update(self.size.to_be_bytes());
        hash.update(self.sha256.as_bytes());
        HEXLOWER.encode(&hash.finalize())[..32].to_owned()
    }
}

/// Whether nobody has touched it for a minute.
pub(super) fn is_old(path: &Path) -> bool {
    let modified = path.metadata().and_then(|found| found.modified());
    modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > Duration::from_secs(60)))
}
