//! The tables, and the migrations of an older file.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::error::StoreError;

/// Each entry brings a file from the version of its index to the next.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    -- Made once: a cursor of another journal is told apart by it.
    INSERT INTO meta VALUES ('epoch', lower(hex(randomblob(8))));
    CREATE TABLE vm (
        uuid TEXT PRIMARY KEY,
        record TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE request (
        id TEXT PRIMARY KEY,
        digest BLOB NOT NULL,
        answer TEXT NOT NULL,
        time INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX request_time ON request (time);
    CREATE TABLE event (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        time INTEGER NOT NULL,
        fact TEXT NOT NULL
    ) STRICT;
",
    // A VM's own events are found without reading everybody's.
    "
    ALTER TABLE event ADD COLUMN uuid TEXT GENERATED ALWAYS AS (json_extract(fact, '$.uuid')) VIRTUAL;
    ALTER TABLE event ADD COLUMN kind TEXT GENERATED ALWAYS AS (json_extract(fact, '$.kind')) VIRTUAL;
    CREATE INDEX event_uuid ON event (uuid, sequence);
",
    // Few events of a kind are found among many others. Answers are kept by their order and size: a clock that jumps
    // must not make a repeat act twice.
    "
    CREATE INDEX event_kind ON event (kind, sequence);
    CREATE INDEX event_uuid_kind ON event (uuid, kind, sequence);
    DROP INDEX event_uuid;
    ALTER TABLE request RENAME TO request_by_time;
    CREATE TABLE request (
        sequence INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        digest BLOB NOT NULL,
        answer TEXT NOT NULL,
        size INTEGER NOT NULL GENERATED ALWAYS AS (octet_length(answer) + 200) VIRTUAL
    ) STRICT;
    INSERT INTO request (id, digest, answer) SELECT id, digest, answer FROM
        (SELECT * FROM request_by_time ORDER BY time DESC LIMIT 10000) ORDER BY time;
    DROP TABLE request_by_time;
",
    // Images.
    "
    CREATE TABLE image (
        uuid TEXT PRIMARY KEY,
        record TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
",
];

/// SQLite's VFS for one process alone. Its connections share this process's memory, not a mapped file: a
/// mapped file whose disk fails kills the process.
const OURS_ALONE: &std::ffi::CStr = c"unix-excl";

/// The version that this agent writes.
pub(super) const VERSION: i64 = 4;
const _: () = assert!(VERSION.unsigned_abs() == MIGRATIONS.len() as u64);

/// Opens the file for the writer, and brings it to [`VERSION`].
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let failed =
        |error: rusqlite::Error| StoreError::Open { path: path.to_owned(), reason: error.to_string() };
    let mut connection =
        Connection::open_with_flags_and_vfs(path, OpenFlags::default(), OURS_ALONE).map_err(failed)?;
    configure(&connection).map_err(failed)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;

    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if found > VERSION {
        return Err(StoreError::Newer { path: path.to_owned(), found, known: VERSION });
    }
    if found == VERSION {
        // Nothing is written: a full disk must not keep an agent from its guests.
        return Ok(connection);
    }
    let transaction = connection.transaction().map_err(failed)?;
    for step in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or_default()) {
        transaction.execute_batch(step).map_err(failed)?;
    }
    transaction.pragma_update(None, "user_version", VERSION).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    Ok(connection)
}

/// Opens the file a second time, to read.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags_and_vfs(path, flags, OURS_ALONE)
        .map_err(|error| StoreError::Open { path: path.to_owned(), reason: error.to_string() })?;
    configure(&connection)?;
    Ok(connection)
}

fn configure(connection: &Connection) -> Result<(), rusqlite::Error> {
    // Small: the agent's memory is promised, and the rows are few.
    connection.pragma_update(None, "cache_size", -512)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_promised_pragmas_are_set() {
        let dir = tempfile::tempdir().unwrap();
        let connection = open_writer(&dir.path().join("s.db")).unwrap();
        let text = |pragma: &str| -> String {
            connection
                .query_row(&format!("PRAGMA {pragma}"), [], |r| r.get::<_, rusqlite::types::Value>(0))
                .map(|v| match v {
                    rusqlite::types::Value::Integer(n) => n.to_string(),
                    rusqlite::types::Value::Text(t) => t,
                    other => format!("{other:?}"),
                })
                .unwrap()
        };
        assert_eq!(text("journal_mode"), "wal");
        assert_eq!(text("synchronous"), "2", "FULL");
        assert_eq!(text("user_version"), VERSION.to_string());
    }

    #[test]
    fn an_older_file_becomes_a_newer_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(MIGRATIONS[0]).unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        old.execute_batch(r#"INSERT INTO event (time, fact) VALUES (1, '{"uuid":"u","kind":"deleted"}')"#)
            .unwrap();
        for (id, time) in [("b", 2), ("a", 1)] {
            old.execute("INSERT INTO request VALUES (?1, x'00', 'text', ?2)", (id, time)).unwrap();
        }
        drop(old);
        let new = open_writer(&path).unwrap();
        let mut answers = new.prepare("SELECT id, size FROM request ORDER BY sequence").unwrap();
        let answers = answers.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let answers: Vec<(String, i64)> = answers.collect::<Result<_, _>>().unwrap();
        assert_eq!(answers, [("a".to_owned(), 204), ("b".to_owned(), 204)]);
        let found: (String, String) =
            new.query_row("SELECT uuid, kind FROM event", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(found, ("u".to_owned(), "deleted".to_owned()));
        let version: i64 = new.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, VERSION);
    }

    #[test]
    fn a_newer_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.db");
        open_writer(&path).unwrap().pragma_update(None, "user_version", VERSION + 1).unwrap();
        assert!(matches!(open_writer(&path), Err(StoreError::Newer { found, .. }) if found == VERSION + 1));
    }
}
