//! The place of a VM that has no actor yet.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::{Command, QUEUE};
use crate::{
    agent::{Agent, registry::VmHandle},
    console::Console,
    layout::VmLayout,
    model::VmRecord,
};

/// A VM's place, whose actor comes later: the VM is seen, and what it is told waits.
#[derive(Debug)]
pub(in crate::agent) struct Seat {
    pub(super) layout: VmLayout,
    pub(super) console: Console,
    pub(super) published: watch::Sender<Arc<VmRecord>>,
    pub(super) commands: mpsc::Receiver<Command>,
}

impl Seat {
    /// Shows the record to readers.
    pub(in crate::agent) fn publish(&self, record: &VmRecord) {
        self.published.send_replace(Arc::new(record.clone()));
    }

    pub(in crate::agent) fn prepare(agent: &Agent, record: &VmRecord) -> (VmHandle, Self) {
        let layout = agent.inner.layout.vm(record.uuid);
        let console = Console::new(&layout, agent.inner.config.console.keep_kib << 10, &agent.inner.consoles);
        let (sender, commands) = mpsc::channel(QUEUE);
        let (published, watched) = watch::channel(Arc::new(record.clone()));
        let zonepath = layout.zonepath().display().to_string();
        let handle = VmHandle::new(record.uuid, zonepath, sender, watched, console.clone());
        (handle, Self { layout, console, published, commands })
    }
}
