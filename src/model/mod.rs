//! The nouns of a VM's life: its record, its runs, and the facts that the journal keeps; why requests are refused; and
//! where an agent is found. Plain data; what keeps it and what acts on it stand above.

mod change;
mod event;
mod exit;
mod flat;
pub mod places;
mod reason;
mod run;
mod stop;
mod time;
mod vm;

pub use change::{Change, bounded};
pub use event::{BootPhase, Event, EventKind, FileAction, NewEvent, Phase};
pub use exit::{Exit, ExitReason};
pub use flat::{RunStatus, Status, flat, limits, restrictions};
pub use reason::{ERROR_DOMAIN, Reason, UnknownReason};
pub use run::{BootCall, CdDrive, Run};
pub use stop::{Kill, StopCause, StopPlan, WaitingCall};
pub use time::Timestamp;
pub use vm::VmRecord;
