//! The zone: the sandbox around one hypervisor process.
//!
//! The seam is [`Zone`]: it takes a [`Launch`] (a program, its arguments and every descriptor that
//! it may have) and makes a [`Process`] of it that outlives the agent. [`linux`] builds it with a
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
//! Killed at any instruction: before `process.json` the gate never opens and the process ends by
//! itself; after it the next agent finds the process by that file.

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
    /// Whose.
    pub uuid: Uuid,
    /// The zone's place in the host's range of zone users.
    pub index: u32,
    /// What it may use of the host.
    pub limits: Limits,
    /// Bytes of the largest file that it may write: it makes none larger.
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
    /// What it is kept from, as measured.
    fn enforcements(&self) -> &[Enforcement];
    /// What the host kept to when it was made; nothing for one that was found.
    fn limits(&self) -> &[LimitReport];
    /// Bounds it, from now on, and says what the host keeps to as read back.
    fn bound(&self, limits: &Limits) -> Vec<LimitReport>;
    /// Waits until it is gone.
    async fn ended(&self) -> Ended;
    /// Sends it a signal. Nothing happens when it is gone already.
    fn signal(&self, signal: rustix::process::Signal) -> Result<(), ZoneError>;
    /// Ends it at once. Nothing happens when it is gone already.
    fn kill(&self) -> Result<(), ZoneError>;
}

/// What the host says about a process that an earlier agent started.
#[derive(Debug)]
pub enum Found {
    /// It lives.
    Alive(Arc<dyn Process>),
    /// It is gone, as far as can still be told how; or there never was one in this boot of the host.
    Gone(Ended),
    /// It can't be told; the text says why.
    Unknown(String),
}

/// Makes and finds zones.
#[async_trait]
pub trait Zone: Send + Sync + fmt::Debug {
    /// What zones on this host keep a hypervisor from.
    async fn enforcements(&self) -> Vec<Enforcement>;
    /// What zones on this host can bound.
    async fn limits(&self) -> Vec<LimitReport>;
    /// The user that the hypervisor of the zone with that index is.
    fn user(&self, index: u32) -> u32;
    /// Runs the program in the VM's zone.
    async fn spawn(&self, layout: &VmLayout, launch: Launch) -> Result<Arc<dyn Process>, ZoneError>;
    /// Finds the hypervisor that an earlier agent left running.
    fn find(&self, uuid: Uuid, layout: &VmLayout) -> Found;
    /// Forgets the process, once it is gone.
    async fn forget(&self, uuid: Uuid, layout: &VmLayout);
    /// Every control group that has the name of a VM's.
    async fn groups(&self) -> Vec<Group>;
    /// Removes one; an error while something runs in it.
    async fn remove_group(&self, group: &Path) -> Result<(), ZoneError>;
}

/// A control group that has the name of a VM's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Whose name.
    pub uuid: Uuid,
    /// Its folder.
    pub path: PathBuf,
    /// Something runs in it.
    pub populated: bool,
}

/// Why a zone could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ZoneError {
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
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
    /// This host can't keep to a limit, and the configuration says that it must.
    #[error(
        "{property} can't be enforced on this host: {reason}; give the agent a control group that it can write (under systemd: Delegate=yes), or set zone.limits to best-effort"
    )]
    Unlimited {
        /// The limit's property.
        property: String,
        /// Why not.
        reason: String,
    },
    /// A folder of the zone is not what the agent made.
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
    /// Puts `what` before a system's error.
    pub(crate) fn at<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::System { what, source: error.into() }
    }
}
