//! The one thread that writes.

use std::{fmt, path::Path, sync::Arc, thread};

use rusqlite::{Connection, Transaction, params};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{error::StoreError, schema};
use crate::{
    crash,
    model::{Event, EventKind, ImageRecord, NewEvent, Timestamp, VmRecord},
};

/// Commits waiting for the writer; more than that wait with their callers.
const QUEUE: usize = 256;
/// Commits taken as one transaction.
const BATCH: usize = 64;

/// Changes that become durable together, or not at all.
#[derive(Debug, Default)]
pub struct Commit {
    /// The record of the VM.
    pub vm: Option<VmChange>,
    /// The record of the image.
    pub image: Option<ImageChange>,
    /// The events that report it.
    pub events: Vec<NewEvent>,
    /// The answers to the callers.
    pub answers: Vec<Answer>,
}

/// A change of a VM's record.
#[derive(Debug)]
pub enum VmChange {
    /// Insert or replace.
    Put(Box<VmRecord>),
    /// Remove.
    Delete(Uuid),
}

/// A change of an image's record.
#[derive(Debug)]
pub enum ImageChange {
    /// Insert or replace.
    Put(Box<ImageRecord>),
    /// Remove.
    Delete(Uuid),
}

/// The answer to a request, kept so that a repeat gets it again.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The caller's id of the request.
    pub request_id: Uuid,
    /// Of the request's content: the same id with other content is a mistake.
    pub digest: [u8; 32],
    /// JSON; opaque to the store.
    pub body: String,
}

struct Work {
    commit: Commit,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// Called by the writer with each transaction's events, in order, after they are durable.
type Listener = Box<dyn Fn(Vec<Arc<Event>>) + Send>;

/// How much of the journal is kept. It is trimmed by this alone, never because an agent starts.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Milliseconds.
    pub age: i64,
    /// Bytes of the state file that are in use; records of VMs count too.
    pub bytes: i64,
    /// The newest ones stay, however large they are.
    pub least: i64,
    /// Bytes of answers, beside the journal; the newest stay.
    pub answers: i64,
}

impl Default for Keep {
    fn default() -> Self {
        Self { age: 30 * 24 * 3600 * 1000, bytes: 1 << 30, least: 1000, answers: 128 << 20 }
    }
}

/// Commits between two trims of the journal.
const TRIM_EVERY: u32 = 256;
/// Events that are trimmed at once, so that no commit waits for long.
const TRIM: i64 = 2000;
/// Answers that are kept however large they are.
const NEWEST_ANSWERS: i64 = 100;

/// The handle on the writer. Dropping the last one ends it.
#[derive(Clone)]
pub struct Store {
    queue: mpsc::Sender<Work>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens (or creates) the state file. `listener` receives every committed event.
    pub fn open(
        path: &Path,
        keep: Keep,
        listener: impl Fn(Vec<Arc<Event>>) + Send + 'static,
    ) -> Result<Self, StoreError> {
        let connection = schema::open_writer(path)?;
        let (queue, work) = mpsc::channel(QUEUE);
        let listener: Listener = Box::new(listener);
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || write_all(connection, work, &listener, keep))
            .map_err(|error| StoreError::Sqlite(format!("cannot start the writer: {error}")))?;
        Ok(Self { queue })
    }

    /// Makes `commit` durable. When this returns an error nothing of it was written.
    pub async fn commit(&self, commit: Commit) -> Result<(), StoreError> {
        let (done, result) = oneshot::channel();
        self.queue.send(Work { commit, done }).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// Queues `commit` behind earlier ones without waiting until it is durable, for facts that
    /// nothing depends on (boot phases). A failure is logged.
    pub async fn commit_soon(&self, commit: Commit) {
        let (done, _) = oneshot::channel();
        if self.queue.send(Work { commit, done }).await.is_err() {
            tracing::warn!("event lost: the store is closed");
        }
    }
}

fn write_all(mut connection: Connection, mut queue: mpsc::Receiver<Work>, listener: &Listener, keep: Keep) {
    let mut since_trim = 0;
    let mut answered = Answered::default();
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        since_trim += u32::try_from(batch.len()).unwrap_or(TRIM_EVERY);
        write_batch(&mut connection, batch, listener);
        if since_trim >= TRIM_EVERY {
            since_trim = 0;
            let trimmed = trim(&connection, keep, Timestamp::now())
                .and_then(|()| trim_answers(&connection, keep, &mut answered));
            if let Err(error) = trimmed {
                tracing::warn!(%error, "the journal could not be trimmed");
            }
        }
    }
}

/// Removes the oldest events that exceed a limit.
fn trim(connection: &Connection, keep: Keep, now: Timestamp) -> Result<(), StoreError> {
    let number = |query: &str| connection.query_row(query, [], |row| row.get::<_, i64>(0));
    let used =
        (number("PRAGMA page_count")? - number("PRAGMA freelist_count")?) * number("PRAGMA page_size")?;
    let newest = number("SELECT coalesce(max(sequence), 0) FROM event")?;
    let last = newest - keep.least;
    let old = now.0 - keep.age;
    let condition = if used > keep.bytes { "" } else { " AND time < ?3" };
    // The condition has the same three values in both cases.
    let query = format!(
        "DELETE FROM event WHERE sequence IN \
         (SELECT sequence FROM event WHERE sequence <= ?1 AND ?3 = ?3{condition} ORDER BY sequence LIMIT ?2)"
    );
    let removed = connection.execute(&query, params![last, TRIM, old])?;
    if removed > 0 {
        tracing::info!(removed, "trimmed the journal");
    }
    Ok(())
}

/// Bytes of the answers up to `until`: each trim adds the newer ones.
#[derive(Default)]
struct Answered {
    bytes: i64,
    until: i64,
}

/// Removes the oldest answers over the limit, but not the newest ones.
fn trim_answers(connection: &Connection, keep: Keep, known: &mut Answered) -> Result<(), StoreError> {
    let since = "SELECT coalesce(sum(size), 0), coalesce(max(sequence), ?1) FROM request WHERE sequence > ?1";
    let (more, until): (i64, i64) =
        connection.query_row(since, [known.until], |row| Ok((row.get(0)?, row.get(1)?)))?;
    (known.bytes, known.until) = (known.bytes + more, until);
    let bytes = &mut known.bytes;
    while *bytes > keep.answers {
        let mut oldest = connection.prepare_cached(
            "SELECT sequence, size FROM request WHERE sequence <= (SELECT max(sequence) FROM request) - ?1 \
             ORDER BY sequence LIMIT ?2",
        )?;
        let rows = oldest.query_map([NEWEST_ANSWERS, TRIM], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let rows: Vec<(i64, i64)> = rows.collect::<Result<_, _>>()?;
        let mut last = None;
        for (sequence, size) in rows {
            if *bytes <= keep.answers {
                break;
            }
            *bytes -= size;
            last = Some(sequence);
        }
        let Some(last) = last else { return Ok(()) };
        connection.execute("DELETE FROM request WHERE sequence <= ?1", [last])?;
    }
    Ok(())
}

/// Writes a batch as one transaction. When that fails, each commit is tried separately, so that one bad
/// commit (or a disk with little room) does not fail the others.
fn write_batch(connection: &mut Connection, batch: Vec<Work>, listener: &Listener) {
    let time = Timestamp::now();
    let commits: Vec<&Commit> = batch.iter().map(|work| &work.commit).collect();
    match write(connection, &commits, time) {
        Ok(events) => {
            listener(events);
            for work in batch {
                let _ = work.done.send(Ok(()));
            }
        }
        Err(_) if batch.len() > 1 => {
            for work in batch {
                write_batch(connection, vec![work], listener);
            }
        }
        Err(error) => {
            tracing::error!(%error, "a change could not be written");
            for work in batch {
                let _ = work.done.send(Err(error.clone()));
            }
        }
    }
}

fn write(
    connection: &mut Connection,
    commits: &[&Commit],
    time: Timestamp,
) -> Result<Vec<Arc<Event>>, StoreError> {
    let label = Label(commits);
    crash::point(format_args!("store.begin({label})"));
    let transaction = connection.transaction()?;
    let mut events = Vec::new();
    for commit in commits {
        write_one(&transaction, commit, time, &mut events)?;
    }
    crash::point(format_args!("store.written({label})"));
    transaction.commit()?;
    crash::point(format_args!("store.committed({label})"));
    Ok(events)
}

/// Describes a transaction, in words.
struct Label<'a>(&'a [&'a Commit]);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, commit) in self.0.iter().enumerate() {
            f.write_str(if index > 0 { "+" } else { "" })?;
            match commit.events.first().map(|event| &event.kind) {
                Some(EventKind::Modified { vm, .. }) => write!(f, "{}", vm.state)?,
                Some(EventKind::Boot(reached)) => f.write_str(reached.phase.as_str())?,
                Some(EventKind::Image { step, .. }) => f.write_str(step.as_str())?,
                Some(kind) => f.write_str(kind.name())?,
                None => f.write_str("no event")?,
            }
        }
        Ok(())
    }
}

fn write_one(
    transaction: &Transaction<'_>,
    commit: &Commit,
    time: Timestamp,
    events: &mut Vec<Arc<Event>>,
) -> Result<(), StoreError> {
    match &commit.vm {
        Some(VmChange::Put(record)) => {
            transaction
                .prepare_cached(
                    "INSERT INTO vm VALUES (?1, ?2) ON CONFLICT (uuid) DO UPDATE SET record = ?2",
                )?
                .execute(params![record.uuid.to_string(), json("VM record", record)?])?;
        }
        Some(VmChange::Delete(uuid)) => {
            transaction.prepare_cached("DELETE FROM vm WHERE uuid = ?1")?.execute([uuid.to_string()])?;
        }
        None => {}
    }
    match &commit.image {
        Some(ImageChange::Put(record)) => {
            transaction
                .prepare_cached(
                    "INSERT INTO image VALUES (?1, ?2) ON CONFLICT (uuid) DO UPDATE SET record = ?2",
                )?
                .execute(params![record.uuid.to_string(), json("image record", record)?])?;
        }
        Some(ImageChange::Delete(uuid)) => {
            transaction.prepare_cached("DELETE FROM image WHERE uuid = ?1")?.execute([uuid.to_string()])?;
        }
        None => {}
    }
    for fact in &commit.events {
        let text = json("event", fact)?;
        let size = text.len();
        transaction
            .prepare_cached("INSERT INTO event (time, fact) VALUES (?1, ?2)")?
            .execute(params![time.0, text])?;
        let sequence = transaction.last_insert_rowid();
        events.push(Arc::new(Event { sequence, time, fact: fact.clone(), size }));
    }
    for answer in &commit.answers {
        transaction
            .prepare_cached("INSERT OR REPLACE INTO request (id, digest, answer) VALUES (?1, ?2, ?3)")?
            .execute(params![answer.request_id.to_string(), answer.digest, answer.body])?;
    }
    Ok(())
}

fn json(what: &'static str, value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Corrupt { what, reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Reader;

    #[tokio::test]
    async fn the_newest_answers_are_kept_whatever_the_clock_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.db");
        let keep = Keep { answers: 10 << 10, ..Keep::default() };
        let store = Store::open(&path, keep, |_| ()).unwrap();
        let count = u128::from(TRIM_EVERY) * 2;
        for n in 0..count {
            let answer =
                Answer { request_id: Uuid::from_u128(n), digest: [0; 32], body: "x".repeat(1 << 10) };
            store.commit(Commit { answers: vec![answer], ..Commit::default() }).await.unwrap();
        }
        // Behind the last trimming.
        store.commit(Commit::default()).await.unwrap();
        let reader = Reader::open(&path).unwrap();
        let kept = |n| reader.answer(Uuid::from_u128(n)).unwrap().is_some();
        let newest = u128::from(NEWEST_ANSWERS.unsigned_abs());
        assert!((count - newest..count).all(kept));
        assert!(!(0..count - newest).any(kept));
    }
}
