//! The power button of a guest that is to stop.
//!
//! ```text
//!   asked ─▶ deaf ──────────────────────────▶ waking ──────────▶ pressed, once
//!     │       ▲ looked at again and again       a moment for      │
//!     │       └── firmware, a boot loader ◀─────its programs──────┘ the guest was reset
//!     └─▶ pressed: it listens, and has been up for a while
//! ```
//!
//! A guest that is still in its firmware can't hear the button, so it is pressed as soon as the guest has said to its
//! machine that it listens. Once it was heard it is never pressed again, whoever joins the stop and whichever agent goes
//! on with it: some systems take a second press as "never mind". That it is pressed is written down before it is. What
//! the hypervisor says is waited for a moment only: the deadline of the stop holds whatever it does.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    agent::vm::{Actor, patience::briefly},
    crash,
    hypervisor::{Hearing, HypervisorError},
    model::{Timestamp, VmRecord},
};

/// Between two looks at a guest that is deaf.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The shortest time from a guest's boot until its programs listen.
const LEAST: Duration = Duration::from_secs(5);
/// Once a kernel listens, its programs may need this many times as long as the kernel took.
const TIMES: u32 = 4;

/// Where the button is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Button {
    /// The hypervisor has not said whether the guest listens; the time of the next check.
    Asked { at: Instant },
    /// The guest does not listen; the time of the next check.
    Deaf { at: Instant },
    /// The guest's kernel listens since a moment ago.
    Waking { at: Instant },
    /// The guest can have heard it.
    Pressed,
}

impl Button {
    /// Of a stop that begins now.
    pub(super) fn asked() -> Self {
        Self::Asked { at: Instant::now() }
    }

    /// Whether the hypervisor has not said yet that the guest listens, or that it does not.
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
    /// Looks at the button of a stop that has just begun, was joined, or came from an earlier agent.
    pub(super) async fn begin_button(&mut self) {
        let is_pressed = self.record.stop.as_ref().is_some_and(|stop| stop.pressed);
        let Some(stop) = &mut self.stop else { return };
        match stop.button {
            _ if is_pressed => stop.button = Button::Pressed,
            Button::Asked { .. } => self.check_button().await,
            Button::Deaf { .. } | Button::Waking { .. } | Button::Pressed => {}
        }
    }

    /// The time has come to look at it.
    pub(super) async fn on_button(&mut self) {
        match self.stop.as_ref().map(|stop| stop.button) {
            Some(Button::Asked { .. } | Button::Deaf { .. }) => self.check_button().await,
            Some(Button::Waking { .. }) => self.press().await,
            Some(Button::Pressed) | None => {}
        }
    }

    /// A guest that was reset has not heard anything.
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
            // It is busy, or about to go.
            Err(_) if was_deaf => Button::Deaf { at: later },
            Err(_) => Button::Asked { at: later },
        };
    }

    /// Since the guest's boot, or its last reset.
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
        // The deadline will deal with what goes wrong.
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
