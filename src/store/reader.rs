//! Reading beside the writer.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter, types::Value};
use uuid::Uuid;

use super::{
    error::StoreError,
    event::Event,
    record::{Timestamp, VmRecord},
    schema,
    writer::Answer,
};

/// A second connection. Its calls block for as long as the disk does; call them off the runtime's
/// threads when the answer may be large.
#[derive(Clone, Debug)]
pub struct Reader {
    connection: Arc<Mutex<Connection>>,
}

/// Which events are wanted.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// Behind this one; before it when backwards.
    pub from: i64,
    /// The newest first.
    pub backwards: bool,
    /// Of these VMs; of all when empty.
    pub uuids: Vec<Uuid>,
    /// Of these kinds, by their names in the journal; of all when empty.
    pub kinds: Vec<&'static str>,
}

/// What is in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalRange {
    /// Sequence of the oldest event; one more than `newest` when the journal is empty.
    pub oldest: i64,
    /// Sequence of the newest event ever written; 0 when there was none.
    pub newest: i64,
}

impl Reader {
    /// Opens an existing state file.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { connection: Arc::new(Mutex::new(schema::open_reader(path)?)) })
    }

    fn with<T>(&self, read: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        read(&self.connection.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells this journal from any other.
    pub fn epoch(&self) -> Result<u64, StoreError> {
        let text: String = self.with(|connection| {
            Ok(connection.query_row("SELECT value FROM meta WHERE key = 'epoch'", [], |row| row.get(0))?)
        })?;
        u64::from_str_radix(&text, 16)
            .map_err(|error| StoreError::Corrupt { what: "journal epoch", reason: error.to_string() })
    }

    /// All VMs.
    pub fn vms(&self) -> Result<Vec<VmRecord>, StoreError> {
        let rows: Vec<String> = self.with(|connection| {
            let mut query = connection.prepare("SELECT record FROM vm ORDER BY uuid")?;
            let rows = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            Ok(rows)
        })?;
        rows.iter().map(|text| parse("VM record", text)).collect()
    }

    /// The answer that was given to a request.
    pub fn answer(&self, request_id: Uuid) -> Result<Option<Answer>, StoreError> {
        self.with(|connection| {
            Ok(connection
                .prepare_cached("SELECT digest, answer FROM request WHERE id = ?1")?
                .query_row([request_id.to_string()], |row| {
                    Ok(Answer { request_id, digest: row.get(0)?, body: row.get(1)? })
                })
                .optional()?)
        })
    }

    /// Where the journal begins and ends.
    pub fn journal_range(&self) -> Result<JournalRange, StoreError> {
        self.with(|connection| {
            let oldest: Option<i64> =
                connection.query_row("SELECT min(sequence) FROM event", [], |row| row.get(0))?;
            let newest: Option<i64> = connection
                .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'event'", [], |row| row.get(0))
                .optional()?;
            let newest = newest.unwrap_or(0);
            Ok(JournalRange { oldest: oldest.unwrap_or(newest + 1), newest })
        })
    }

    /// At most `limit` events behind (or before) a place, of some VMs and kinds only; and whether there may be more.
    pub fn events_where(
        &self,
        query: &EventQuery,
        limit: u32,
    ) -> Result<(Vec<Arc<Event>>, bool), StoreError> {
        let marks = |count: usize| vec!["?"; count].join(", ");
        let (compare, order) = if query.backwards { ("<", "DESC") } else { (">", "ASC") };
        let mut text = format!("SELECT sequence, time, fact FROM event WHERE sequence {compare} ?");
        let mut values: Vec<Value> = vec![Value::from(query.from)];
        if !query.uuids.is_empty() {
            text.push_str(&format!(" AND uuid IN ({})", marks(query.uuids.len())));
            values.extend(query.uuids.iter().map(|uuid| Value::from(uuid.to_string())));
        }
        if !query.kinds.is_empty() {
            text.push_str(&format!(" AND kind IN ({})", marks(query.kinds.len())));
            values.extend(query.kinds.iter().map(|kind| Value::from((*kind).to_owned())));
        }
        text.push_str(&format!(" ORDER BY sequence {order} LIMIT ?"));
        values.push(Value::from(i64::from(limit)));
        let (rows, full) = self.with(|connection| {
            let mut statement = connection.prepare_cached(&text)?;
            Ok(within_bounds(statement.query_map(params_from_iter(values), columns)?)?)
        })?;
        let more = rows.len() == limit as usize || full;
        let events: Result<_, _> = rows.into_iter().map(event).collect();
        Ok((events?, more))
    }

    /// The sequence of the last event before that time. Sequences and times grow together, so it is found
    /// by halving; a clock that was set back only makes the place a little wrong.
    pub fn last_before(&self, time: Timestamp) -> Result<i64, StoreError> {
        let range = self.journal_range()?;
        let (mut least, mut most) = (range.oldest - 1, range.newest);
        while least < most {
            let middle = least + (most - least + 1) / 2;
            if self.time_of(middle)? < time { least = middle } else { most = middle - 1 }
        }
        Ok(least)
    }

    /// The time of the event with that number, or of the next one that is there.
    fn time_of(&self, sequence: i64) -> Result<Timestamp, StoreError> {
        let query = "SELECT time FROM event WHERE sequence >= ?1 ORDER BY sequence LIMIT 1";
        let found: Option<i64> = self.with(|connection| {
            Ok(connection.prepare_cached(query)?.query_row([sequence], |row| row.get(0)).optional()?)
        })?;
        Ok(Timestamp(found.unwrap_or(i64::MAX)))
    }

    /// At most `limit` events after `sequence`, in order.
    pub fn events_after(&self, sequence: i64, limit: u32) -> Result<Vec<Arc<Event>>, StoreError> {
        let (rows, _) = self.with(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT sequence, time, fact FROM event WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
            )?;
            Ok(within_bounds(query.query_map(params![sequence, limit], columns)?)?)
        })?;
        rows.into_iter().map(event).collect()
    }
}

/// Bytes of events that are read at once; one more event may come on top.
const READ: usize = 2 << 20;

/// Sequence, time and fact.
type EventRow = (i64, i64, String);

fn columns(row: &Row<'_>) -> rusqlite::Result<EventRow> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

/// As many rows as may be read at once; and whether these are so many.
fn within_bounds(
    rows: impl Iterator<Item = rusqlite::Result<EventRow>>,
) -> rusqlite::Result<(Vec<EventRow>, bool)> {
    let (mut taken, mut size) = (Vec::new(), 0);
    for row in rows {
        let row = row?;
        size += row.2.len();
        taken.push(row);
        if size > READ {
            return Ok((taken, true));
        }
    }
    Ok((taken, false))
}

fn event((sequence, time, text): EventRow) -> Result<Arc<Event>, StoreError> {
    Ok(Arc::new(Event { sequence, time: Timestamp(time), fact: parse("event", &text)?, size: text.len() }))
}

fn parse<T: serde::de::DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt { what, reason: error.to_string() })
}
