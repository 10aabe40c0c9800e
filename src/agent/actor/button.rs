//! The power button of a guest that is to stop.
//!
//! ```text
//!   asked ─▶ deaf ──────────────────────────▶ waking ──────────▶ pressed, once
//!             │  ▲ looked at again and again     a moment for      │
//!             │  └── firmware, a boot loader ◀───its programs──────┘ the guest was reset
//!             └─▶ pressed: it listens, and has been up for a while
//! ```
//!
//! A guest that is still in its firmware can't hear the button, so it is pressed as soon as the guest has said to its
//! machine that it listens. Once it was heard it is never pressed again, whoever joins the stop and whichever agent goes
//! on with it: some systems take a second press as "never mind". That it is pressed is written down before it is. What
//! the hypervisor says is waited for a moment only: the deadline of the stop holds whatever it does.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Actor;
use crate::{
    crash,
    hypervisor::Hearing,
    store::{Commit, StopPlan, Timestamp, VmChange, VmRecord},
};

/// Between two looks at a guest that is deaf.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long the hypervisor may take for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a guest needs at least from its boot on until its programs listen.
const LEAST: Duration = Duration::from_secs(5);
/// What they need beyond the time that its kernel took to listen, as so many times that.
const TIMES: u32 = 4;

/// Where the button is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Button {
    /// Nobody could hear it yet; when it is looked at again.
    Deaf { at: Instant },
    /// The guest's kernel listens since a moment ago.
    Waking { at: Instant },
    /// The guest can have heard it.
    Pressed,
}

impl Button {
    pub(super) fn due(&self) -> Option<Instant> {
        match self {
            Self::Deaf { at } | Self::Waking { at } => Some(*at),
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
            Button::Deaf { .. } => self.look_at_button(false).await,
            Button::Waking { .. } | Button::Pressed => {}
        }
    }

    /// The time has come to look at it.
    pub(super) async fn on_button(&mut self) {
        match self.stop.as_ref().map(|stop| stop.button) {
            Some(Button::Deaf { .. }) => self.look_at_button(true).await,
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

    /// `was_deaf`: an earlier look found nobody who listens.
    async fn look_at_button(&mut self, was_deaf: bool) {
        let Some(machine) = self.live.machine.clone() else { return };
        let hearing = timeout(PATIENCE, machine.hears_power_button()).await;
        let now = Instant::now();
        let up = self.up();
        let button = match hearing {
            Ok(Ok(Hearing::Deaf)) => Button::Deaf { at: now + LOOK_AGAIN },
            Ok(Ok(Hearing::Listens)) if was_deaf => {
                let left = self.stop.as_ref().map_or(LEAST, |stop| stop.deadline.duration_since(now));
                let boots = (up * TIMES).max(LEAST);
                Button::Waking { at: now + boots.min(left / 2) }
            }
            Ok(Ok(Hearing::Listens)) if up < LEAST => Button::Waking { at: now + (LEAST - up) },
            Ok(Ok(_)) => return self.press().await,
            // It is busy, or about to go.
            Ok(Err(_)) | Err(_) => Button::Deaf { at: now + LOOK_AGAIN },
        };
        if let Some(stop) = &mut self.stop {
            stop.button = button;
        }
    }

    /// Since the guest's boot, or its last reset.
    fn up(&self) -> Duration {
        let machine = self.record.machine.as_ref();
        let began = machine.map_or(Timestamp::now(), |machine| machine.last_reset.unwrap_or(machine.booted));
        Duration::from_millis(u64::try_from(Timestamp::now().0 - began.0).unwrap_or_default())
    }

    async fn press(&mut self) {
        self.note_button(true).await;
        if let Some(stop) = &mut self.stop {
            stop.button = Button::Pressed;
        }
        crash::point("stop.noted");
        let Some(machine) = self.live.machine.clone() else { return };
        // The deadline will deal with what goes wrong.
        match timeout(PATIENCE, machine.press_power_button()).await {
            Ok(Ok(())) => {}
            // It was not pressed.
            Ok(Err(error)) => {
                tracing::warn!(vm = %self.record.uuid, %error, "power button");
                self.release_button().await;
            }
            Err(_) => {
                tracing::warn!(vm = %self.record.uuid, "the hypervisor does not answer about the power button")
            }
        }
    }

    /// Nothing that anybody sees is different.
    async fn note_button(&mut self, pressed: bool) {
        let Some(stop) = self.record.stop.clone().filter(|stop| stop.pressed != pressed) else { return };
        let noted = VmRecord { stop: Some(StopPlan { pressed, ..stop }), ..self.record.clone() };
        let put = Some(VmChange::Put(Box::new(noted.clone())));
        match self.agent.inner.store.commit(Commit { vm: put, ..Commit::default() }).await {
            Ok(_) => self.record = noted,
            Err(error) => {
                tracing::warn!(vm = %self.record.uuid, %error, "the next agent may press the power button again")
            }
        }
    }
}
