//! One pipe that is drained into its log.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsFd, unix::fs::OpenOptionsExt as _},
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, Timestamps},
    io::Errno,
    pipe::SpliceFlags,
};

use super::Way;
use crate::logfile::{BLOCK, SLACK, open_log, trim};

/// Bytes per splice.
const PIECE: usize = 1 << 20;
/// Wait before a stuck log is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The outcome of draining a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Bytes were carried; there may be more.
    Carried,
    /// The pipe is empty.
    Empty,
    /// The pipe is empty, and its hypervisor gone.
    Ended,
    /// The log accepts none now, for example on a full disk: the guest waits.
    Stuck,
}

/// A pipe and its log, open.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) way: Way,
    pub(super) end: File,
    log: File,
    locked: bool,
    uncut: u64,
    stuck_until: Option<Instant>,
}

impl Pipe {
    pub(super) fn open(way: Way) -> io::Result<Self> {
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let end = OpenOptions::new().read(true).custom_flags(flags).open(&way.pipe)?;
        // The kernel splices into no file that is open for appending.
        drop(open_log(&way.log)?);
        let log = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&way.log)?;
        Ok(Self { way, end, log, locked: false, uncut: 0, stuck_until: None })
    }

    /// Whether this pipe, and no newer one, is still at its path.
    pub(super) fn is_at_its_path(&self) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let of = |found: std::fs::Metadata| (found.dev(), found.ino());
        let named = std::fs::symlink_metadata(&self.way.pipe).map(of);
        matches!((named, self.end.metadata().map(of)), (Ok(named), Ok(own)) if named == own)
    }

    /// When a stuck pipe is tried again; `None` when it waits for its hypervisor.
    pub(super) fn stuck_until(&self) -> Option<Instant> {
        self.stuck_until
    }

    /// Carries pending output.
    pub(super) fn carry(&mut self) -> Look {
        if self.stuck_until.is_some_and(|until| Instant::now() < until) {
            return Look::Stuck;
        }
        self.stuck_until = None;
        match self.try_carry() {
            Ok(look) => look,
            Err(_) => {
                self.stuck_until = Some(Instant::now() + AGAIN);
                Look::Stuck
            }
        }
    }

    fn try_carry(&mut self) -> io::Result<Look> {
        if !self.locked {
            // Another logger may be exiting.
            rustix::fs::flock(&self.log, FlockOperation::NonBlockingLockExclusive)?;
            self.locked = true;
        }
        let carried = match self.splice() {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                // The newest output is worth more than the oldest.
                trim(&self.log, BLOCK, 0)?;
                self.splice()?
            }
            carried => carried?,
        };
        match carried {
            None => Ok(Look::Empty),
            Some(0) => Ok(Look::Ended),
            Some(count) => {
                self.uncut += count;
                if self.uncut >= BLOCK {
                    self.uncut = 0;
                    let _ = trim(&self.log, self.way.keep, SLACK);
                }
                // This wakes watchers of the log; before Linux 6.4 a splice does not.
                let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
                let _ =
                    rustix::fs::futimens(&self.log, &Timestamps { last_access: now, last_modification: now });
                Ok(Look::Carried)
            }
        }
    }

    /// Returns the bytes moved; `Some(0)` at the end of a pipe whose hypervisor is gone.
    fn splice(&self) -> io::Result<Option<u64>> {
        let mut at = self.log.metadata()?.len();
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        match rustix::pipe::splice(self.end.as_fd(), None, self.log.as_fd(), Some(&mut at), PIECE, flags) {
            Ok(count) => Ok(Some(count as u64)),
            Err(Errno::AGAIN) => Ok(None),
            Err(Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
