//! The turns of imports: few have a converter at work at the same time, and who sends nothing has none.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::pieces::Pieces;
use crate::agent::{context::VmContext, error::Error};

/// Who sends nothing for so long gives the turn to others until the next byte.
const IDLE: Duration = Duration::from_secs(30);
/// A source sends at least [`LEAST`] bytes in so long.
const PACE: Duration = Duration::from_secs(300);
const LEAST: u64 = 1 << 20;

/// An import's turn, while it has it.
pub(super) struct Turn<'a> {
    turns: &'a Semaphore,
    turn: Option<SemaphorePermit<'a>>,
    /// Where a source was at the beginning of this period.
    period: (Instant, u64),
    is_source: bool,
}

impl<'a> Turn<'a> {
    /// Uploads and fetches do not wait for each other.
    pub(super) fn of(context: &'a VmContext, pieces: &Pieces) -> Self {
        let is_source = !pieces.are_uploaded();
        let turns = if is_source { &context.import_turns } else { &context.upload_turns };
        Self { turns, turn: None, period: (Instant::now(), 0), is_source }
    }

    /// Waits for the turn.
    pub(super) async fn take(&mut self) -> Result<(), Error> {
        if self.turn.is_none() {
            self.turn = Some(self.turns.acquire().await.map_err(Error::internal)?);
            self.period = (Instant::now(), 0);
        }
        Ok(())
    }

    /// The next piece. Cancelled between pieces, it loses none.
    pub(super) async fn next(&mut self, pieces: &mut Pieces) -> Result<Option<Bytes>, Error> {
        let piece = match timeout(IDLE, pieces.next()).await {
            Ok(piece) => piece?,
            Err(_) => {
                self.turn = None;
                pieces.next().await?
            }
        };
        let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
        self.check_pace(length)?;
        self.take().await?;
        Ok(piece)
    }

    fn check_pace(&mut self, length: u64) -> Result<(), Error> {
        let (since, bytes) = self.period;
        self.period = (since, bytes + length);
        if !self.is_source || since.elapsed() < PACE {
            return Ok(());
        }
        self.period = (Instant::now(), 0);
        match bytes + length < LEAST {
            true => {
                let message =
                    format!("the source is too slow: {} bytes in {} s", bytes + length, PACE.as_secs());
                Err(Error::SourceFailed { message })
            }
            false => Ok(()),
        }
    }
}
