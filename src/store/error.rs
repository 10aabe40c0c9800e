//! The errors of the store.

use std::{io, path::PathBuf};

/// A failed read or write of the state file.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The file could not be opened.
    #[error("cannot open the state file {path}: {reason}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// SQLite's words.
        reason: String,
    },
    /// A newer agent wrote the file.
    #[error("the state file {path} has schema {found}; this agent knows up to {known}; run the newer agent")]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// No room; nothing was changed.
    #[error("the disk that holds the agent's state is full; nothing was changed")]
    Full,
    /// The file takes no writes; nothing was changed.
    #[error(
        "the agent's state file can't be written: its file system is read-only; nothing was changed. Guests, consoles and streams continue; changes are accepted again once the file is writable"
    )]
    ReadOnly,
    /// SQLite refused.
    #[error("the state file can't be used: {0}")]
    Sqlite(String),
    /// A row has unexpected content.
    #[error("the state file holds a {what} that can't be read: {reason}")]
    Corrupt {
        /// Of what.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The writer is gone: the agent stops.
    #[error("the agent is stopping")]
    Closed,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
            Some(rusqlite::ErrorCode::ReadOnly) => Self::ReadOnly,
            Some(rusqlite::ErrorCode::SystemIoFailure) if last_error_forbids() => Self::ReadOnly,
            // A full disk may also show as a failed write of the log.
            Some(rusqlite::ErrorCode::SystemIoFailure) if last_error() == io::ErrorKind::StorageFull => {
                Self::Full
            }
            _ => Self::Sqlite(error.to_string()),
        }
    }
}

fn last_error_forbids() -> bool {
    matches!(last_error(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// Returns the error of this thread's last system call.
fn last_error() -> io::ErrorKind {
    io::Error::last_os_error().kind()
}
