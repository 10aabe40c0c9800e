//! The output of a hypervisor as the hub knows it: a log that grows.

use std::{
    fs::{File, OpenOptions},
    io,
    path::PathBuf,
    sync::Arc,
};

use tokio::sync::watch;

use super::ConsoleError;
use crate::logfile::{SLACK, range, trim};

/// A log, as the hub knows it.
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

    /// Returns the oldest kept offset and the end offset.
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

    /// Handles growth: wakes the readers and trims the log to its bound.
    pub(super) fn on_growth(&self) {
        let open = || OpenOptions::new().write(true).read(true).open(&self.path);
        if let Err(error) = open().and_then(|file| trim(&file, self.keep, SLACK)) {
            tracing::warn!(%error, log = %self.path.display(), "the console's log can't be cut; it grows");
        }
        self.grew();
    }
}
