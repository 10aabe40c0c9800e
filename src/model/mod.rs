//! The nouns of a VM's life: its record, its runs, and the facts that the journal keeps; the reasons of
//! refusals; and an agent's default paths. Plain data; the modules that store it and act on it stand above.

mod change;
mod event;
mod exit;
mod flat;
mod image;
pub(crate) mod places;
mod reason;
mod run;
mod stop;
mod time;
mod vm;

pub(crate) use change::{Change, bounded};
pub(crate) use event::{BootPhase, Event, EventKind, FileAction, NewEvent, Phase};
pub(crate) use exit::{Exit, ExitReason};
pub(crate) use flat::{RunStatus, Site, Status, flat, limits, restrictions};
pub(crate) use image::{Fetch, ImageRecord, ImageState, ImageStep};
pub(crate) use reason::ERROR_DOMAIN;
pub use reason::Reason;
pub(crate) use run::{BootCall, CdDrive, Run};
pub(crate) use stop::Kill;
pub use stop::{StopCause, StopPlan, WaitingCall};
pub use time::Timestamp;
pub use vm::VmRecord;
