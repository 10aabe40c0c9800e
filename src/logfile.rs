//! A log that is numbered by byte and trimmed at its start: offsets stay, the space is freed.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::fs::{FallocateFlags, SeekFrom};

/// Bytes of a hypervisor's own messages that are kept.
pub(crate) const MESSAGES: u64 = 256 << 10;
/// Bytes over the bound before a log is trimmed.
pub(crate) const SLACK: u64 = 256 << 10;
/// Holes are multiples of this.
pub(crate) const BLOCK: u64 = 64 << 10;

/// Opens a log for appending; creates it if missing.
pub(crate) fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Returns the log's first kept offset, and its end.
pub(crate) fn range(file: &File) -> io::Result<(u64, u64)> {
    let end = file.metadata()?.len();
    let oldest = match rustix::fs::seek(file, SeekFrom::Data(0)) {
        Ok(oldest) => oldest,
        Err(rustix::io::Errno::NXIO) => end,
        // A file system without holes keeps everything.
        Err(rustix::io::Errno::INVAL) => 0,
        Err(error) => return Err(error.into()),
    };
    Ok((oldest.min(end), end))
}

/// Frees the space of bytes over the bound, once they exceed `slack`. The file is open for writing.
pub(crate) fn trim(file: &File, keep: u64, slack: u64) -> io::Result<()> {
    let (oldest, end) = range(file)?;
    if end - oldest <= keep.saturating_add(slack) {
        return Ok(());
    }
    let cut = (end - keep) / BLOCK * BLOCK;
    if cut > 0 {
        rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, cut)?;
    }
    Ok(())
}
