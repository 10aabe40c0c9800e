//! How the host's zones are configured: the section `[zone]`.

use std::path::PathBuf;

use serde::Deserialize;

use super::level::Level;
use crate::spec::Restriction;

/// Sandboxes of hypervisors.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// First of the hypervisors' uids: each VM has one of its own, never shared.
    pub uid_base: u32,
    /// Mounted read only as `/usr` of each zone: the hypervisor with its libraries and firmware.
    pub platform: PathBuf,
    /// Number of such uids, and so the most VMs that this agent can have. The next uid is for trials.
    pub uid_count: u32,
    /// Least MiB of `max_physical_memory` above `ram`: the hypervisor's own memory.
    pub min_overhead: i32,
    /// Whether a VM may start although this host can't enforce its limits. Default: `required` for root,
    /// `best-effort` for an ordinary user.
    pub limits: Option<LimitPolicy>,
    /// Prefix of the control groups' names.
    pub cgroup: String,
    /// The version 2 group that holds them, like `/system.slice/zoneward-zones.service`. Default: the agent's
    /// own. systemd can't restart an agent in a group that delegates controllers to a running zone.
    pub cgroup_parent: String,
    /// Restrictions that may be missing on this host, by name; without them here a VM does not start.
    pub allow_missing: Vec<Restriction>,
    /// Build only this kind of zone: `full`, `no-user-namespace`, `rootless` or `filters-only`. Default:
    /// the best that works.
    pub level: Option<Level>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // Above the range that systemd gives to containers.
            uid_base: 1_900_000_000,
            platform: "/usr".into(),
            uid_count: 65536,
            min_overhead: 256,
            limits: None,
            cgroup: "zoneward".into(),
            cgroup_parent: String::new(),
            allow_missing: Vec::new(),
            level: None,
        }
    }
}

/// The policy when a host can't enforce a VM's limits of memory, threads and CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitPolicy {
    /// The VM does not start.
    Required,
    /// It starts, and its status says which limits have no effect.
    BestEffort,
}
