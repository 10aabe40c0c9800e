//! Resets of a running machine: each is counted, and journaled as the end of a run of the guest.
//!
//! A guest that resets itself all the time must not fill the journal, so those that follow one that was told are
//! told together.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    agent::{
        request::call::Call,
        vm::{Actor, exit},
    },
    model::Timestamp,
    spec::VmState,
};

/// Between two times that resets are journaled.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(10);
/// Of a machine that is so large that it would fill the journal by then: bytes of it that are journaled in a second.
const BYTES_A_SECOND: u64 = 2 << 10;

/// Resets that are not in the record yet.
#[derive(Debug, Default)]
pub(super) struct Resets {
    untold: u64,
    by_guest: bool,
    last: Option<Timestamp>,
    told: Option<Instant>,
    /// Who pressed reset last.
    asked: Option<Call>,
    /// How long the next ones wait behind those: each time the whole machine is in the journal.
    pause: Duration,
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

    /// Who wanted the next one that is not the guest's.
    pub(super) fn asked_by(&mut self, call: Call) {
        self.asked = Some(call);
    }

    /// When they have to be told.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.untold > 0).then(|| self.told.map_or_else(Instant::now, |told| told + self.pause))
    }
}

impl Actor {
    /// Writes them down; later, where that can't be done now. A guest that resets itself must not keep its VM from
    /// hearing anything else.
    pub(super) async fn journal_resets(&mut self) {
        let resets = std::mem::take(&mut self.resets);
        let size = serde_json::to_string(&self.record.spec).map_or(0, |text| text.len());
        let pause = TELL_EVERY.max(Duration::from_secs(u64::try_from(size).unwrap_or(0) / BYTES_A_SECOND));
        let cause = resets.asked.clone().filter(|_| !resets.by_guest).unwrap_or_else(Call::own);
        self.resets = Resets { last: resets.last, told: Some(Instant::now()), pause, ..Resets::default() };
        let time = resets.last.unwrap_or_else(Timestamp::now);
        let vm = self.changed(|vm| {
            if let Some(machine) = &mut vm.machine {
                machine.resets += resets.untold;
                machine.last_reset = Some(time);
            }
            // Why a guest failed is worth more than that it was reset before.
            if vm.state != VmState::Failed {
                vm.exit = Some(exit::reset(resets.by_guest, time));
            }
        });
        if let Err(error) = self.commit(&cause, vm, Vec::new(), None).await {
            tracing::warn!(%error, "a reset is told later");
            (self.resets.untold, self.resets.by_guest) = (resets.untold, resets.by_guest);
            self.resets.asked = resets.asked;
        }
    }
}
