//! The one truth: a single SQLite file with the records of VMs, the answers to requests and the
//! journal of events.
//!
//! A change of state, its event and the answer to the request that caused it are one [`Commit`], so
//! there is never one without the others. One thread owns the connection and writes; it takes what
//! is waiting as one transaction. `synchronous=FULL`: what was acknowledged survives a power cut.

mod error;
mod reader;
mod schema;
mod writer;

pub(crate) use error::StoreError;
pub use reader::Reader;
pub(crate) use reader::{EventPage, EventQuery, JournalRange};
pub(crate) use writer::Answer;
pub(crate) use writer::ImageChange;
pub use writer::{Commit, Keep, Store, VmChange};
