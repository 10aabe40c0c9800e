//! How much of a zone a host can build.

use serde::{Deserialize, Serialize};

/// How much of a zone a host can build, from most to least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Root's zone, in a user namespace that maps one unprivileged user.
    Full,
    /// Root's zone where user namespaces are refused.
    NoUserNamespace,
    /// An ordinary user's zone, in a user namespace of its own.
    Rootless,
    /// No namespaces: Landlock and the system call filter alone.
    FiltersOnly,
}

impl Level {
    /// All levels, best first.
    pub const LADDER: &[Self] = &[Self::Full, Self::NoUserNamespace, Self::Rootless, Self::FiltersOnly];

    /// Whether the zone has namespaces and a root of its own.
    #[must_use]
    pub fn has_namespaces(self) -> bool {
        self != Self::FiltersOnly
    }
}
