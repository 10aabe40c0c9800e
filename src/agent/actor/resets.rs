//! Resets of a running machine: each is counted, and journaled as the end of a run of the guest.
//!
//! A guest that resets itself all the time must not fill the journal, so those that follow one that was told are
//! told together.

use std::time::Duration;

use tokio::time::Instant;

use super::Actor;
use crate::{
    agent::{call::Call, exit},
    store::Timestamp,
};

/// Between two times that resets are journaled.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Resets that are not in the record yet.
#[derive(Debug, Default)]
pub(super) struct Resets {
    untold: u64,
    by_guest: bool,
    last: Option<Timestamp>,
    told: Option<Instant>,
}

impl Resets {
    pub(super) fn count(&mut self, guest: bool, before: Option<Timestamp>) {
        let now = Timestamp::now();
        if exit::is_another_reset(self.last.or(before), now) {
            self.untold += 1;
            self.by_guest = guest;
            self.last = Some(now);
        }
    }

    /// When they have to be told.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.untold > 0).then(|| self.told.map_or_else(Instant::now, |told| told + TELL_EVERY))
    }
}

impl Actor {
    pub(super) async fn tell_resets(&mut self) {
        let Resets { untold, by_guest, last, .. } = std::mem::take(&mut self.resets);
        self.resets.told = Some(Instant::now());
        let time = last.unwrap_or_else(Timestamp::now);
        let vm = self.changed(|vm| {
            if let Some(machine) = &mut vm.machine {
                machine.resets += untold;
                machine.last_reset = Some(time);
            }
            vm.exit = Some(exit::reset(by_guest, time));
        });
        self.commit_surely(&Call::own(), vm, None).await;
    }
}
