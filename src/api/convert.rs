//! Between the contract's messages and the agent's own types.

use prost_types::{Struct, Value, value::Kind as JsonKind};

use super::sight::Sight;
use crate::{
    agent::{Capacity, Leak, LeakKind, View, bounded, shown},
    events::Journal,
    model::{BootPhase, Change, Event, EventKind, Exit, ExitReason, FileAction, Phase, Timestamp, VmRecord},
    network::TagKind,
    network::TagReport,
    proto::{spec_to_proto, v1},
    spec::{
        BootDevice, BootOptions, BootOrder, DiskModel, Enforcement, Kind, LimitReport, Media, Note,
        Restriction, Violation, VmState,
        secret::{REDACTED, has_secrets, is_secret, redacted},
    },
    storage::{Entry, EntryKind, Partial},
};

/// JSON as a protobuf struct.
pub(super) fn json_to_struct(object: serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: object.into_iter().map(|(key, value)| (key, json_to_value(value))).collect() }
}

fn json_to_value(value: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match value {
        Json::Null => JsonKind::NullValue(0),
        Json::Bool(flag) => JsonKind::BoolValue(flag),
        Json::Number(number) => JsonKind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => JsonKind::StringValue(text),
        Json::Array(items) => JsonKind::ListValue(prost_types::ListValue {
            values: items.into_iter().map(json_to_value).collect(),
        }),
        Json::Object(object) => JsonKind::StructValue(json_to_struct(object)),
    };
    Value { kind: Some(kind) }
}

pub(super) fn violation(violation: Violation) -> v1::Violation {
    let kind = match violation.kind {
        Kind::BadValue => v1::violation::Kind::BadValue,
        Kind::BadProperty => v1::violation::Kind::BadProperty,
        Kind::MissingProperty => v1::violation::Kind::MissingProperty,
    };
    v1::Violation { field: violation.field, description: violation.message, kind: kind.into() }
}

// --- boot options ---------------------------------------------------------------------------------

pub(super) fn boot_options(options: Option<v1::BootOptions>) -> Result<BootOptions, Vec<Violation>> {
    let options = options.unwrap_or_default();
    let mut found = Vec::new();
    let out = &mut found;
    let parsed = BootOptions {
        order: boot_order(out, "options.order", &options.order),
        once: boot_order(out, "options.once", &options.once),
        devices: options
            .devices
            .into_iter()
            .enumerate()
            .filter_map(|(i, device)| boot_device(out, &format!("options.devices.{i}"), device))
            .collect(),
    };
    if found.is_empty() { Ok(parsed) } else { Err(found) }
}

fn boot_order(out: &mut Vec<Violation>, field: &str, letters: &str) -> Option<BootOrder> {
    if letters.is_empty() {
        return None;
    }
    letters.parse().map_err(|why: String| out.push(Violation::value(field, why))).ok()
}

fn boot_device(out: &mut Vec<Violation>, at: &str, device: v1::BootDevice) -> Option<BootDevice> {
    let model =
        DiskModel::parse(&device.model).map_err(|why| out.push(Violation::value(format!("{at}.model"), why)));
    let media = match device.media() {
        v1::boot_device::Media::Cdrom => Some(Media::Cdrom),
        v1::boot_device::Media::Disk => Some(Media::Disk),
        v1::boot_device::Media::Unspecified => {
            out.push(Violation::missing(format!("{at}.media"), "required: MEDIA_CDROM or MEDIA_DISK"));
            None
        }
    };
    Some(BootDevice { path: device.path, model: model.ok()?, media: media? })
}

// --- VMs and events ---------------------------------------------------------------------------------

pub(super) fn vm(record: &VmRecord, sight: Sight) -> v1::Vm {
    let spec = match sight {
        Sight::Redacted if has_secrets(&record.spec) => shown(&redacted(&record.spec)),
        _ => shown(&record.spec),
    };
    vm_with(record, spec_to_proto(&spec))
}

/// As [`vm`], of one that is kept in the contract's form.
pub(super) fn view(view: &View, sight: Sight) -> v1::Vm {
    match sight {
        Sight::Redacted if has_secrets(&view.record.spec) => vm(&view.record, sight),
        _ => vm_with(&view.record, view.spec.clone()),
    }
}

/// The same, with the machine in the contract's form already.
fn vm_with(record: &VmRecord, spec: v1::VmSpec) -> v1::Vm {
    let machine = record.machine.as_ref();
    v1::Vm {
        uuid: record.uuid.to_string(),
        spec: Some(spec),
        status: Some(v1::VmStatus {
            state: state(record.state).into(),
            create_time: Some(time(record.created)),
            last_modified: Some(time(record.modified)),
            boot_time: machine.map(|machine| time(machine.booted)),
            pid: machine.map(|machine| machine.pid),
            exit: record.exit.as_ref().map(exit),
            accelerator: machine.map(|machine| machine.accelerator.clone()),
            zonepath: String::new(),
            restrictions: machine.map(|machine| restrictions(&machine.enforcements)).unwrap_or_default(),
            limits: machine.map(|machine| limits(&machine.limits)).unwrap_or_default(),
            transition_to: record.transition().map_or(v1::VmState::Unspecified, |(to, _)| state(to)).into(),
            transition_expire: record.transition().and_then(|(_, expire)| expire).map(time),
            resets: machine.map(|machine| i64::try_from(machine.resets).unwrap_or(i64::MAX)),
        }),
        etag: record.etag(),
    }
}

fn state(state: VmState) -> v1::VmState {
    match state {
        VmState::Provisioning => v1::VmState::Provisioning,
        VmState::Stopped => v1::VmState::Stopped,
        VmState::Starting => v1::VmState::Starting,
        VmState::Running => v1::VmState::Running,
        VmState::Stopping => v1::VmState::Stopping,
        VmState::Deleting => v1::VmState::Deleting,
        VmState::Failed => v1::VmState::Failed,
        VmState::Lost => v1::VmState::Lost,
        VmState::Paused => v1::VmState::Paused,
        VmState::Suspended => v1::VmState::Suspended,
    }
}

/// What a hypervisor is kept from.
pub(super) fn restrictions(all: &[Enforcement]) -> Vec<v1::Restriction> {
    use v1::restriction::Kind as Wire;
    all.iter()
        .map(|found| v1::Restriction {
            kind: match found.restriction {
                Restriction::ModifyFilesystem => Wire::ModifyFilesystem,
                Restriction::Network => Wire::Network,
                Restriction::CreateProcess => Wire::CreateProcess,
                Restriction::SeeProcesses => Wire::SeeProcesses,
                Restriction::SignalOutside => Wire::SignalOutside,
            }
            .into(),
            enforced: found.is_enforced(),
            mechanisms: found.mechanisms.clone(),
            reason: found.reason.clone(),
        })
        .collect()
}

/// What bounds a VM.
pub(super) fn limits(all: &[LimitReport]) -> Vec<v1::Limit> {
    all.iter()
        .map(|found| v1::Limit {
            property: found.property.clone(),
            effective: found.is_effective(),
            mechanism: found.mechanism.clone(),
            reason: found.reason.clone(),
        })
        .collect()
}

fn exit(exit: &Exit) -> v1::ExitInfo {
    let reason = match exit.reason {
        ExitReason::Unknown => v1::ExitReason::Unknown,
        ExitReason::GuestShutdown => v1::ExitReason::GuestShutdown,
        ExitReason::GuestPanic => v1::ExitReason::GuestPanic,
        ExitReason::Operator => v1::ExitReason::Operator,
        ExitReason::HypervisorError => v1::ExitReason::HypervisorError,
        ExitReason::Signal => v1::ExitReason::Signal,
        ExitReason::OutOfMemory => v1::ExitReason::OutOfMemory,
        ExitReason::GuestReset => v1::ExitReason::GuestReset,
        ExitReason::HostShutdown => v1::ExitReason::HostShutdown,
        ExitReason::PowerCut => v1::ExitReason::PowerCut,
    };
    v1::ExitInfo {
        reason: reason.into(),
        status: exit.status,
        time: Some(time(exit.time)),
        detail: exit.detail.clone(),
    }
}

fn time(time: Timestamp) -> prost_types::Timestamp {
    let nanos = i32::try_from(time.0.rem_euclid(1000) * 1_000_000).unwrap_or_default();
    prost_types::Timestamp { seconds: time.0.div_euclid(1000), nanos }
}

pub(super) fn phase(reached: &BootPhase) -> v1::BootPhase {
    use v1::boot_phase::Phase as Wire;
    let mut phase = v1::BootPhase { elapsed_us: offset(reached.elapsed_us), ..Default::default() };
    let kind = match &reached.phase {
        Phase::ZoneReady => Wire::ZoneReady,
        Phase::DisksReady => Wire::DisksReady,
        Phase::NicsReady => Wire::NicsReady,
        Phase::HypervisorSpawned => Wire::HypervisorSpawned,
        Phase::ControlReady => Wire::ControlReady,
        Phase::Running => Wire::Running,
        Phase::FirstConsoleByte => Wire::FirstConsoleByte,
        Phase::GuestMetadata => Wire::GuestMetadata,
        Phase::GuestAddress { mac, address } => {
            (phase.mac, phase.address) = (mac.to_string(), address.to_string());
            Wire::GuestAddress
        }
        Phase::Failed { step, reason } => {
            (phase.step, phase.reason) = (step.clone(), reason.clone());
            Wire::Failed
        }
    };
    phase.phase = kind.into();
    phase
}

/// A count of bytes or microseconds; none comes near the limit.
pub(super) fn offset(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn event(journal: &Journal, event: &Event, sight: Sight) -> v1::WatchEventsResponse {
    use v1::event::Kind as Wire;
    let fact = &event.fact;
    let kind = match &fact.kind {
        EventKind::Created { vm } => Wire::Created(v1::VmCreated { vm: Some(self::vm(vm, sight)) }),
        EventKind::Modified { vm, changes } => Wire::Modified(v1::VmModified {
            vm: Some(self::vm(vm, sight)),
            changes: self::changes(changes, sight),
        }),
        EventKind::Deleted { alias } => Wire::Deleted(v1::VmDeleted { alias: alias.clone() }),
        EventKind::Boot(reached) => Wire::Boot(phase(reached)),
        EventKind::File { path, action, size } => Wire::File(v1::FileChanged {
            path: path.clone(),
            action: match action {
                FileAction::Put => v1::file_changed::Action::Put,
                FileAction::Deleted => v1::file_changed::Action::Deleted,
                FileAction::Discarded => v1::file_changed::Action::Discarded,
            }
            .into(),
            size: offset(*size),
        }),
        EventKind::Panicked => Wire::Panicked(v1::GuestPanicked {}),
        EventKind::Call { rpc, detail, refused } => {
            Wire::Call(v1::CallMade { rpc: rpc.clone(), detail: detail.clone(), refused: *refused })
        }
        EventKind::Reclaimed { leak, path } => {
            Wire::Reclaimed(v1::LeakReclaimed { leak: leak.clone(), path: path.clone() })
        }
    };
    let event = v1::Event {
        sequence: event.sequence,
        time: Some(time(event.time)),
        uuid: if fact.uuid.is_nil() { String::new() } else { fact.uuid.to_string() },
        actor: fact.actor.clone(),
        request_id: fact.request_id.map(|id| id.to_string()).unwrap_or_default(),
        kind: Some(kind),
    };
    v1::WatchEventsResponse {
        cursor: journal.cursor(event.sequence).to_string(),
        item: Some(v1::watch_events_response::Item::Event(event)),
    }
}

/// Changes, with values that were secrets covered, and none longer than a message takes.
pub(super) fn changes(changes: &[Change], sight: Sight) -> Vec<v1::Change> {
    bounded(changes)
        .iter()
        .map(|change| {
            let covered = sight == Sight::Redacted && is_secret(&change.path);
            let text = |value: &Option<serde_json::Value>| match value {
                Some(_) if covered => format!("\"{REDACTED}\""),
                value => value.as_ref().map(ToString::to_string).unwrap_or_default(),
            };
            let (old_value, new_value) = (text(&change.old), text(&change.new));
            v1::Change { path: change.path.clone(), old_value, new_value, cut: change.cut }
        })
        .collect()
}

pub(super) fn note(note: Note) -> v1::Note {
    v1::Note { field: note.field, message: note.message }
}

// --- files --------------------------------------------------------------------------------------

pub(super) fn file_entry(entry: &Entry) -> v1::FileEntry {
    let kind = match entry.kind {
        EntryKind::File => v1::file_entry::Type::File,
        EntryKind::Folder => v1::file_entry::Type::Folder,
        EntryKind::Link => v1::file_entry::Type::Link,
        EntryKind::Other => v1::file_entry::Type::Other,
    };
    v1::FileEntry {
        path: entry.path.clone(),
        r#type: kind.into(),
        size: offset(entry.size),
        modified: Some(prost_types::Timestamp { seconds: entry.modified, nanos: 0 }),
    }
}

pub(super) fn upload(partial: Partial) -> v1::Upload {
    v1::Upload {
        path: partial.plan.path,
        size: offset(partial.plan.size),
        sha256: partial.plan.sha256,
        committed: offset(partial.committed),
    }
}

// --- the host -----------------------------------------------------------------------------------

pub(super) fn nic_tag(report: TagReport) -> v1::NicTag {
    use v1::nic_tag::Kind;
    let kind = match report.tag.kind {
        TagKind::Isolated => Kind::Isolated,
        TagKind::Etherstub => Kind::Etherstub,
        TagKind::Bridge => Kind::Bridge,
        TagKind::Uplink => Kind::Uplink,
        TagKind::Macvtap => Kind::Macvtap,
    };
    v1::NicTag {
        name: report.name,
        kind: kind.into(),
        device: report.device.unwrap_or_default(),
        uplink: if kind == Kind::Uplink { report.tag.link } else { String::new() },
        mtu: report.tag.mtu,
        problem: report.problem.unwrap_or_default(),
    }
}

pub(super) fn leak(leak: Leak) -> v1::Leak {
    let kind = match leak.kind {
        LeakKind::ZoneFolder => v1::leak::Kind::ZoneFolder,
        LeakKind::RunFolder => v1::leak::Kind::RunFolder,
        LeakKind::Process => v1::leak::Kind::Process,
        LeakKind::ControlGroup => v1::leak::Kind::ControlGroup,
        LeakKind::Upload => v1::leak::Kind::Upload,
        LeakKind::Link => v1::leak::Kind::Link,
    };
    v1::Leak {
        id: leak.id,
        kind: kind.into(),
        uuid: leak.uuid.to_string(),
        path: leak.path,
        detail: leak.detail,
        reclaimable: leak.reclaimable,
    }
}

pub(super) fn capacity(capacity: Capacity) -> v1::Capacity {
    v1::Capacity {
        resource: capacity.resource.as_str().to_owned(),
        total: offset(capacity.total),
        limit: capacity.limit.map(offset),
        promised: offset(capacity.promised),
    }
}
