//! ZFS send streams of volumes, read without ZFS.
//!
//! ```text
//!   package:  BEGIN(list) END  stream  stream  …  END(zeros)      stream:  BEGIN  records  END
//!
//!   records of object 1, the data:   OBJECT ─▶ WRITE | WRITE_EMBEDDED | WRITE_BYREF | FREE ─▶ the disk
//!   records of object 2, its size:   OBJECT ─▶ WRITE | WRITE_EMBEDDED of a table        ─▶ `size`
//! ```
//!
//! The stream is read once and forward. Everything in it may be a lie: sums are wrong in damaged ones only, and anybody
//! can compute them. Nothing may be believed before END, and then only what the caller checks. At most one payload and
//! one block are in memory.

mod block;
mod fletcher;
mod properties;
mod record;
mod stream;

pub(crate) use stream::{Receiver, read_volume};

/// The beginning of a stream: whose content it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Begin {
    /// `pool/path@snapshot`.
    pub(crate) name: String,
    /// The snapshot's own number.
    pub(crate) guid: u64,
    /// The number of the snapshot that it builds on; 0 for a full stream.
    pub(crate) base: u64,
    /// A file system, not a volume.
    pub(crate) is_file_system: bool,
}

/// Whether content that begins with `head` may be a ZFS stream.
#[must_use]
pub(crate) fn is_stream(head: &[u8]) -> bool {
    const MAGIC: u64 = 0x2_f5ba_cbac;
    let magic = head.get(8..16).and_then(|bytes| bytes.try_into().ok());
    magic.is_some_and(|bytes| u64::from_le_bytes(bytes) == MAGIC || u64::from_be_bytes(bytes) == MAGIC)
        && head.get(..4) == Some(&[0; 4])
}
