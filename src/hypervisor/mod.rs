//! Hypervisor drivers.
//!
//! The seam has two halves. [`Hypervisor`] turns a [`MachinePlan`] into a [`Program`]: arguments and
//! descriptors, nothing done yet. Once the program runs in its zone, `attach` connects to its control
//! socket and returns a [`Machine`]; a later agent adopts a running one the same way. There is one driver for each
//! brand: QEMU in the shape of either, and a simulation.

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

use crate::spec::{Bootrom, Violation, VmSpec, VmState};

/// A hypervisor program with one machine.
#[derive(Debug)]
pub struct Program {
    /// Its path.
    pub path: PathBuf,
    /// Without its name.
    pub arguments: Vec<String>,
    /// Descriptors by the number that the arguments use.
    pub descriptors: Vec<(OwnedFd, i32)>,
    /// Setup over the control connection before the guest runs.
    pub setup: Setup,
    /// What runs guest code: `kvm` or `tcg`.
    pub accelerator: String,
}

/// Bytes that a message of 4 MiB holds besides its envelope.
const MAX_PICTURE: usize = (4 << 20) - (4 << 10);

/// Steps that remain once the program responds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// Boot positions from the second boot of the guest on: device and position, −1 for none.
    pub boot_positions: Vec<(String, i32)>,
    /// Password for VNC clients.
    pub vnc_password: Option<String>,
}

/// A kind of hypervisor.
#[async_trait]
pub trait Hypervisor: Send + Sync + fmt::Debug {
    /// Describes it on this host.
    async fn describe(&self) -> Description;
    /// Opens the firmware of a VM whose UEFI variables are kept at `vars`.
    fn open_firmware(&self, bootrom: &Bootrom, vars: &Path) -> Result<Firmware, HypervisorError>;
    /// Restores the size of the UEFI variables at `vars`, if they exist, after a run.
    fn settle_firmware(&self, bootrom: &Bootrom, vars: &Path) -> Result<(), HypervisorError>;
    /// Lists why it can't start a complete machine on this host.
    async fn faults(&self, spec: &VmSpec) -> Vec<Violation>;
    /// Builds the program of a machine. Starts nothing.
    async fn program(&self, plan: MachinePlan) -> Result<Program, HypervisorError>;
    /// Connects to a program by its control socket.
    async fn attach(
        &self,
        uuid: Uuid,
        control: &Path,
        patience: Duration,
    ) -> Result<Arc<dyn Machine>, HypervisorError>;
    /// Extracts reports of resets and the end, and other messages, from a program's error output.
    fn last_words(&self, text: &str) -> LastWords;
    /// Returns how long a new program may take to respond.
    fn patience(&self) -> Duration;
}

/// Returns the violation of a machine with arguments for bhyve itself.
fn bhyves_arguments(spec: &VmSpec) -> Option<Violation> {
    let is_given = spec.other.get("bhyve_extra_opts").is_some_and(|options| options != "");
    let why = "these are arguments of bhyve, and QEMU runs this brand here; leave them out";
    is_given.then(|| Violation::property("bhyve_extra_opts", why))
}

/// A hypervisor's last output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastWords {
    /// Its reports of resets and its end, in order, as far back as is kept.
    pub said: Vec<Said>,
    /// For people.
    pub words: String,
}

/// An unsolicited report of a hypervisor, with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// By its own clock.
    pub time: SystemTime,
    /// What.
    pub event: MachineEvent,
}

impl LastWords {
    /// Returns its report of its end, if it ended in an orderly way.
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
    /// The program in words, also where the brand has another's name.
    pub text: String,
    /// Its machine types of the brand, oldest first; new VMs get the last.
    pub machine_types: Vec<String>,
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
    /// The program that runs it, with its version, by its own account.
    fn hypervisor(&self) -> &str;
    /// Completes the setup of a new machine before it runs.
    async fn set_up(&self, setup: &Setup) -> Result<(), HypervisorError>;
    /// Halts the guest.
    async fn pause(&self) -> Result<(), HypervisorError>;
    /// Sends the guest a non-maskable interrupt.
    async fn inject_nmi(&self) -> Result<(), HypervisorError>;
    /// Sends a break on the serial console.
    async fn send_break(&self) -> Result<(), HypervisorError>;
    /// Presses a key that does nothing but wake a screen.
    async fn wake_screen(&self) -> Result<(), HypervisorError>;
    /// Inserts a medium into a CD drive; `None` ejects it.
    async fn change_medium(&self, drive: &str, medium: Option<Medium>) -> Result<(), HypervisorError>;
    /// Sets the password of later VNC clients; `None` sets none.
    async fn set_vnc_password(&self, password: Option<&str>) -> Result<(), HypervisorError>;
    /// Resumes the guest.
    async fn resume(&self) -> Result<(), HypervisorError>;
    /// Whether the guest would notice the power button.
    async fn listens_to_power_button(&self) -> Result<Hearing, HypervisorError>;
    /// Wakes a guest that sleeps.
    async fn wake(&self) -> Result<(), HypervisorError>;
    /// Presses the power button.
    async fn press_power_button(&self) -> Result<(), HypervisorError>;
    /// Presses reset.
    async fn reset(&self) -> Result<(), HypervisorError>;
    /// Returns whether guest code runs, and the hypervisor's status word.
    async fn status(&self) -> Result<GuestStatus, HypervisorError>;
    /// Queries one type of info.
    async fn info(&self, kind: InfoType) -> Result<Value, HypervisorError>;
    /// The screen as a picture.
    async fn screenshot(&self, form: Picture) -> Result<Vec<u8>, HypervisorError>;
    /// Passes on a connected RFB socket; a `trusted` client is not asked for a password.
    async fn add_vnc_client(&self, socket: OwnedFd, trusted: bool) -> Result<(), HypervisorError>;
    /// Returns the next event; `None` when the control connection is gone. For one caller.
    async fn next_event(&self) -> Option<MachineEvent>;
}

/// Whether the guest listens to the power button.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// The guest's system says so.
    Listens,
    /// No system runs yet, or it ignores the button.
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
    /// Returns the VM's state for it.
    #[must_use]
    pub fn state(&self) -> VmState {
        match &*self.status {
            _ if self.running => VmState::Running,
            // It put itself to sleep.
            "suspended" => VmState::Suspended,
            // Halted by a caller, and resumed the same way.
            "paused" | "prelaunch" | "debug" | "postmigrate" => VmState::Paused,
            // In transition; the next query shows the result.
            "save-vm" | "restore-vm" | "inmigrate" | "finish-migrate" => VmState::Running,
            // "internal-error", "io-error", "watchdog", "guest-panicked", "shutdown", "colo", and any unknown
            // word.
            _ => VmState::Failed,
        }
    }
}

/// An unsolicited event of a hypervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// It is about to end.
    Shutdown {
        /// The guest asked for it.
        guest: bool,
        /// The hypervisor's reason.
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

/// An error of a hypervisor.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// The failed action.
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
        /// The command.
        command: String,
        /// The time limit.
        seconds: u64,
    },
    /// No reply to a request that it may still carry out.
    #[error(
        "the hypervisor did not answer within {seconds} s; it may still carry out the request, so check before you repeat it"
    )]
    Unanswered {
        /// The time limit.
        seconds: u64,
    },
    /// An unusable reply.
    #[error("the hypervisor's reply to {command} cannot be understood: {detail}")]
    Garbled {
        /// What was asked.
        command: String,
        /// What is wrong.
        detail: String,
    },
    /// It refused.
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
    /// It does not respond to any request.
    pub(crate) fn silent(patience: Duration) -> Self {
        Self::Silent { command: "the request".to_owned(), seconds: patience.as_secs() }
    }

    pub(crate) fn at<E: Into<std::io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |error| Self::System { what: what.into(), source: error.into() }
    }
}
