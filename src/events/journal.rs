//! Following the journal.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::cursor::Cursor;
use crate::{
    model::{Event, Timestamp, VmRecord},
    store::{EventPage, EventQuery, JournalRange, Keep, Reader, Store, StoreError},
};

/// Newest events kept in memory for watchers that keep up, and their bytes in the journal.
const TAIL: usize = 1024;
const TAIL_BYTES: usize = 8 << 20;
/// Rows that a watcher reads at once when it is behind.
const BATCH: u32 = 256;

/// Why a watch can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The cursor is of another agent's journal, or of the future.
    #[error("the cursor belongs to another agent's journal; start again")]
    Foreign,
    /// The journal was trimmed past the cursor.
    #[error("the journal no longer reaches back to the cursor; start again")]
    Expired {
        /// The first place to start from.
        oldest: Cursor,
        /// The last.
        newest: Cursor,
    },
    /// The journal can't be read.
    #[error("the journal can't be read")]
    Store(#[source] StoreError),
}

impl From<StoreError> for WatchError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The events of this host.
#[derive(Clone, Debug)]
pub struct Journal {
    epoch: u64,
    reader: Reader,
    tail: Arc<RwLock<Tail>>,
    newest: watch::Receiver<i64>,
}

/// The newest events.
#[derive(Debug, Default)]
struct Tail {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.size;
        self.events.push_back(event);
        while self.events.len() > TAIL || (self.bytes > TAIL_BYTES && self.events.len() > 1) {
            let Some(oldest) = self.events.pop_front() else { return };
            self.bytes -= oldest.size;
        }
    }
}

impl Journal {
    /// Opens the state file; returns the store to write it and the journal to read it.
    pub fn open(path: &Path, keep: Keep) -> Result<(Store, Reader, Self), StoreError> {
        let tail = Arc::new(RwLock::new(Tail::default()));
        let (sender, newest) = watch::channel(0);
        let grown = tail.clone();
        let sequence = sender.clone();
        let store = Store::open(path, keep, move |events: Vec<Arc<Event>>| {
            let Some(last) = events.last().map(|event| event.sequence) else { return };
            let mut tail = grown.write().unwrap_or_else(PoisonError::into_inner);
            events.into_iter().for_each(|event| tail.push(event));
            drop(tail);
            sequence.send_replace(last);
        })?;
        let reader = Reader::open(path)?;
        sender.send_replace(reader.journal_range()?.newest);
        let journal = Self { epoch: reader.epoch()?, reader: reader.clone(), tail, newest };
        Ok((store, reader, journal))
    }

    /// The cursor after the event with that number.
    #[must_use]
    pub fn cursor(&self, sequence: i64) -> Cursor {
        Cursor { epoch: self.epoch, sequence }
    }

    /// Watches from now on.
    #[must_use]
    pub fn watch_now(&self) -> Watcher {
        self.watcher(*self.newest.borrow())
    }

    /// Watches from the oldest event.
    pub fn watch_all(&self) -> Result<Watcher, WatchError> {
        Ok(self.watcher(self.reader.journal_range()?.oldest - 1))
    }

    /// Watches what happened from that time on, as far as the journal reaches back.
    pub fn watch_since(&self, time: Timestamp) -> Result<Watcher, WatchError> {
        Ok(self.watcher(self.reader.last_before(time)?))
    }

    /// Lists events, from the beginning or the place that a cursor names; see [`Reader::events_where`].
    pub async fn list(
        &self,
        from: Option<Cursor>,
        query: EventQuery,
        limit: u32,
    ) -> Result<EventPage, WatchError> {
        let journal = self.clone();
        let read = move || {
            let from = match from {
                // After its event when the journal is read forwards, before it when backwards.
                Some(cursor) => journal.watch_from(cursor)?.after,
                None if query.backwards => i64::MAX,
                None => journal.watch_all()?.after,
            };
            let query = EventQuery { from, ..query };
            let found = journal.reader.events_where(&query, limit)?;
            // Afterwards: events trimmed during the read are missing.
            if !query.backwards {
                journal.reaches(query.from, journal.reader.journal_range()?)?;
            }
            Ok(found)
        };
        tokio::task::spawn_blocking(read).await.map_err(|_| WatchError::Store(StoreError::Closed))?
    }

    /// See [`Reader::vm_before`].
    pub async fn vm_before(
        &self,
        uuid: Uuid,
        sequence: i64,
    ) -> Result<Option<Option<Box<VmRecord>>>, WatchError> {
        let reader = self.reader.clone();
        let read = move || reader.vm_before(uuid, sequence);
        Ok(tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Closed)??)
    }

    /// Watches from the place that `cursor` names.
    pub fn watch_from(&self, cursor: Cursor) -> Result<Watcher, WatchError> {
        let range = self.reader.journal_range()?;
        if cursor.epoch != self.epoch || cursor.sequence > range.newest {
            return Err(WatchError::Foreign);
        }
        self.reaches(cursor.sequence, range)?;
        Ok(self.watcher(cursor.sequence))
    }

    fn reaches(&self, sequence: i64, range: JournalRange) -> Result<(), WatchError> {
        if sequence + 1 < range.oldest {
            return Err(WatchError::Expired {
                oldest: self.cursor(range.oldest - 1),
                newest: self.cursor(range.newest),
            });
        }
        Ok(())
    }

    fn watcher(&self, after: i64) -> Watcher {
        let newest = self.newest.clone();
        Watcher { journal: self.clone(), after, ready: VecDeque::new(), ahead: None, newest }
    }

    /// Reads events after `sequence` from the file.
    fn read_after(&self, sequence: i64) -> Reading {
        let journal = self.clone();
        AbortOnDropHandle::new(tokio::task::spawn_blocking(move || {
            let events = journal.reader.events_after(sequence, BATCH)?;
            // Afterwards: events trimmed during the read are missing.
            journal.reaches(sequence, journal.reader.journal_range()?)?;
            Ok(events)
        }))
    }

    fn tail_after(&self, sequence: i64) -> Option<Vec<Arc<Event>>> {
        let tail = &self.tail.read().unwrap_or_else(PoisonError::into_inner).events;
        let first = tail.front()?.sequence;
        if first > sequence + 1 {
            return None;
        }
        let from = tail.partition_point(|event| event.sequence <= sequence);
        Some(tail.range(from..).take(BATCH as usize).cloned().collect())
    }
}

type Reading = AbortOnDropHandle<Result<Vec<Arc<Event>>, WatchError>>;

/// One reader's place in the journal.
#[derive(Debug)]
pub struct Watcher {
    journal: Journal,
    after: i64,
    ready: VecDeque<Arc<Event>>,
    /// The events after `ready`, for a watcher far behind: read while those are delivered.
    ahead: Option<Reading>,
    newest: watch::Receiver<i64>,
}

impl Watcher {
    /// Returns the next event, if ready.
    pub fn ready(&mut self) -> Option<Arc<Event>> {
        let event = self.ready.pop_front()?;
        self.after = event.sequence;
        Some(event)
    }

    /// Returns the next event; waits while there is none yet. Nothing is lost when the returned future is
    /// dropped.
    pub async fn next(&mut self) -> Result<Arc<Event>, WatchError> {
        loop {
            if let Some(event) = self.ready() {
                return Ok(event);
            }
            let after = self.after;
            self.newest
                .wait_for(|newest| *newest > after)
                .await
                .map_err(|_| WatchError::Store(StoreError::Closed))?;
            self.ready = match self.journal.tail_after(after) {
                Some(events) => {
                    self.ahead = None;
                    events.into()
                }
                None => {
                    // Kept, so that a future that is dropped loses nothing.
                    let reading = self.ahead.get_or_insert_with(|| self.journal.read_after(after));
                    let read = reading.await;
                    self.ahead = None;
                    read.map_err(|_| WatchError::Store(StoreError::Closed))??.into()
                }
            };
            if let Some(last) = self.ready.back().filter(|_| self.ready.len() == BATCH as usize)
                && self.journal.tail_after(last.sequence).is_none()
            {
                self.ahead = Some(self.journal.read_after(last.sequence));
            }
        }
    }

    /// Returns whether every event journaled so far was delivered.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.ready.is_empty() && self.after >= *self.newest.borrow()
    }

    /// Returns whether it has reached the event that was the newest once.
    #[must_use]
    pub fn is_past(&self, newest: i64) -> bool {
        self.after >= newest
    }

    /// The number of the newest event, now.
    #[must_use]
    pub fn newest(&self) -> i64 {
        *self.newest.borrow()
    }

    /// Where the next watch would continue.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.journal.cursor(self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{EventKind, NewEvent},
        store::Commit,
    };

    fn fact(n: u128) -> Commit {
        let kind = EventKind::Deleted { alias: n.to_string() };
        let event = NewEvent { uuid: Uuid::from_u128(n), actor: String::new(), request_id: None, kind };
        Commit { events: vec![event], ..Commit::default() }
    }

    #[tokio::test]
    async fn every_start_sees_every_event_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _, journal) = Journal::open(&dir.path().join("s.db"), Keep::default()).unwrap();
        let total = TAIL as u128 + 300;
        let mut now = journal.watch_now();
        for n in 0..total {
            store.commit_soon(fact(n)).await;
        }
        store.commit(fact(total)).await.unwrap();

        let mut old = journal.watch_all().unwrap();
        for n in 0..=total {
            assert_eq!(old.next().await.unwrap().fact.uuid, Uuid::from_u128(n));
            assert_eq!(now.next().await.unwrap().fact.uuid, Uuid::from_u128(n));
        }
        assert!(old.is_at_end());

        let mut resumed = journal.watch_from(journal.cursor(500)).unwrap();
        assert_eq!(resumed.next().await.unwrap().sequence, 501);
    }

    #[tokio::test]
    async fn it_is_trimmed_by_age_and_size_and_a_cursor_that_is_too_old_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.db");
        let keep = Keep { age: i64::MAX, bytes: 1, least: 10, ..Keep::default() };
        let (store, _, journal) = Journal::open(&path, keep).unwrap();
        let first = journal.watch_now().cursor();
        let mut slow = journal.watch_now();
        for n in 0..3000 {
            store.commit_soon(fact(n)).await;
        }
        store.commit(fact(3000)).await.unwrap();
        let mut range = journal.reader.journal_range().unwrap();
        assert!(range.oldest > 2000, "{range:?}");
        assert!(matches!(journal.watch_from(first), Err(WatchError::Expired { .. })));
        // One that was watching all the time is told too, and nothing is skipped for it.
        assert!(matches!(slow.next().await, Err(WatchError::Expired { .. })));
        drop((store, journal));

        // A start trims nothing.
        let (store, _, journal) = Journal::open(&path, keep).unwrap();
        assert_eq!(journal.reader.journal_range().unwrap(), range);
        let mut all = journal.watch_all().unwrap();
        assert_eq!(all.next().await.unwrap().sequence, range.oldest);
        drop((store, journal));

        // By age: everything but the least is too old in the future.
        let keep = Keep { age: -1000, bytes: i64::MAX, least: 10, ..Keep::default() };
        let (store, _, journal) = Journal::open(&path, keep).unwrap();
        for n in 0..2000 {
            store.commit_soon(fact(n)).await;
        }
        store.commit(fact(0)).await.unwrap();
        range = journal.reader.journal_range().unwrap();
        assert!(range.newest - range.oldest < 600, "{range:?}");
    }

    #[tokio::test]
    async fn times_are_places_too() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _, journal) = Journal::open(&dir.path().join("s.db"), Keep::default()).unwrap();
        store.commit(fact(1)).await.unwrap();
        let watcher = journal.watch_all().unwrap().next().await.unwrap();
        let mut from_then = journal.watch_since(watcher.time).unwrap();
        assert_eq!(from_then.next().await.unwrap().sequence, watcher.sequence);
        assert!(journal.watch_since(Timestamp(watcher.time.0 + 1)).unwrap().is_at_end());
        assert!(!journal.watch_since(Timestamp(0)).unwrap().is_at_end());
    }

    #[tokio::test]
    async fn a_cursor_survives_a_restart_and_a_foreign_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.db");
        let (store, _, journal) = Journal::open(&path, Keep::default()).unwrap();
        store.commit(fact(1)).await.unwrap();
        let cursor = journal.watch_now().cursor();
        drop((store, journal));

        let (store, _, journal) = Journal::open(&path, Keep::default()).unwrap();
        store.commit(fact(2)).await.unwrap();
        let mut watcher = journal.watch_from(cursor).unwrap();
        assert_eq!(watcher.next().await.unwrap().fact.uuid, Uuid::from_u128(2));

        let foreign = Cursor { epoch: cursor.epoch ^ 1, ..cursor };
        assert!(matches!(journal.watch_from(foreign), Err(WatchError::Foreign)));
        let future = Cursor { sequence: 99, ..cursor };
        assert!(matches!(journal.watch_from(future), Err(WatchError::Foreign)));
    }
}
