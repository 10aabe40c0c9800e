//! What runs a guest.
//!
//! The seam has two halves. [`Hypervisor`] turns a [`MachinePlan`] into a [`Program`]: arguments and
//! descriptors, nothing done yet. Once the program runs in its zone, `attach` connects to its control
//! socket and gives a [`Machine`], which is also how a later agent takes over a running one.
//! QEMU and a simulation are here; bhyve will be the third.

mod plan;
pub mod qemu;
pub mod simulated;

use std::{
    fmt,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
pub(crate) use plan::{Drive, Firmware, MachinePlan, Medium, Nic, NicBackend, Tuning};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::spec::{Violation, VmSpec, VmState};

/// A program that is a hypervisor with one machine.
#[derive(Debug)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// Without its name.
    pub arguments: Vec<String>,
    /// Descriptors by the number that the arguments use.
    pub descriptors: Vec<(OwnedFd, i32)>,
    /// What the control connection does before the guest runs.
    pub setup: Setup,
    /// What runs guest code: `kvm` or `tcg`.
    pub accelerator: String,
}

/// Bytes that a file of a hypervisor may have whatever its disks are: a picture of the screen, which is in 16 MiB of
/// video memory.
pub(crate) const LEAST_FILE: u64 = 16 << 20;

/// What a message of 4 MiB can hold beside its envelope.
const MAX_PICTURE: usize = (4 << 20) - (4 << 10);

/// What is left to do once the program answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// Boot positions from the second boot of the guest on: device and position, −1 for none.
    pub boot_positions: Vec<(String, i32)>,
    /// Asked of VNC clients.
    pub vnc_password: Option<String>,
}

/// A kind of hypervisor.
#[async_trait]
pub trait Hypervisor: Send + Sync + fmt::Debug {
    /// What it is and can do on this host.
    async fn describe(&self) -> Description;
    /// Opens the UEFI of a VM whose variables are kept at `vars`.
    fn open_uefi(&self, vars: &Path) -> Result<Firmware, HypervisorError>;
    /// Gives the UEFI variables at `vars`, if there are any, their size again after a run.
    fn settle_uefi(&self, vars: &Path) -> Result<(), HypervisorError>;
    /// What of a complete machine it can't start on this host.
    async fn faults(&self, spec: &VmSpec) -> Vec<Violation>;
    /// The program for a machine. Does nothing yet.
    async fn program(&self, plan: MachinePlan) -> Result<Program, HypervisorError>;
    /// Connects to a program by its control socket.
    async fn attach(
        &self,
        uuid: Uuid,
        control: &Path,
        patience: Duration,
    ) -> Result<Arc<dyn Machine>, HypervisorError>;
    /// What a program said about resets and its end, and its other words; from what it wrote as errors.
    fn last_words(&self, text: &str) -> LastWords;
    /// How long a program that was just started may take until it answers.
    fn patience(&self) -> Duration;
}

/// What a hypervisor left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastWords {
    /// What it said about resets and its end, in order, as far back as is kept.
    pub said: Vec<Said>,
    /// For people.
    pub words: String,
}

/// Something that a hypervisor told by itself, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// By its own word.
    pub time: SystemTime,
    /// What.
    pub event: MachineEvent,
}

impl LastWords {
    /// What it said about its end, if it ended as hypervisors do.
    #[must_use]
    pub fn end(&self) -> Option<&Said> {
        self.said.iter().rev().find(|said| !matches!(said.event, MachineEvent::Reset { .. }))
    }
}

/// A hypervisor on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its version; empty when it can't be run.
    pub version: String,
    /// What runs guest code: `kvm` or `tcg`.
    pub accelerator: String,
    /// Why that one.
    pub reason: String,
}

/// The form of a picture of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Picture {
    /// Compressed.
    Png,
    /// Three bytes for each pixel.
    Ppm,
}

impl Picture {
    /// Bytes that are taken of one: of a PNG what a message of 4 MiB can hold, which clients take by default.
    #[must_use]
    pub fn most(self) -> usize {
        match self {
            Self::Png => MAX_PICTURE,
            Self::Ppm => 16 << 20,
        }
    }
}

/// A running machine.
#[async_trait]
pub trait Machine: Send + Sync + fmt::Debug {
    /// Does what a new machine needs before it runs.
    async fn set_up(&self, setup: &Setup) -> Result<(), HypervisorError>;
    /// Halts the guest.
    async fn pause(&self) -> Result<(), HypervisorError>;
    /// Sends the guest a non-maskable interrupt.
    async fn inject_nmi(&self) -> Result<(), HypervisorError>;
    /// Sends a break on the serial console.
    async fn send_break(&self) -> Result<(), HypervisorError>;
    /// Presses a key that does nothing but wake a screen.
    async fn wake_screen(&self) -> Result<(), HypervisorError>;
    /// Puts a medium into a CD drive; none leaves it empty.
    async fn change_medium(&self, drive: &str, medium: Option<Medium>) -> Result<(), HypervisorError>;
    /// Asks VNC clients for this from now on; for nothing when there is none.
    async fn set_vnc_password(&self, password: Option<&str>) -> Result<(), HypervisorError>;
    /// Lets the guest run.
    async fn resume(&self) -> Result<(), HypervisorError>;
    /// Whether the guest would hear the power button.
    async fn listens_to_power_button(&self) -> Result<Hearing, HypervisorError>;
    /// Wakes a guest that sleeps.
    async fn wake(&self) -> Result<(), HypervisorError>;
    /// Presses the power button.
    async fn press_power_button(&self) -> Result<(), HypervisorError>;
    /// Presses reset.
    async fn reset(&self) -> Result<(), HypervisorError>;
    /// Whether guest code runs, and the hypervisor's word for it.
    async fn status(&self) -> Result<GuestStatus, HypervisorError>;
    /// What it says about itself.
    async fn info(&self, kind: InfoType) -> Result<Value, HypervisorError>;
    /// The screen as a picture.
    async fn screenshot(&self, form: Picture) -> Result<Vec<u8>, HypervisorError>;
    /// Hands it a connected socket that speaks RFB; who is `trusted` is not asked for a password.
    async fn add_vnc_client(&self, socket: OwnedFd, trusted: bool) -> Result<(), HypervisorError>;
    /// What happens next; `None` when the control connection is gone. For one caller.
    async fn next_event(&self) -> Option<MachineEvent>;
}

/// Whether somebody listens to the power button.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// The guest's system says so.
    Listens,
    /// There is no system yet, or none that cares.
    Deaf,
    /// The hypervisor can't tell.
    Unknown,
}

/// Whether guest code runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestStatus {
    /// It does.
    pub running: bool,
    /// The hypervisor's word.
    pub status: String,
}

impl GuestStatus {
    /// What that means for the VM.
    #[must_use]
    pub fn state(&self) -> VmState {
        match &*self.status {
            _ if self.running => VmState::Running,
            // Asleep by its own wish.
            "suspended" => VmState::Suspended,
            // Halted by whoever may, and let go the same way.
            "paused" | "prelaunch" | "debug" | "postmigrate" => VmState::Paused,
            // On its way from one state to another; the next look tells.
            "save-vm" | "restore-vm" | "inmigrate" | "finish-migrate" => VmState::Running,
            // "internal-error", "io-error", "watchdog", "guest-panicked", "shutdown", "colo", and what nobody knows.
            _ => VmState::Failed,
        }
    }
}

/// What a hypervisor tells by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// It is about to end.
    Shutdown {
        /// The guest asked for it.
        guest: bool,
        /// The hypervisor's word for why.
        reason: String,
    },
    /// The machine was reset.
    Reset {
        /// The guest asked for it.
        guest: bool,
    },
    /// Guest code no longer runs, or runs again; `Machine::status` says why.
    Stopped,
    /// The guest panicked.
    Panicked,
}

/// vmadm's types of `info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InfoType {
    /// Block devices.
    Block,
    /// Their counters.
    Blockstats,
    /// Character devices.
    Chardev,
    /// Virtual CPUs.
    Cpus,
    /// Whether KVM is used.
    Kvm,
    /// The PCI bus.
    Pci,
    /// Whether guest code runs.
    Status,
    /// The hypervisor's version.
    Version,
    /// The VNC endpoint; the agent's own.
    Vnc,
}

impl InfoType {
    /// All types, by name.
    pub const NAMES: &[(&str, Self)] = &[
        ("block", Self::Block),
        ("blockstats", Self::Blockstats),
        ("chardev", Self::Chardev),
        ("cpus", Self::Cpus),
        ("kvm", Self::Kvm),
        ("pci", Self::Pci),
        ("status", Self::Status),
        ("version", Self::Version),
        ("vnc", Self::Vnc),
    ];

    /// The types that a request names: none means all, and so does `all`.
    pub fn parse_list<S: AsRef<str>>(names: &[S]) -> Result<Vec<(&'static str, Self)>, String> {
        let mut types = Vec::new();
        for name in names {
            match name.as_ref() {
                "all" => return Ok(Self::NAMES.to_vec()),
                name => types.push(
                    *Self::NAMES
                        .iter()
                        .find(|(known, _)| *known == name)
                        .ok_or_else(|| format!("unknown info type {name}"))?,
                ),
            }
        }
        Ok(if types.is_empty() { Self::NAMES.to_vec() } else { types })
    }
}

/// JSON of several info types.
pub(crate) type Info = Map<String, Value>;

/// What goes wrong with a hypervisor.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The control connection ended.
    #[error("the hypervisor closed its control connection")]
    Gone,
    /// No answer.
    #[error("the hypervisor did not answer {command} within {seconds} s")]
    Silent {
        /// What was asked.
        command: String,
        /// How long was waited.
        seconds: u64,
    },
    /// No answer to something that it may do nevertheless.
    #[error(
        "the hypervisor did not answer within {seconds} s; it may still carry out the request, so check before you repeat it"
    )]
    Unanswered {
        /// How long was waited.
        seconds: u64,
    },
    /// An answer that is none.
    #[error("the hypervisor's reply to {command} cannot be understood: {detail}")]
    Garbled {
        /// What was asked.
        command: String,
        /// What is wrong.
        detail: String,
    },
    /// It said no.
    #[error("the hypervisor refused {command}: {message}")]
    Refused {
        /// What was asked.
        command: String,
        /// Its words.
        message: String,
    },
    /// The plan can't be carried out.
    #[error("{0}")]
    Plan(String),
}

impl HypervisorError {
    /// It says nothing, whatever it was asked.
    pub(crate) fn silent(patience: Duration) -> Self {
        Self::Silent { command: "what was asked".to_owned(), seconds: patience.as_secs() }
    }

    pub(crate) fn at<E: Into<std::io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |error| Self::System { what: what.into(), source: error.into() }
    }
}
