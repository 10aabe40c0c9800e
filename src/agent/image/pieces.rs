//! The bytes of an import on their way: from a source, or from the client that uploads them.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use crate::{agent::error::Error, source::Content};

/// Where an import's bytes come from.
pub(super) enum Pieces {
    Source(Content),
    Upload(Waiting),
}

impl Pieces {
    /// Whether they wait for a client, who may be slow.
    pub(super) fn are_uploaded(&self) -> bool {
        matches!(self, Self::Upload(_))
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match self {
            Self::Source(content) => Ok(content.next().await?),
            Self::Upload(waiting) => waiting.next().await,
        }
    }
}

/// The bytes of an upload, for the import.
pub(super) struct Waiting {
    queue: mpsc::Receiver<Bytes>,
    patience: Duration,
    /// When the last piece came.
    since: Instant,
    left: u64,
}

impl Waiting {
    /// Waits so long for each piece of `size` bytes.
    pub(super) fn new(queue: mpsc::Receiver<Bytes>, patience: Duration, size: u64) -> Self {
        Self { queue, patience, since: Instant::now(), left: size }
    }

    /// The next piece; `None` when all has come.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        match timeout_at(self.since + self.patience, self.queue.recv()).await {
            Ok(Some(piece)) => {
                self.since = Instant::now();
                self.left = self.left.saturating_sub(piece.len() as u64);
                Ok(Some(piece))
            }
            Ok(None) => Ok(None),
            Err(_) => {
                let message = "nobody went on with the upload".to_owned();
                Err(Error::UploadBroken { path: String::new(), message })
            }
        }
    }
}
