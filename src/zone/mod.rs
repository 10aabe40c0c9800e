//! The zone: the sandbox around one hypervisor process.
//!
//! The seam is [`Zone`]: it takes a [`Launch`] (a program, its arguments and every descriptor that
//! it may have) and turns it into a [`Process`] that outlives the agent. [`linux`] builds it with a
//! short-lived launcher; [`simulated`] has no process at all.
//!
//! ```text
//!  agent ──spawn──▶ launcher (this program again, single threaded)
//!    │                 │ clone3(CLONE_PARENT)
//!    │                 ├──────────────▶ hypervisor, waits at the gate
//!    │                 │ writes process.json, sends pidfd
//!    │◀── pidfd ───────┤ opens the gate ──▶ exec
//!    │                 ▼ exit
//!    └─ the hypervisor is the agent's own child; nothing stays between them
//! ```
//!
//! The agent may be killed at any instruction: before `process.json` the gate never opens and the process
//! exits; afterwards the next agent finds the process by that file.

mod cgroup;
pub mod identity;
pub mod launcher;
mod level;
pub mod linux;
pub(crate) mod measure;
pub mod sandbox;
mod settings;
pub mod simulated;
mod spawn;

use std::{
    fmt,
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    layout::VmLayout,
    spec::{Enforcement, LimitReport, Limits, Restriction},
};

pub use linux::logger::{SUBCOMMAND as LOGGER, serve::run as log};
pub(crate) use settings::{LimitPolicy, Settings};

/// A program with everything that it may touch.
#[derive(Debug)]
pub struct Launch {
    /// The VM.
    pub uuid: Uuid,
    /// The zone's index in the host's range of zone users.
    pub index: u32,
    /// Host resources that it may use.
    pub limits: Limits,
    /// Largest file that it may write, in bytes.
    pub largest_file: u64,
    /// Whether it needs `/dev/kvm`.
    pub kvm: bool,
    /// Path of the program.
    pub program: PathBuf,
    /// Without the program's name.
    pub arguments: Vec<String>,
    /// Descriptors by the number that the arguments use.
    pub descriptors: Vec<(OwnedFd, i32)>,
    /// Standard input: the console's input.
    pub input: File,
    /// Standard output: the console's output.
    pub output: File,
    /// Standard error: its last words.
    pub errors: File,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// By the host, because it needed more memory than its limit.
    OutOfMemory,
    /// It is gone, and its status can no longer be read.
    Unseen,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::OutOfMemory => f.write_str("killed: it needed more memory than max_physical_memory"),
            Self::Unseen => f.write_str("gone, nobody saw how"),
        }
    }
}

/// A hypervisor process.
#[async_trait]
pub trait Process: Send + Sync + fmt::Debug {
    /// On the host.
    fn pid(&self) -> i32;
    /// Returns its measured restrictions.
    fn enforcements(&self) -> &[Enforcement];
    /// Returns the limits applied at its start; empty for a process that was found.
    fn limits(&self) -> &[LimitReport];
    /// Applies limits from now on, and returns the values read back.
    fn bound(&self, limits: &Limits) -> Vec<LimitReport>;
    /// Waits until it is gone.
    async fn ended(&self) -> Ended;
    /// Sends a signal. Does nothing when the process is already gone.
    fn signal(&self, signal: rustix::process::Signal) -> Result<(), ZoneError>;
    /// Kills it at once. Does nothing when it is already gone.
    fn kill(&self) -> Result<(), ZoneError>;
}

/// The state of a process that an earlier agent started.
#[derive(Debug)]
pub enum Found {
    /// It lives.
    Alive(Arc<dyn Process>),
    /// It ended, with the status if still known; or none existed in this boot of the host.
    Gone(Ended),
    /// Unknown; the text says why.
    Unknown(String),
}

/// Builds and finds zones.
#[async_trait]
pub trait Zone: Send + Sync + fmt::Debug {
    /// Returns the restrictions of this host's zones.
    async fn enforcements(&self) -> Vec<Enforcement>;
    /// Returns the limits of this host's zones.
    async fn limits(&self) -> Vec<LimitReport>;
    /// Returns the user of the hypervisor in zone `index`.
    fn user(&self, index: u32) -> u32;
    /// Runs the program in the VM's zone.
    async fn spawn(&self, layout: &VmLayout, launch: Launch) -> Result<Arc<dyn Process>, ZoneError>;
    /// Finds the hypervisor that an earlier agent left running.
    fn find(&self, uuid: Uuid, layout: &VmLayout) -> Found;
    /// Forgets the process, once it is gone.
    async fn forget(&self, uuid: Uuid, layout: &VmLayout);
    /// Lists every control group named after a VM.
    async fn groups(&self) -> Vec<Group>;
    /// Removes a control group; fails while a process runs in it.
    async fn remove_group(&self, group: &Path) -> Result<(), ZoneError>;
}

/// A control group that is named after a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The VM.
    pub uuid: Uuid,
    /// Its folder.
    pub path: PathBuf,
    /// It holds a process.
    pub populated: bool,
}

/// Why a zone could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ZoneError {
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// The failed action.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// This host can't enforce a restriction, and the configuration does not let it be missing.
    #[error(
        "restriction {restriction} can't be enforced on this host: {reason}; to run VMs without it, add it to zone.allow_missing"
    )]
    Missing {
        /// Which.
        restriction: Restriction,
        /// Why not.
        reason: String,
    },
    /// This host can't enforce a limit that the configuration requires.
    #[error(
        "{property} can't be enforced on this host: {reason}; give the agent a control group that it can write (under systemd: Delegate=yes), or set zone.limits to best-effort"
    )]
    Unlimited {
        /// The limit's property.
        property: String,
        /// Why not.
        reason: String,
    },
    /// A folder of the zone is not as the agent created it.
    #[error("{}: {what}; {advice}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// The launcher gave up.
    #[error("the launcher failed: {0}")]
    Launcher(String),
}

impl ZoneError {
    /// Prefixes a system error with `what`.
    pub(crate) fn at<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::System { what, source: error.into() }
    }
}
