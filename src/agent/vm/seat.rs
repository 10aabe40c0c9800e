//! The place of a VM that has no actor yet.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::{
    agent::context::{VmContext, command::Command, handle::VmHandle},
    console::Console,
    layout::VmLayout,
    model::VmRecord,
};

/// A VM's place before its actor starts: the VM is visible, and its commands wait.
#[derive(Debug)]
pub(in crate::agent) struct Seat {
    pub(super) layout: VmLayout,
    pub(super) console: Console,
    pub(super) published: watch::Sender<Arc<VmRecord>>,
    pub(super) commands: mpsc::Receiver<Command>,
}

impl Seat {
    /// Publishes the record to readers.
    pub(in crate::agent) fn publish(&self, record: &VmRecord) {
        self.published.send_replace(Arc::new(record.clone()));
    }

    pub(in crate::agent) fn prepare(context: &VmContext, record: &VmRecord) -> (VmHandle, Self) {
        let layout = context.layout_of(record.uuid);
        let console = Console::new(&layout, context.settings.console_bytes, &context.consoles);
        let (published, watched) = watch::channel(Arc::new(record.clone()));
        let site = context.site(record.uuid);
        let stopping = context.stopping.clone();
        let (handle, commands) = VmHandle::new(record.uuid, site, watched, console.clone(), stopping);
        (handle, Self { layout, console, published, commands })
    }
}
