//! What runs a guest.
//!
//! The seam has two halves. [`Hypervisor`] turns a [`MachinePlan`] into a [`Program`]: arguments and
//! descriptors, nothing done yet. Once the program runs in its zone, `attach` connects to its control
//! socket and gives a [`Machine`], which is also how a later agent takes over a running one.
//! QEMU and a simulation are here; bhyve will be the third.

pub mod qemu;
pub mod simulated;

use std::{
    fmt,
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::spec::{BootOrder, Bootrom, DiskModel, Mac, Media, NicModel};

/// A machine with every resource open.
#[derive(Debug)]
pub struct MachinePlan {
    /// Its name, and its SMBIOS identity.
    pub uuid: Uuid,
    /// MiB.
    pub ram: i32,
    /// Virtual CPUs.
    pub vcpus: i32,
    /// The hypervisor's names and numbers, as operators gave them.
    pub tuning: Tuning,
    /// With UEFI, the open code and variables.
    pub firmware: Firmware,
    /// In the guest's order; those of one boot only are last.
    pub drives: Vec<Drive>,
    /// A disk that tells the guest about itself, which it can't write and does not boot from.
    pub seed: Option<File>,
    /// In the guest's order.
    pub nics: Vec<Nic>,
    /// What to boot from, from the second boot of the guest on.
    pub order: BootOrder,
    /// What to boot from first, when that differs.
    pub once: Option<BootOrder>,
    /// The listening control socket.
    pub control: OwnedFd,
    /// The listening socket behind the guest's second serial port.
    pub metadata: OwnedFd,
}

/// What operators may say in the hypervisor's own words. Where they say nothing it has defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// CPU model.
    pub cpu_type: Option<String>,
    /// Graphics adapter.
    pub vga: Option<String>,
    /// Nanoseconds that a virtio interface holds packets back.
    pub virtio_txtimer: Option<i32>,
    /// Packets that it sends at once.
    pub virtio_txburst: Option<i32>,
    /// Instead of the usual pointer.
    pub options: Option<String>,
    /// Besides all.
    pub extra_options: Option<String>,
    /// Asked of VNC clients.
    pub vnc_password: Option<String>,
}

/// A medium for a CD drive.
#[derive(Debug)]
pub struct Medium {
    /// Open for reading.
    pub file: File,
}

/// Open firmware.
#[derive(Debug)]
pub enum Firmware {
    /// The hypervisor's own BIOS.
    Bios,
    /// UEFI.
    Uefi {
        /// Read only.
        code: File,
        /// Written by the guest.
        vars: File,
    },
}

impl Firmware {
    /// Its name in a machine JSON.
    #[must_use]
    pub fn kind(&self) -> Bootrom {
        match self {
            Self::Bios => Bootrom::Bios,
            Self::Uefi { .. } => Bootrom::Uefi,
        }
    }
}

/// An open disk or CD.
#[derive(Debug)]
pub struct Drive {
    /// Open for what the guest may do with it.
    pub file: File,
    /// How the guest sees it.
    pub model: DiskModel,
    /// Disk or CD.
    pub media: Media,
    /// Boot from it before the other ones of its kind.
    pub boot: bool,
    /// The path that the operator knows it by.
    pub path: String,
}

/// A plugged interface.
#[derive(Debug)]
pub struct Nic {
    /// Its address.
    pub mac: Mac,
    /// How the guest sees it.
    pub model: NicModel,
    /// What it is plugged into.
    pub backend: NicBackend,
}

/// What an interface is plugged into.
#[derive(Debug)]
pub enum NicBackend {
    /// An empty hub inside the hypervisor.
    Hub,
    /// A tap of the host.
    Tap {
        /// Its descriptor.
        tap: OwnedFd,
        /// The kernel's shortcut to it, of use with KVM.
        vhost: Option<File>,
        /// Largest packet, in bytes.
        mtu: i32,
    },
}

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
    /// Its CD drives: what it calls them, and what is in them.
    pub cds: Vec<(String, String)>,
}

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
    /// Presses the power button.
    async fn press_power_button(&self) -> Result<(), HypervisorError>;
    /// Presses reset.
    async fn reset(&self) -> Result<(), HypervisorError>;
    /// Whether guest code runs, and the hypervisor's word for it.
    async fn status(&self) -> Result<RunStatus, HypervisorError>;
    /// What it says about itself.
    async fn info(&self, kind: InfoType) -> Result<Value, HypervisorError>;
    /// The screen as a PNG.
    async fn screenshot(&self) -> Result<Vec<u8>, HypervisorError>;
    /// Hands it a connected socket that speaks RFB; who is `trusted` is not asked for a password.
    async fn add_vnc_client(&self, socket: OwnedFd, trusted: bool) -> Result<(), HypervisorError>;
    /// What happens next; `None` when the control connection is gone. For one caller.
    async fn next_event(&self) -> Option<MachineEvent>;
}

/// Whether guest code runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunStatus {
    /// It does.
    pub running: bool,
    /// The hypervisor's word.
    pub status: String,
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
    /// Guest code does not run any more; [`Machine::status`] says why.
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
pub type Info = Map<String, Value>;

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
    /// An answer that is none.
    #[error("the hypervisor's answer to {command} makes no sense: {detail}")]
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
    pub(crate) fn at<E: Into<std::io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |error| Self::System { what: what.into(), source: error.into() }
    }
}
