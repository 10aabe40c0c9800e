//! The sandbox of a zone as data: made by the agent, built by the launcher.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::config::ZoneLevel as Level;

/// Everything that the launcher builds around a hypervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sandbox {
    /// What becomes `/`.
    pub root: PathBuf,
    /// Host folders that are mounted read only below it: source and place.
    pub platform: Vec<(PathBuf, String)>,
    /// What is in `/dev`.
    pub devices: Vec<Device>,
    /// The user and group that the hypervisor is.
    pub uid: u32,
    /// The zone's host name.
    pub hostname: String,
    /// How much of it this host can build.
    pub level: Level,
    /// Whether the kernel has Landlock.
    pub landlock: bool,
    /// Most threads.
    pub max_threads: u64,
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
