//! The journal as its readers see it: cursors, and following without a gap.
//!
//! The journal itself is the buffer of every watcher. A watcher that is slow reads older rows; one
//! that is fast finds the newest events in memory. None is ever skipped, none slows another, and
//! nothing is queued for anybody.

mod cursor;
mod journal;

pub(crate) use cursor::{Cursor, CursorError};
pub(crate) use journal::{Journal, WatchError, Watcher};
