//! A running hypervisor, and its background tasks.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    agent::guest::{late_phases::LatePhases, links::Attended},
    console::VncEndpoint,
    hypervisor::{Machine, MachineEvent},
    zone::{Ended, Process},
};

/// A running hypervisor, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) process: Option<Arc<dyn Process>>,
    pub(super) machine: Option<Arc<dyn Machine>>,
    pub(super) vnc: Option<VncEndpoint>,
    /// Journals late phases when the guest reaches them; `None` when its boot is unknown.
    pub(super) late: Option<LatePhases>,
    /// Waits for the first byte of this boot.
    pub(super) _first_byte: Option<AbortOnDropHandle<()>>,
    /// Serves the guest's metadata.
    pub(super) _metadata: Option<AbortOnDropHandle<()>>,
    /// Answers its requests for an address.
    pub(super) links: Option<Attended>,
    /// When its packet rules are applied again.
    pub(super) guard_again: Option<Instant>,
    /// When a guest panic was last journaled.
    pub(super) panic_told: Option<Instant>,
}

impl Live {
    /// A hypervisor that an earlier agent left.
    pub(super) fn adopted(
        process: Arc<dyn Process>,
        machine: Option<Arc<dyn Machine>>,
        vnc: Option<VncEndpoint>,
    ) -> Self {
        Self { process: Some(process), machine, vnc, ..Self::default() }
    }
}

/// Waits for the end of the process; forever when there is none.
pub(super) async fn ended(process: Option<Arc<dyn Process>>) -> Ended {
    match process {
        Some(process) => process.ended().await,
        None => std::future::pending().await,
    }
}

pub(super) async fn next_event(machine: Option<Arc<dyn Machine>>) -> Option<MachineEvent> {
    match machine {
        Some(machine) => machine.next_event().await,
        None => std::future::pending().await,
    }
}
