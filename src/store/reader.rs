//! Reads beside the writer.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter, types::Value};
use uuid::Uuid;

use super::{error::StoreError, schema, writer::Answer};

use crate::model::{Event, EventKind, ImageRecord, Timestamp, VmRecord};

/// A second connection. Its calls block for as long as the disk does; call them off the runtime's
/// threads when the answer may be large.
#[derive(Clone, Debug)]
pub struct Reader {
    connection: Arc<Mutex<Connection>>,
}

/// A query for events.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// After this one; before it when backwards.
    pub from: i64,
    /// The newest first.
    pub backwards: bool,
    /// Of these VMs; of all when empty.
    pub uuids: Vec<Uuid>,
    /// Of these kinds, by their names in the journal; of all when empty.
    pub kinds: Vec<&'static str>,
}

/// The result of an event query.
#[derive(Clone, Debug, Default)]
pub struct EventPage {
    /// In the order that was asked for.
    pub events: Vec<Arc<Event>>,
    /// The place to continue from, if there may be more: even a long search may have found no event.
    pub rest: Option<i64>,
}

/// The journal's extent.
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

    /// Returns the id of this journal.
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

    /// All images.
    pub fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let rows: Vec<String> = self.with(|connection| {
            let mut query = connection.prepare("SELECT record FROM image ORDER BY uuid")?;
            let rows = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            Ok(rows)
        })?;
        rows.iter().map(|text| parse("image record", text)).collect()
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

    /// Returns at most `limit` events after (or before) a place, of some VMs and kinds only. Other readers
    /// wait for a short span of the journal at most, however few events match.
    pub fn events_where(&self, query: &EventQuery, limit: u32) -> Result<EventPage, StoreError> {
        let began = Instant::now();
        let range = self.journal_range()?;
        let mut found = EventPage { events: Vec::new(), rest: None };
        let mut from =
            if query.backwards { query.from.min(range.newest + 1) } else { query.from.max(range.oldest - 1) };
        let mut room = READ;
        loop {
            let left = limit.saturating_sub(u32::try_from(found.events.len()).unwrap_or(limit));
            let (rows, full) = self.span(query, from, left, room)?;
            room = room.saturating_sub(rows.iter().map(|(_, _, text)| text.len()).sum());
            for row in rows {
                found.events.push(event(row)?);
            }
            if full {
                found.rest = found.events.last().map(|event| event.sequence);
                return Ok(found);
            }
            from = if query.backwards { from.saturating_sub(SPAN) } else { from.saturating_add(SPAN) };
            if if query.backwards { from <= range.oldest } else { from >= range.newest } {
                return Ok(found);
            }
            if began.elapsed() > PATIENCE {
                found.rest = Some(from);
                return Ok(found);
            }
        }
    }

    /// Returns the matching events of the span nearest to a place; and whether the span may have more.
    fn span(
        &self,
        query: &EventQuery,
        from: i64,
        limit: u32,
        room: usize,
    ) -> Result<(Vec<EventRow>, bool), StoreError> {
        let marks = |count: usize| vec!["?"; count].join(", ");
        let (within, order) = match query.backwards {
            true => ("sequence >= ? AND sequence < ?", "DESC"),
            false => ("sequence > ? AND sequence <= ?", "ASC"),
        };
        let (least, most) = match query.backwards {
            true => (from.saturating_sub(SPAN), from),
            false => (from, from.saturating_add(SPAN)),
        };
        let mut wanted = within.to_owned();
        let mut values: Vec<Value> = vec![Value::from(least), Value::from(most)];
        if !query.uuids.is_empty() {
            wanted.push_str(&format!(" AND uuid IN ({})", marks(query.uuids.len())));
            values.extend(query.uuids.iter().map(|uuid| Value::from(uuid.to_string())));
        }
        // The index of VMs includes the kind, so with all kinds named, SQLite reads no other events.
        let all = if query.uuids.is_empty() { &[][..] } else { EventKind::NAMES };
        let kinds = if query.kinds.is_empty() { all } else { &query.kinds };
        if !kinds.is_empty() {
            wanted.push_str(&format!(" AND kind IN ({})", marks(kinds.len())));
            values.extend(kinds.iter().map(|kind| Value::from((*kind).to_owned())));
        }
        values.push(Value::from(i64::from(limit)));
        // Sorts the sequence numbers alone, not the whole rows.
        let text = format!(
            "SELECT sequence, time, fact FROM event WHERE sequence IN \
             (SELECT sequence FROM event WHERE {wanted} ORDER BY sequence {order} LIMIT ?) ORDER BY sequence {order}"
        );
        let (rows, full) = self.with(|connection| {
            let mut statement = connection.prepare_cached(&text)?;
            Ok(within_bounds(statement.query_map(params_from_iter(values), columns)?, room)?)
        })?;
        let full = full || rows.len() == limit as usize;
        Ok((rows, full))
    }

    /// Returns a VM as it was just before an event: `Some(None)` when it did not exist; `None` when that was
    /// trimmed.
    pub fn vm_before(&self, uuid: Uuid, sequence: i64) -> Result<Option<Option<Box<VmRecord>>>, StoreError> {
        let newest = "SELECT max(sequence) FROM event WHERE uuid = ?1 AND kind = ?2 AND sequence < ?3";
        let row = self.with(|connection| {
            let mut query = connection.prepare_cached(newest)?;
            let mut found: Option<i64> = None;
            for kind in ["created", "modified", "deleted"] {
                found =
                    found.max(query.query_row(params![uuid.to_string(), kind, sequence], |row| row.get(0))?);
            }
            let mut query =
                connection.prepare_cached("SELECT sequence, time, fact FROM event WHERE sequence = ?1")?;
            Ok(query.query_row([found], columns).optional()?)
        })?;
        Ok(row.map(event).transpose()?.map(|event| match &event.fact.kind {
            EventKind::Created { vm } | EventKind::Modified { vm, .. } => Some(vm.clone()),
            _ => None,
        }))
    }

    /// The sequence of the last event before that time. Sequences and times grow together, so a binary search
    /// finds it; a clock that was set back only makes it slightly wrong.
    pub fn last_before(&self, time: Timestamp) -> Result<i64, StoreError> {
        let range = self.journal_range()?;
        let (mut least, mut most) = (range.oldest - 1, range.newest);
        while least < most {
            let middle = least + (most - least + 1) / 2;
            if self.time_of(middle)? < time { least = middle } else { most = middle - 1 }
        }
        Ok(least)
    }

    /// The time of the event with that number, or of the next one that exists.
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
            Ok(within_bounds(query.query_map(params![sequence, limit], columns)?, READ)?)
        })?;
        rows.into_iter().map(event).collect()
    }
}

/// Bytes of events that are read at once; one more event may come on top.
const READ: usize = 2 << 20;
/// Events that are scanned while other readers wait.
const SPAN: i64 = 2048;
/// How long to search for events that may not exist.
const PATIENCE: Duration = Duration::from_millis(500);

/// Sequence, time and fact.
type EventRow = (i64, i64, String);

fn columns(row: &Row<'_>) -> rusqlite::Result<EventRow> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

/// Takes as many rows as fit into `room`, and one more; also returns whether it stopped there.
fn within_bounds(
    rows: impl Iterator<Item = rusqlite::Result<EventRow>>,
    room: usize,
) -> rusqlite::Result<(Vec<EventRow>, bool)> {
    let (mut taken, mut size) = (Vec::new(), 0);
    for row in rows {
        let row = row?;
        size += row.2.len();
        taken.push(row);
        if size > room {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::NewEvent,
        store::{Commit, Keep, Store},
    };

    fn fact(n: i64) -> NewEvent {
        let (leak, path, alias) = (String::new(), String::new(), n.to_string());
        let kind =
            if n % 997 == 0 { EventKind::Reclaimed { leak, path } } else { EventKind::Deleted { alias } };
        NewEvent {
            uuid: Uuid::from_u128(u128::from(n.unsigned_abs() % 7)),
            actor: String::new(),
            request_id: None,
            kind,
        }
    }

    #[tokio::test]
    async fn pages_have_what_is_wanted_and_nothing_else_however_far_apart_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.db");
        let store = Store::open(&path, Keep::default(), |_| ()).unwrap();
        let total = 2 * SPAN + 100;
        for first in (1..=total).step_by(100) {
            let events = (first..(first + 100).min(total + 1)).map(fact).collect();
            store.commit(Commit { events, ..Commit::default() }).await.unwrap();
        }
        let reader = Reader::open(&path).unwrap();
        let one = vec![Uuid::from_u128(3)];
        let some = vec![Uuid::from_u128(0), Uuid::from_u128(5), Uuid::from_u128(99)];
        for uuids in [vec![], one, some] {
            for kinds in [vec![], vec!["reclaimed"], vec!["reclaimed", "deleted"], vec!["boot"]] {
                for backwards in [false, true] {
                    let mut query =
                        EventQuery { from: 0, backwards, uuids: uuids.clone(), kinds: kinds.clone() };
                    let mut expected: Vec<i64> = (1..=total)
                        .filter(|n| uuids.is_empty() || uuids.contains(&fact(*n).uuid))
                        .filter(|n| kinds.is_empty() || kinds.contains(&fact(*n).kind.name()))
                        .collect();
                    if backwards {
                        query.from = i64::MAX;
                        expected.reverse();
                    }
                    let mut listed = Vec::new();
                    loop {
                        let EventPage { events, rest } = reader.events_where(&query, 300).unwrap();
                        assert!(events.len() <= 300);
                        listed.extend(events.iter().map(|event| event.sequence));
                        let Some(place) = rest else { break };
                        query.from = place;
                    }
                    assert_eq!(listed, expected, "{uuids:?} {kinds:?} {backwards}");
                }
            }
        }
    }

    #[tokio::test]
    async fn what_a_vm_was_before_an_event() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.db");
        let store = Store::open(&path, Keep::default(), |_| ()).unwrap();
        let text = r#"{"uuid":"00000000-0000-0000-0000-000000000001","generation":1,"spec":{},"state":"stopped",
                       "created":0,"modified":0,"machine":null,"exit":null,"vnc_port":null}"#;
        let vm: Box<VmRecord> = serde_json::from_str(text).unwrap();
        let event = |kind| NewEvent { uuid: vm.uuid, actor: String::new(), request_id: None, kind };
        let deleted = || event(EventKind::Deleted { alias: String::new() });
        let newer = Box::new(VmRecord { generation: 2, ..*vm.clone() });
        let events = vec![
            event(EventKind::Created { vm: vm.clone() }),
            event(EventKind::Modified { vm: newer.clone(), changes: Vec::new() }),
            deleted(),
            deleted(),
        ];
        store.commit(Commit { events, ..Commit::default() }).await.unwrap();
        let reader = Reader::open(&path).unwrap();
        let before = [1, 2, 3, 4].map(|sequence| reader.vm_before(vm.uuid, sequence).unwrap());
        assert_eq!(before, [None, Some(Some(vm.clone())), Some(Some(newer)), Some(None)]);
        assert_eq!(reader.vm_before(Uuid::nil(), 9).unwrap(), None);
    }
}
