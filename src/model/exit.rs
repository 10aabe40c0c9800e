//! How a run of a hypervisor ended.

use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Why.
    pub reason: ExitReason,
    /// Exit code, or 128 + signal.
    pub status: i32,
    /// When, by the hypervisor's word; else when it was noticed.
    pub time: Timestamp,
    /// The hypervisor's last words, when it failed; how a stop went.
    pub detail: String,
    /// A guest that was asked to stop did.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub obeyed: bool,
}

impl Exit {
    /// One that is noticed now, with no code, and that nobody asked for.
    #[must_use]
    pub fn noticed(reason: ExitReason, detail: String) -> Self {
        Self { reason, status: 0, time: Timestamp::now(), detail, obeyed: false }
    }
}

/// Why a hypervisor is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// Nobody saw how.
    Unknown,
    /// The guest powered itself off.
    GuestShutdown,
    /// The guest panicked.
    GuestPanic,
    /// Stopped through the agent.
    Operator,
    /// The hypervisor failed by itself.
    HypervisorError,
    /// A signal that the agent did not send.
    Signal,
    /// The host, because it needed more memory than its limit.
    OutOfMemory,
    /// The guest rebooted itself.
    GuestReset,
    /// Stopped because the host goes down.
    HostShutdown,
    /// Asked to stop, it did not obey in time: its power was cut.
    PowerCut,
}
