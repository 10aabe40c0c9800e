//! The sandbox of a zone as data: made by the agent, built by the launcher.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::cgroup::Cgroup;

pub use super::level::Level;

/// A mechanism that a zone consists of. The probe, and nothing else, can leave each out of its zone to show
/// its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// Every mount is read only.
    ReadOnlyMounts,
    /// The zone's own pid namespace.
    PidNamespace,
    /// The zone's own network namespace.
    NetworkNamespace,
    /// Landlock's rules.
    Landlock,
    /// The filter of system calls.
    Seccomp,
    /// Limits of memory and threads.
    Cgroups,
}

impl Mechanism {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::ReadOnlyMounts,
        Self::PidNamespace,
        Self::NetworkNamespace,
        Self::Landlock,
        Self::Seccomp,
        Self::Cgroups,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnlyMounts => "read-only-mounts",
            Self::PidNamespace => "pid-namespace",
            Self::NetworkNamespace => "network-namespace",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
            Self::Cgroups => "cgroups",
        }
    }
}

/// Everything that the launcher builds around a hypervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sandbox {
    /// The zone's root.
    pub root: PathBuf,
    /// Host folders that are mounted read only below it: source and place.
    pub platform: Vec<(PathBuf, String)>,
    /// Nodes in `/dev`.
    pub devices: Vec<Device>,
    /// The hypervisor's user and group.
    pub uid: u32,
    /// The zone's host name.
    pub hostname: String,
    /// How much of it this host can build.
    pub level: Level,
    /// Whether the kernel has Landlock.
    pub landlock: bool,
    /// Omitted mechanisms; empty for every VM.
    pub without: Vec<Mechanism>,
    /// A process whose zone is entered instead of a new one.
    pub join: Option<i32>,
    /// Thread limit, for a host that counts threads per user only.
    pub threads: u64,
    /// Bytes that may be locked in memory.
    pub locked: u64,
    /// Largest file size in bytes: no write exceeds it.
    pub largest_file: u64,
    /// Files through which a single-threaded process enters its version 1 control groups.
    pub doors: Vec<PathBuf>,
    /// The version 2 control group that the hypervisor starts in.
    pub birthplace: Option<PathBuf>,
}

/// A device node of the zone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Device {
    /// Its name below `/dev`.
    pub name: String,
    /// Of its number.
    pub major: u32,
    /// Of its number.
    pub minor: u32,
}

impl Sandbox {
    /// Adds these control groups.
    pub(super) fn within(self, cgroup: &Cgroup) -> Self {
        Self { doors: cgroup.doors(), birthplace: cgroup.birthplace().map(Into::into), ..self }
    }

    /// Whether a mechanism is in force.
    pub(super) fn has(&self, mechanism: Mechanism) -> bool {
        !self.without.contains(&mechanism)
    }
}
