//! The turns of imports: few have a converter at work at the same time, and who sends nothing has none.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
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
        Self::new(if is_source { &context.import_turns } else { &context.upload_turns }, is_source)
    }

    fn new(turns: &'a Semaphore, is_source: bool) -> Self {
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

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::{super::pieces::Waiting, *};

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_has_no_turn_and_gets_it_back() {
        let turns = Semaphore::new(1);
        let (sender, queue) = mpsc::channel(1);
        let mut pieces = Pieces::Upload(Waiting::new(queue, Duration::from_secs(3600), 6));
        let mut turn = Turn::new(&turns, false);
        turn.take().await.unwrap();
        assert!(turns.try_acquire().is_err());
        let sending = async {
            tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
            assert!(turns.try_acquire().is_err(), "not yet");
            tokio::time::sleep(Duration::from_secs(2)).await;
            let other = turns.try_acquire().unwrap();
            sender.send(Bytes::from_static(b"abc")).await.unwrap();
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(other);
        };
        let (piece, ()) = tokio::join!(turn.next(&mut pieces), sending);
        assert_eq!(piece.unwrap().unwrap(), "abc");
        assert!(turns.try_acquire().is_err(), "it has its turn again");
        // Nobody goes on: the patience is the whole silence, with and without the turn.
        let began = Instant::now();
        turn.next(&mut pieces).await.unwrap_err();
        let waited = began.elapsed().as_secs();
        assert!((3530..3601).contains(&waited), "{waited} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_keeps_a_pace() {
        let turns = Semaphore::new(1);
        let mut turn = Turn::new(&turns, true);
        turn.take().await.unwrap();
        for _ in 0..10 {
            tokio::time::sleep(PACE).await;
            turn.check_pace(LEAST).unwrap();
        }
        tokio::time::sleep(PACE / 2).await;
        turn.check_pace(LEAST / 2).unwrap();
        tokio::time::sleep(PACE / 2).await;
        let error = turn.check_pace(1).unwrap_err().to_string();
        assert!(error.contains("too slow"), "{error}");
    }
}
