//! How a VM is stopped, and who waits for it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{exit::ExitReason, time::Timestamp};

/// A stop as it was requested, so that the next agent can finish it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopPlan {
    /// When the power is cut.
    pub deadline: Timestamp,
    /// A reboot: the VM is started again.
    pub then_start: bool,
    /// The calls whose answers wait for its end.
    pub calls: Vec<WaitingCall>,
    /// Who wanted it.
    #[serde(default)]
    pub cause: StopCause,
    /// The guest may have heard the power button.
    #[serde(default)]
    pub pressed: bool,
    /// The guest must not be asked.
    #[serde(default)]
    pub forced: bool,
}

/// A signal that a caller sent to the hypervisor, and that may be its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kill {
    /// Who.
    pub call: WaitingCall,
    /// Which.
    pub signal: i32,
}

/// The cause of a stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCause {
    /// A caller.
    #[default]
    Operator,
    /// The host's shutdown.
    HostShutdown,
}

impl StopCause {
    /// Returns the exit reason of such a stop.
    #[must_use]
    pub fn reason(self) -> ExitReason {
        match self {
            Self::Operator => ExitReason::Operator,
            Self::HostShutdown => ExitReason::HostShutdown,
        }
    }
}

/// A call that is answered later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingCall {
    /// Who called.
    pub actor: String,
    /// The caller's id of the request.
    pub request_id: Option<Uuid>,
    /// Of the request's content.
    pub digest: [u8; 32],
    /// It wants the VM to run again.
    pub reboots: bool,
}
