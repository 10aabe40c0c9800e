//! What a hypervisor appends to: numbered by byte, and cut from below.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{FallocateFlags, SeekFrom};
use tokio::sync::watch;

use super::ConsoleError;

/// Output over the bound before it is cut.
pub(super) const SLACK: u64 = 256 << 10;
/// Punching is done in multiples of this.
pub(super) const BLOCK: u64 = 64 << 10;

/// A file that the hypervisor appends to, as the hub knows it.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) path: PathBuf,
    keep: u64,
    /// Ticks when the log grew; closed when the VM is deleted.
    pub(super) grown: watch::Sender<u64>,
}

impl Log {
    pub(super) fn new(path: PathBuf, keep: u64) -> Arc<Self> {
        Arc::new(Self { path, keep, grown: watch::channel(0).0 })
    }

    /// The oldest byte that is kept, and one more than the newest.
    pub(super) fn range(&self) -> Result<(u64, u64), ConsoleError> {
        match File::open(&self.path) {
            Ok(file) => range(&file).map_err(ConsoleError::at("reading the console's log")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((0, 0)),
            Err(error) => Err(ConsoleError::at("opening the console's log")(error)),
        }
    }

    pub(super) fn grew(&self) {
        self.grown.send_modify(|tick| *tick += 1);
    }

    /// Called for each growth: wakes the readers and keeps to the bound.
    pub(super) fn on_growth(&self) {
        if let Err(error) = trim(&self.path, self.keep) {
            tracing::warn!(%error, log = %self.path.display(), "the console's log can't be cut; it grows");
        }
        self.grew();
    }
}

pub(super) fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// The log's first byte that is not punched out, and its end.
pub(super) fn range(file: &File) -> io::Result<(u64, u64)> {
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

/// Gives back the room of what is over the bound.
fn trim(path: &Path, keep: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).read(true).open(path)?;
    let (oldest, end) = range(&file)?;
    if end - oldest <= keep + SLACK {
        return Ok(());
    }
    let cut = (end - keep) / BLOCK * BLOCK;
    rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, cut)?;
    Ok(())
}
