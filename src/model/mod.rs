//! The nouns of a VM's life: its record, its runs, and the facts that the journal keeps. Plain data; who keeps it and who
//! acts on it stand above.

mod event;
mod exit;
mod run;
mod stop;
mod time;
mod vm;

pub use event::{BootPhase, Change, Event, EventKind, FileAction, NewEvent, Phase};
pub use exit::{Exit, ExitReason};
pub use run::{BootCall, CdDrive, Run};
pub use stop::{Kill, StopCause, StopPlan, WaitingCall};
pub use time::Timestamp;
pub use vm::VmRecord;
