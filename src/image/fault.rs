//! What is wrong with an image's bytes.

use std::{fmt, io};

use serde::{Deserialize, Serialize};

/// A kind of damage, or of content that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Nothing that the agent knows begins like this.
    UnknownFormat,
    /// The end came too early.
    Truncated,
    /// A checksum in the content is wrong.
    Checksum,
    /// The compressed file itself is damaged.
    BadContainer,
    /// A record, header or table has an impossible value.
    BadRecord,
    /// A compressed block is damaged.
    BadCompressed,
    /// The content needs something that the agent does not read.
    Unsupported,
    /// The content is encrypted.
    Encrypted,
    /// The rest of an interrupted ZFS stream.
    Resuming,
    /// A ZFS stream with parts left out.
    Redacted,
    /// The content is a difference from an image that is not the named origin.
    NeedsOrigin,
    /// A ZFS stream of a file system, or of several disks.
    NotADisk,
    /// Nothing in a ZFS stream says how large the disk is.
    NoSize,
    /// It refers to other files.
    External,
    /// It would be larger than the limit.
    TooLarge,
    /// No room on the file system.
    NoRoom,
    /// Another failure of the host.
    Host,
}

/// Damaged or refused content: the kind, where, and in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{what}{}", At(*at))]
pub struct Fault {
    /// Its kind.
    pub kind: FaultKind,
    /// In words.
    pub what: String,
    /// Bytes of the unpacked content before it, where that is known.
    pub at: Option<u64>,
}

struct At(Option<u64>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |at| write!(f, " (at byte {at})"))
    }
}

impl Fault {
    /// Without a place.
    pub(crate) fn new(kind: FaultKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), at: None }
    }

    /// At a byte of the content.
    pub(crate) fn at(kind: FaultKind, at: u64, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), at: Some(at) }
    }

    /// The output can't be written.
    pub(crate) fn host(error: &io::Error) -> Self {
        let what = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => "no room for the image on the file system".to_owned(),
            Some(libc::EFBIG) => "the image is larger than the limit".to_owned(),
            _ => format!("writing the image: {error}"),
        };
        let kind = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => FaultKind::NoRoom,
            Some(libc::EFBIG) => FaultKind::TooLarge,
            _ => FaultKind::Host,
        };
        Self::new(kind, what)
    }

    /// The input ended or is damaged. A decoder's own errors come as [`io::Error`]s of other kinds.
    pub(crate) fn input(error: &io::Error, at: u64) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()) {
            Some(fault) => fault.clone(),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::at(FaultKind::Truncated, at, "the content ends too early")
            }
            None => Self::at(FaultKind::Host, at, format!("reading: {error}")),
        }
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        Self::other(fault)
    }
}
