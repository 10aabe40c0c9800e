//! A guest that sleeps and wakes: told as often as resets are, so that it does not fill the journal.

use tokio::time::Instant;

use crate::agent::vm::resets::TELL_EVERY;

/// When it was told last that the guest sleeps or is awake, and whether there is something to be looked at again.
#[derive(Debug, Default)]
pub(super) struct Sleeps {
    told: Option<Instant>,
    again: bool,
}

impl Sleeps {
    /// Whether it may be told now; else it is looked at later.
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
