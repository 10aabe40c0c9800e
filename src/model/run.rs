//! A running hypervisor, and the boot that it came from.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::time::Timestamp;
use crate::spec::{BootOptions, Bootrom, Enforcement, LimitReport, NicSpec};

/// A running hypervisor. The run directory, not this, identifies the process: that is written before the
/// process runs its first instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// On the host.
    pub pid: i32,
    /// When it was started.
    pub booted: Timestamp,
    /// What runs guest code: `kvm` or `tcg`.
    pub accelerator: String,
    /// The program and its version, by its own account.
    #[serde(default)]
    pub hypervisor: String,
    /// Its firmware, whose variables are restored when it ends.
    #[serde(default)]
    pub bootrom: Option<Bootrom>,
    /// Whether it has a screen.
    #[serde(default = "yes")]
    pub screen: bool,
    /// The hypervisor's restrictions.
    #[serde(default)]
    pub enforcements: Vec<Enforcement>,
    /// Its limits.
    #[serde(default)]
    pub limits: Vec<LimitReport>,
    /// Its CD drives.
    #[serde(default)]
    pub cds: Vec<CdDrive>,
    /// Its interfaces, as they were when it was booted.
    #[serde(default)]
    pub nics: Vec<NicSpec>,
    /// How often it was reset.
    #[serde(default)]
    pub resets: u64,
    /// When it was reset last.
    #[serde(default)]
    pub last_reset: Option<Timestamp>,
}

/// Earlier agents gave every machine a screen.
fn yes() -> bool {
    true
}

/// A boot as it was requested, so that another agent can continue it and report on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootCall {
    /// Who called.
    pub actor: String,
    /// The caller's id of the request.
    pub request_id: Option<Uuid>,
    /// The time of the call, on the host's clock that nobody sets: phases count from it.
    pub called_us: u64,
    /// The boot's options.
    pub options: BootOptions,
}

/// A CD drive of a running machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CdDrive {
    /// The hypervisor's name of it.
    pub id: String,
    /// Its medium, a path inside the zone's root; empty when there is none.
    pub path: String,
}
