//! Facts about VMs, as the journal keeps them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    change::Change,
    image::{ImageRecord, ImageStep},
    time::Timestamp,
    vm::VmRecord,
};
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
#[serde(try_from = "Fact")]
pub struct NewEvent {
    /// Which VM, or image.
    pub uuid: Uuid,
    /// Who asked for it; empty when nobody did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub actor: String,
    /// The id of the call that caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Uuid>,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// A fact as the journal stores it: the fields of every kind in one object. This way nothing has to be
/// buffered until its kind is known.
#[derive(Deserialize)]
struct Fact {
    uuid: Uuid,
    #[serde(default)]
    actor: String,
    request_id: Option<Uuid>,
    kind: String,
    vm: Option<Box<VmRecord>>,
    changes: Option<Vec<Change>>,
    alias: Option<String>,
    phase: Option<Phase>,
    elapsed_us: Option<u64>,
    path: Option<String>,
    action: Option<FileAction>,
    size: Option<u64>,
    leak: Option<String>,
    rpc: Option<String>,
    detail: Option<String>,
    refused: Option<bool>,
    step: Option<ImageStep>,
    image: Option<Box<ImageRecord>>,
}

impl TryFrom<Fact> for NewEvent {
    type Error = String;

    fn try_from(fact: Fact) -> Result<Self, String> {
        let missing = |field: &str| format!("an event of kind {} has no {field}", fact.kind);
        let kind = match fact.kind.as_str() {
            "created" => EventKind::Created { vm: fact.vm.ok_or_else(|| missing("vm"))? },
            "modified" => EventKind::Modified {
                vm: fact.vm.ok_or_else(|| missing("vm"))?,
                changes: fact.changes.ok_or_else(|| missing("changes"))?,
            },
            "deleted" => EventKind::Deleted { alias: fact.alias.ok_or_else(|| missing("alias"))? },
            "boot" => EventKind::Boot(BootPhase {
                phase: fact.phase.ok_or_else(|| missing("phase"))?,
                elapsed_us: fact.elapsed_us.ok_or_else(|| missing("elapsed_us"))?,
            }),
            "file" => EventKind::File {
                path: fact.path.ok_or_else(|| missing("path"))?,
                action: fact.action.ok_or_else(|| missing("action"))?,
                size: fact.size.ok_or_else(|| missing("size"))?,
            },
            "reclaimed" => EventKind::Reclaimed {
                leak: fact.leak.ok_or_else(|| missing("leak"))?,
                path: fact.path.ok_or_else(|| missing("path"))?,
            },
            "panicked" => EventKind::Panicked,
            "call" => EventKind::Call {
                rpc: fact.rpc.ok_or_else(|| missing("rpc"))?,
                detail: fact.detail.unwrap_or_default(),
                refused: fact.refused.unwrap_or_default(),
            },
            "image" => {
                EventKind::Image { step: fact.step.ok_or_else(|| missing("step"))?, image: fact.image }
            }
            other => return Err(format!("{other} is no kind of event")),
        };
        Ok(Self { uuid: fact.uuid, actor: fact.actor, request_id: fact.request_id, kind })
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// A VM was created.
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
        /// The VM's alias.
        alias: String,
    },
    /// A boot reached a phase.
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
    /// A leak was removed.
    Reclaimed {
        /// Its kind, such as `zone-folder`.
        leak: String,
        /// Where it was.
        path: String,
    },
    /// A guest reported its panic.
    Panicked,
    /// A call that changes no machine, or a refused call, was made.
    Call {
        /// The rpc, such as `KillVm`.
        rpc: String,
        /// The call's details.
        detail: String,
        /// It was not done: the caller's role was too low.
        refused: bool,
    },
    /// An image's import made a step, or the image is gone.
    Image {
        /// Which.
        step: ImageStep,
        /// As it is, where that is news.
        #[serde(skip_serializing_if = "Option::is_none")]
        image: Option<Box<ImageRecord>>,
    },
}

impl EventKind {
    /// The names of all kinds.
    pub const NAMES: &[&'static str] =
        &["created", "modified", "deleted", "boot", "file", "reclaimed", "call", "panicked", "image"];

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
            Self::Call { .. } => "call",
            Self::Panicked => "panicked",
            Self::Image { .. } => "image",
        }
    }
}

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileAction {
    /// It exists, or exists again.
    Put,
    /// It is gone.
    Deleted,
    /// An upload of it that was cut is gone.
    Discarded,
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
    /// The zone's folders, log and sockets exist.
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
    /// The guest requested metadata.
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
    /// Returns its name.
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn vm() -> Box<VmRecord> {
        let text = r#"{"uuid":"00000000-0000-0000-0000-000000000001","generation":1,"spec":{"alias":"a"},
                       "state":"stopped","created":0,"modified":0,"machine":null,"exit":null,"vnc_port":null}"#;
        serde_json::from_str(text).unwrap()
    }

    fn image() -> Box<ImageRecord> {
        let text = r#"{"uuid":"00000000-0000-0000-0000-000000000001","manifest":{"name":"a"},"state":"importing",
                       "source":"upload","created":0}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let change = Change { path: "ram".into(), old: None, new: Some(serde_json::json!(1)), cut: false };
        let mac = "2:0:0:0:0:1".parse().unwrap();
        let address = Ipv4Addr::LOCALHOST.into();
        let failed = Phase::Failed { step: "run".into(), reason: "no".into() };
        let boot = |phase| EventKind::Boot(BootPhase { phase, elapsed_us: 7 });
        let kinds = [
            EventKind::Created { vm: vm() },
            EventKind::Modified { vm: vm(), changes: vec![change] },
            EventKind::Deleted { alias: "a".into() },
            boot(Phase::Running),
            boot(Phase::GuestAddress { mac, address }),
            boot(failed),
            EventKind::File { path: "/a".into(), action: FileAction::Put, size: 3 },
            EventKind::Reclaimed { leak: "run-folder".into(), path: "/r".into() },
            EventKind::Panicked,
            EventKind::Call { rpc: "KillVm".into(), detail: "TERM".into(), refused: false },
            EventKind::Image { step: ImageStep::Progress { received: 1, total: None }, image: None },
            EventKind::Image { step: ImageStep::Begun, image: Some(image()) },
        ];
        for (kind, request_id) in kinds.into_iter().zip([None, Some(Uuid::from_u128(5))].into_iter().cycle())
        {
            let event = NewEvent { uuid: Uuid::from_u128(1), actor: "me".into(), request_id, kind };
            let text = serde_json::to_string(&event).unwrap();
            assert!(text.contains(&format!(r#""kind":"{}""#, event.kind.name())), "{text}");
            assert_eq!(serde_json::from_str::<NewEvent>(&text).unwrap(), event);
        }
    }

    #[test]
    fn what_is_no_event_is_said() {
        let read = |text: &str| serde_json::from_str::<NewEvent>(text).unwrap_err().to_string();
        let head = r#""uuid":"00000000-0000-0000-0000-000000000001""#;
        assert!(read(&format!("{{{head},\"kind\":\"boot\"}}")).contains("of kind boot has no phase"));
        assert!(read(&format!("{{{head},\"kind\":\"x\"}}")).contains("x is no kind of event"));
    }
}
