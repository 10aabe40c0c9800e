//! The power button of a guest that is to stop.
//!
//! ```text
//!   asked ─▶ deaf ──────────────────────────▶ waking ──────────▶ pressed, once
//!     │       ▲ looked at again and again       a moment for      │
//!     │       └── firmware, a boot loader ◀─────its programs──────┘ the guest was reset
//!     └─▶ pressed: it listens, and has been up for a while
//! ```
//!
//! A guest that is still in its firmware can't hear the button, so the agent presses it as soon as the
//! guest's machine reports that it listens. Once heard, it is never pressed again, whichever caller joins the
//! stop and whichever agent continues it: some systems take a second press as "never mind". The press is
//! noted before it is made. The agent waits only a moment for the hypervisor: the deadline of the stop holds
//! in any case.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    agent::vm::{Actor, patience::briefly},
    crash,
    hypervisor::{Hearing, HypervisorError},
    model::{Timestamp, VmRecord},
};

/// The interval between checks of a deaf guest.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The shortest time from a guest's boot until its programs listen.
const LEAST: Duration = Duration::from_secs(5);
/// Once a kernel listens, its programs may need this many times as long as the kernel took.
const TIMES: u32 = 4;

/// The button's state.
#[derive(Clone, Copy, Debug)]
pub(super) enum Button {
    /// The hypervisor has not said whether the guest listens; the time of the next check.
    Asked { at: Instant },
    /// The guest does not listen; the time of the next check.
    Deaf { at: Instant },
    /// The guest's kernel has just begun to listen.
    Waking { at: Instant },
    /// The guest can have heard it.
    Pressed,
}

impl Button {
    /// The button of a new stop.
    pub(super) fn asked() -> Self {
        Self::Asked { at: Instant::now() }
    }

    /// Returns whether it is still unknown if the guest listens.
    pub(super) fn is_unknown(self) -> bool {
        matches!(self, Self::Asked { .. })
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match self {
            Self::Asked { at } | Self::Deaf { at } | Self::Waking { at } => Some(*at),
            Self::Pressed => None,
        }
    }
}

impl Actor {
    /// Checks the button of a stop that has just begun, was joined, or came from an earlier agent.
    pub(super) async fn begin_button(&mut self) {
        let is_pressed = self.record.stop.as_ref().is_some_and(|stop| stop.pressed);
        let Some(stop) = &mut self.stop else { return };
        match stop.button {
            _ if is_pressed => stop.button = Button::Pressed,
            Button::Asked { .. } => self.check_button().await,
            Button::Deaf { .. } | Button::Waking { .. } | Button::Pressed => {}
        }
    }

    /// Handles a due check or press.
    pub(super) async fn on_button(&mut self) {
        match self.stop.as_ref().map(|stop| stop.button) {
            Some(Button::Asked { .. } | Button::Deaf { .. }) => self.check_button().await,
            Some(Button::Waking { .. }) => self.press().await,
            Some(Button::Pressed) | None => {}
        }
    }

    /// Releases the button: a reset guest has not heard it.
    pub(super) async fn release_button(&mut self) {
        if let Some(stop) = self.stop.as_mut().filter(|stop| matches!(stop.button, Button::Pressed)) {
            stop.button = Button::Deaf { at: Instant::now() + LOOK_AGAIN };
            self.note_button(false).await;
        }
    }

    async fn check_button(&mut self) {
        let (Some(machine), Some(stop)) = (self.live.machine.clone(), &self.stop) else { return };
        let hearing = briefly(stop.deadline, machine.listens_to_power_button()).await;
        let (now, up) = (Instant::now(), self.up());
        let later = now + LOOK_AGAIN;
        let Some(stop) = &mut self.stop else { return };
        let was_deaf = matches!(stop.button, Button::Deaf { .. });
        stop.button = match hearing {
            Ok(Hearing::Deaf) => Button::Deaf { at: later },
            Ok(Hearing::Listens) if was_deaf => {
                let left = stop.deadline.duration_since(now);
                let boots = (up * TIMES).max(LEAST);
                Button::Waking { at: now + boots.min(left / 2) }
            }
            Ok(Hearing::Listens) if up < LEAST => Button::Waking { at: now + (LEAST - up) },
            Ok(_) => return self.press().await,
            // It is busy, or about to exit.
            Err(_) if was_deaf => Button::Deaf { at: later },
            Err(_) => Button::Asked { at: later },
        };
    }

    /// Time since the guest's boot or last reset.
    fn up(&self) -> Duration {
        let machine = self.record.machine.as_ref();
        let began = machine.map_or(Timestamp::now(), |machine| machine.last_reset.unwrap_or(machine.booted));
        Duration::from_millis(u64::try_from(Timestamp::now().0 - began.0).unwrap_or_default())
    }

    async fn press(&mut self) {
        self.note_button(true).await;
        let Some(stop) = &mut self.stop else { return };
        stop.button = Button::Pressed;
        let deadline = stop.deadline;
        crash::point("stop.noted");
        let Some(machine) = self.live.machine.clone() else { return };
        // The deadline covers any failure.
        match briefly(deadline, machine.press_power_button()).await {
            Ok(()) => {}
            // It may have been pressed.
            Err(error @ (HypervisorError::Silent { .. } | HypervisorError::Unanswered { .. })) => {
                tracing::warn!(%error, "the power button could not be pressed");
            }
            Err(error) => {
                tracing::warn!(%error, "the power button could not be pressed");
                self.release_button().await;
            }
        }
    }

    async fn note_button(&mut self, pressed: bool) {
        if self.record.stop.as_ref().is_none_or(|stop| stop.pressed == pressed) {
            return;
        }
        let edit = |vm: &mut VmRecord| {
            if let Some(stop) = &mut vm.stop {
                stop.pressed = pressed;
            }
        };
        if let Err(error) = self.note(edit).await {
            tracing::warn!(%error, "the next agent may press the power button again");
        }
    }
}
