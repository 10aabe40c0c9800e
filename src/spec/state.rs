//! The states of a VM, in vmadm's words where it has them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a VM is in its life.
///
/// ```text
///            create            start                 cont
///   (none) ────────▶ provisioning ─▶ stopped ─▶ starting ─▶ running
///                                      ▲ ▲          │        │   │ hypervisor stopped by itself
///                                      │ └──────────┘        │   └──────────▶ failed
///                                      │   a step failed     │ stop           │ stop
///                                      │                     ▼                │
///                                      └──────────────── stopping ◀───────────┘
///                                       hypervisor gone
///   running ◀─▶ paused: halted and let go by a caller
///   running ◀─▶ suspended: the guest sleeps; a caller or the guest's clock wakes it
///   stopped ─▶ deleting ─▶ (none)             lost: unknown after a restart of the agent
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmState {
    /// Being created.
    Provisioning,
    /// No hypervisor.
    Stopped,
    /// The boot plan is under way.
    Starting,
    /// The hypervisor runs.
    Running,
    /// Asked to stop; a deadline runs.
    Stopping,
    /// Being removed.
    Deleting,
    /// The hypervisor runs but stopped the guest on its own.
    Failed,
    /// Whether the hypervisor lives is unknown.
    Lost,
    /// The guest's processors are halted, because somebody asked for it.
    Paused,
    /// The guest put itself to sleep (ACPI S3).
    Suspended,
}

impl VmState {
    /// The words of all states.
    pub const WORDS: &[&str] = &[
        "provisioning",
        "stopped",
        "starting",
        "running",
        "stopping",
        "deleting",
        "failed",
        "lost",
        "paused",
        "suspended",
    ];
    /// The zone states.
    pub const ZONE_WORDS: &[&str] =
        &["configured", "installed", "ready", "running", "shutting_down", "incomplete", "down"];

    /// vmadm's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Deleting => "deleting",
            Self::Failed => "failed",
            Self::Lost => "lost",
            Self::Paused => "paused",
            Self::Suspended => "suspended",
        }
    }

    /// The state of the zone below, as vmadm's `zone_state`.
    #[must_use]
    pub fn zone_state(self) -> &'static str {
        match self {
            Self::Provisioning => "configured",
            Self::Stopped => "installed",
            Self::Starting => "ready",
            Self::Running | Self::Failed | Self::Paused | Self::Suspended => "running",
            Self::Stopping => "shutting_down",
            Self::Deleting => "incomplete",
            Self::Lost => "down",
        }
    }

    /// Whether a hypervisor process belongs to the state.
    #[must_use]
    pub fn has_hypervisor(self) -> bool {
        matches!(self, Self::Running | Self::Stopping | Self::Failed | Self::Paused | Self::Suspended)
    }
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
