//! The record of an image.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{stop::WaitingCall, time::Timestamp};
use crate::spec::image::{Digest, Manifest};

/// The record of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Its permanent name.
    pub uuid: Uuid,
    /// What it is, for people and programs.
    pub manifest: Manifest,
    /// Whether it can be used.
    pub state: ImageState,
    /// Where its bytes come from, without credentials: an URL, or `upload`.
    pub source: String,
    /// What to fetch; `None` for an upload. The next agent begins again with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<Fetch>,
    /// Of the file as it arrived; of an image under way as it is announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Bytes of the disk; 0 until they are known.
    #[serde(default)]
    pub size: u64,
    /// The number of its ZFS snapshot, if it came as a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guid: Option<u64>,
    /// What the file was, as `qcow2` or `zfs`, and what it was packed into.
    #[serde(default)]
    pub format: String,
    /// When its import began.
    pub created: Timestamp,
    /// The call that began it, for the agent that has to answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<WaitingCall>,
}

impl ImageRecord {
    /// MiB of the disk, rounded up.
    #[must_use]
    pub fn mebibytes(&self) -> u64 {
        self.size.div_ceil(1 << 20)
    }
}

/// The states of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageState {
    /// Its bytes arrive.
    Importing,
    /// VMs can be made from it.
    Active,
}

/// An image to fetch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// The URL, as the caller gave it.
    pub url: String,
    /// It is a raw disk, whatever it looks like.
    #[serde(default)]
    pub is_raw: bool,
}

/// What happened to an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum ImageStep {
    /// Its import began.
    Begun,
    /// So many bytes have arrived.
    Progress {
        /// Bytes of the file.
        received: u64,
        /// Of so many, where that is known.
        total: Option<u64>,
    },
    /// It can be used.
    Imported,
    /// Its import failed or was cancelled, and nothing is left of it.
    Failed {
        /// Why.
        reason: String,
    },
    /// It is gone.
    Deleted,
}

impl ImageStep {
    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Begun => "IMAGE_BEGUN",
            Self::Progress { .. } => "IMAGE_PROGRESS",
            Self::Imported => "IMAGE_IMPORTED",
            Self::Failed { .. } => "IMAGE_FAILED",
            Self::Deleted => "IMAGE_DELETED",
        }
    }
}
