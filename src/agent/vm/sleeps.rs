//! A guest that sleeps and wakes: journaled as rarely as resets, so that it does not fill the journal.

use tokio::time::Instant;

use crate::agent::vm::resets::TELL_EVERY;

/// When a sleep or a wake was last journaled, and whether the status must be checked again.
#[derive(Debug, Default)]
pub(super) struct Sleeps {
    told: Option<Instant>,
    again: bool,
}

impl Sleeps {
    /// Returns whether to journal it now; else it is checked later.
    pub(super) fn may_tell(&mut self) -> bool {
        let now = Instant::now();
        self.again = self.told.is_some_and(|told| now < told + TELL_EVERY);
        if !self.again {
            self.told = Some(now);
        }
        !self.again
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.told.filter(|_| self.again).map(|told| told + TELL_EVERY)
    }
}
