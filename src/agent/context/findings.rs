//! Facts about a VM that an earlier agent left.

use std::{sync::Arc, time::Duration};

use crate::{
    hypervisor::{GuestStatus, Machine},
    zone::{Ended, Process},
};

/// How long one hypervisor may delay the start of the agent. One that answers later is adopted then.
pub(in crate::agent) const PATIENCE: Duration = Duration::from_secs(3);

/// Facts that the host reports about a VM.
#[derive(Debug)]
pub(in crate::agent) struct Findings {
    pub(in crate::agent) hypervisor: Remains,
    /// Some of its links exist.
    pub(in crate::agent) has_links: bool,
}

/// The state of a VM's hypervisor.
#[derive(Debug)]
pub(in crate::agent) enum Remains {
    /// It had none.
    Nothing,
    /// It has exited.
    Gone(Ended),
    /// It answers.
    Answers {
        process: Arc<dyn Process>,
        machine: Arc<dyn Machine>,
        status: GuestStatus,
        accelerator: &'static str,
    },
    /// It does not answer, or its process is unknown.
    Silent { process: Option<Arc<dyn Process>>, why: String },
}
