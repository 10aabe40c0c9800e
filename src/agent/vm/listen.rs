//! Listens to the guest of a running hypervisor.

use tokio_util::task::AbortOnDropHandle;

use crate::{
    agent::{
        guest::{late_phases::LatePhases, metadata},
        vm::Actor,
    },
    console::Console,
    model::Phase,
};

impl Actor {
    /// Answers metadata requests, and journals late phases; `is_new` is whether this agent booted the guest.
    pub(super) fn listen_to_guest(&mut self, is_new: bool) {
        let late = LatePhases::of(&self.context, &self.record, is_new);
        self.live._first_byte = late.clone().map(|late| await_first_byte(&self.console, late));
        self.live._metadata = Some(metadata::serve(&self.context, self.record.uuid, late.clone()));
        self.live.late = late;
    }
}

/// Reports when the guest first prints something.
fn await_first_byte(console: &Console, late: LatePhases) -> AbortOnDropHandle<()> {
    let console = console.clone();
    AbortOnDropHandle::new(tokio::spawn(async move {
        if let Ok(mut reader) = console.boot_reader().await
            && let Ok(Some(_)) = reader.next().await
        {
            late.reached(Phase::FirstConsoleByte).await;
        }
    }))
}
