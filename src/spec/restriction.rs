//! The five restrictions of a SmartOS zone on its hypervisor.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// One of the five.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Restriction {
    /// No file is created, changed or removed, except the VM's own disks.
    ModifyFilesystem,
    /// No socket to a network; the guest's packets go through what the agent opened.
    Network,
    /// No process is created and no program run.
    CreateProcess,
    /// No other process is seen.
    SeeProcesses,
    /// No process outside is signalled or traced.
    SignalOutside,
}

impl Restriction {
    /// All of them, by name.
    pub const ALL: &[(&str, Self)] = &[
        ("MODIFY_FILESYSTEM", Self::ModifyFilesystem),
        ("NETWORK", Self::Network),
        ("CREATE_PROCESS", Self::CreateProcess),
        ("SEE_PROCESSES", Self::SeeProcesses),
        ("SIGNAL_OUTSIDE", Self::SignalOutside),
    ];

    /// Its name in the API and the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ModifyFilesystem => "MODIFY_FILESYSTEM",
            Self::Network => "NETWORK",
            Self::CreateProcess => "CREATE_PROCESS",
            Self::SeeProcesses => "SEE_PROCESSES",
            Self::SignalOutside => "SIGNAL_OUTSIDE",
        }
    }
}

impl fmt::Display for Restriction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Restriction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().find(|(name, _)| *name == text).map(|(_, found)| *found).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("{text:?} is not a restriction: {}", names.join(", "))
        })
    }
}

/// Whether a restriction holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforcement {
    /// Which.
    pub restriction: Restriction,
    /// The mechanisms, each independent; empty when it does not hold.
    pub mechanisms: Vec<String>,
    /// Why it does not hold; empty when it does.
    pub reason: String,
}

impl Enforcement {
    /// Whether it holds.
    #[must_use]
    pub fn is_enforced(&self) -> bool {
        !self.mechanisms.is_empty()
    }
}
