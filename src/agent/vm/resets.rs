//! Resets of a running machine: each is counted, and journaled as the end of a run of the guest.
//!
//! A guest that resets itself all the time must not fill the journal, so resets soon after a journaled one
//! are journaled together.

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

/// Interval of the journal entries about resets.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(10);
/// For a machine so large that even this would fill the journal: bytes of it that are journaled in a second.
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
    /// How long the next resets wait behind those: each entry journals the whole machine.
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

    /// Sets the caller of the next reset by a call.
    pub(super) fn asked_by(&mut self, call: Call) {
        self.asked = Some(call);
    }

    /// When to journal the resets.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.untold > 0).then(|| self.told.map_or_else(Instant::now, |told| told + self.pause))
    }
}

impl Actor {
    /// Journals resets, or defers them if that fails. A guest that resets itself must not keep its VM from
    /// handling other commands.
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
            // The reason of a failure matters more than an earlier reset.
            if vm.state != VmState::Failed {
                vm.exit = Some(exit::reset(resets.by_guest, time));
            }
        });
        if let Err(error) = self.commit(&cause, vm, Vec::new(), None).await {
            tracing::warn!(%error, "a reset is reported later");
            (self.resets.untold, self.resets.by_guest) = (resets.untold, resets.by_guest);
            self.resets.asked = resets.asked;
        }
    }
}
