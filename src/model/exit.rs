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
    /// When, by the hypervisor's log; else when it was noticed.
    pub time: Timestamp,
    /// The hypervisor's last words, when it failed; how a stop went.
    pub detail: String,
    /// The guest obeyed a request to stop.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub obeyed: bool,
}

impl Exit {
    /// Creates an exit without a code that is noticed now and nobody requested.
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
    /// The hypervisor failed.
    HypervisorError,
    /// A signal that the agent did not send.
    Signal,
    /// The host killed it, because it exceeded its memory limit.
    OutOfMemory,
    /// The guest rebooted itself.
    GuestReset,
    /// Stopped because the host goes down.
    HostShutdown,
    /// The guest did not obey a stop in time: its power was cut.
    PowerCut,
}
