//! Facts about VMs, as the journal keeps them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::record::{Timestamp, VmRecord};
use crate::spec::Mac;

/// A fact in the journal.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its place in the journal; grows, never reused.
    pub sequence: i64,
    /// When it was written.
    pub time: Timestamp,
    /// Everything else.
    pub fact: NewEvent,
    /// Bytes of the fact in the journal.
    pub size: usize,
}

/// A fact to be journaled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewEvent {
    /// Which VM.
    pub uuid: Uuid,
    /// Who asked for it; empty when nobody did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub actor: String,
    /// Of the call that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Uuid>,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// A VM came to be.
    Created {
        /// As it is.
        vm: Box<VmRecord>,
    },
    /// A VM changed.
    Modified {
        /// As it is now.
        vm: Box<VmRecord>,
        /// What changed.
        changes: Vec<Change>,
    },
    /// A VM is gone.
    Deleted {
        /// What it was called.
        alias: String,
    },
    /// A boot got somewhere.
    Boot(BootPhase),
    /// A file in the zone's root.
    File {
        /// Inside the root.
        path: String,
        /// What happened to it.
        action: FileAction,
        /// Bytes.
        size: u64,
    },
    /// Something that no VM had was removed.
    Reclaimed {
        /// What it was, as `zone-folder`.
        leak: String,
        /// Where it was.
        path: String,
    },
}

impl EventKind {
    /// Its name in the journal.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            Self::Modified { .. } => "modified",
            Self::Deleted { .. } => "deleted",
            Self::Boot(_) => "boot",
            Self::File { .. } => "file",
            Self::Reclaimed { .. } => "reclaimed",
        }
    }
}

/// One property that changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// As `state` or `disks.0.size`.
    pub path: String,
    /// Absent before when `None`.
    pub old: Option<Value>,
    /// Absent now when `None`.
    pub new: Option<Value>,
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileAction {
    /// It is there, or there anew.
    Put,
    /// It is gone.
    Deleted,
}

/// A boot reached a phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootPhase {
    /// Which.
    pub phase: Phase,
    /// Since the call, in microseconds.
    pub elapsed_us: u64,
}

/// The phases of a boot, in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Phase {
    /// The zone's folders, log and sockets are there.
    ZoneReady,
    /// Disks are open.
    DisksReady,
    /// Interfaces are plugged.
    NicsReady,
    /// The hypervisor process exists.
    HypervisorSpawned,
    /// It answers.
    ControlReady,
    /// It runs guest code.
    Running,
    /// The guest printed something.
    FirstConsoleByte,
    /// The guest asked about itself.
    GuestMetadata,
    /// The guest was given an address.
    GuestAddress {
        /// Of which interface.
        mac: Mac,
        /// Which.
        address: IpAddr,
    },
    /// A step failed, and everything was undone.
    Failed {
        /// Which step.
        step: String,
        /// Why, with the hypervisor's last words.
        reason: String,
    },
}

impl Phase {
    /// The word for it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::ZoneReady => "ZONE_READY",
            Self::DisksReady => "DISKS_READY",
            Self::NicsReady => "NICS_READY",
            Self::HypervisorSpawned => "HYPERVISOR_SPAWNED",
            Self::ControlReady => "CONTROL_READY",
            Self::Running => "RUNNING",
            Self::FirstConsoleByte => "FIRST_CONSOLE_BYTE",
            Self::GuestMetadata => "GUEST_METADATA",
            Self::GuestAddress { .. } => "GUEST_ADDRESS",
            Self::Failed { .. } => "FAILED",
        }
    }
}
