//! Between the contract's messages and the agent's own types.

use prost_types::{Struct, Value, value::Kind as JsonKind};

use crate::{
    events::Journal,
    proto::v1,
    spec::{
        BootDevice, BootOptions, Bootrom, Brand, DiskModel, DiskSpec, FlatObject, Kind, Media, NicModel,
        NicSpec, Scalar, Violation, VmSpec, VmState, machine_json,
    },
    storage::{Entry, EntryKind, Partial},
    store::{BootPhase, Event, EventKind, Exit, ExitReason, FileAction, Phase, Timestamp, VmRecord},
};

// --- specs --------------------------------------------------------------------------------------

/// Reads a spec; what can't be a spec at all is a violation, as in a machine JSON.
pub fn spec_from_proto(vm: v1::VmSpec) -> Result<VmSpec, Vec<Violation>> {
    let mut found = Vec::new();
    let out = &mut found;
    let spec = VmSpec {
        uuid: vm.uuid.filter(|text| !text.is_empty()).and_then(|text| {
            machine_json::parse_uuid(&text).map_err(|why| out.push(Violation::value("uuid", why))).ok()
        }),
        brand: named(out, "brand", Some(vm.brand), Brand::NAMES),
        alias: vm.alias.filter(|alias| !alias.is_empty()),
        hostname: vm.hostname.filter(|name| !name.is_empty()),
        ram: vm.ram,
        vcpus: vm.vcpus,
        autoboot: vm.autoboot,
        bootrom: named(out, "bootrom", vm.bootrom, Bootrom::NAMES),
        vnc_port: vm.vnc_port,
        resolvers: vm.resolvers,
        disks: vm
            .disks
            .into_iter()
            .enumerate()
            .map(|(i, disk)| self::disk(out, &format!("disks.{i}"), disk))
            .collect(),
        nics: vm
            .nics
            .into_iter()
            .enumerate()
            .map(|(i, nic)| self::nic(out, &format!("nics.{i}"), nic))
            .collect(),
        customer_metadata: flat(out, "customer_metadata", vm.customer_metadata),
        internal_metadata: flat(out, "internal_metadata", vm.internal_metadata),
        tags: flat(out, "tags", vm.tags),
    };
    if found.is_empty() { Ok(spec) } else { Err(found) }
}

fn named<T: Copy>(
    out: &mut Vec<Violation>,
    field: &str,
    given: Option<String>,
    names: &[(&str, T)],
) -> Option<T> {
    let given = given.filter(|given| !given.is_empty())?;
    let found = names.iter().find(|(name, _)| *name == given).map(|(_, value)| *value);
    if found.is_none() {
        let valid: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        out.push(Violation::value(field, format!("{given:?} is not one of: {}", valid.join(", "))));
    }
    found
}

fn parsed<T: std::str::FromStr>(out: &mut Vec<Violation>, field: &str, given: Option<String>) -> Option<T>
where
    T::Err: std::fmt::Display,
{
    let given = given.filter(|given| !given.is_empty())?;
    given.parse().map_err(|why: T::Err| out.push(Violation::value(field, format!("{given:?}: {why}")))).ok()
}

fn disk(out: &mut Vec<Violation>, at: &str, disk: v1::DiskSpec) -> DiskSpec {
    let model = disk.model.filter(|model| !model.is_empty()).and_then(|model| {
        DiskModel::parse(&model).map_err(|why| out.push(Violation::value(format!("{at}.model"), why))).ok()
    });
    DiskSpec {
        boot: disk.boot.unwrap_or_default(),
        model,
        size: disk.size,
        path: disk.path,
        media: named(out, &format!("{at}.media"), disk.media, Media::NAMES).unwrap_or_default(),
        nocreate: disk.nocreate.unwrap_or_default(),
    }
}

fn nic(out: &mut Vec<Violation>, at: &str, nic: v1::NicSpec) -> NicSpec {
    NicSpec {
        nic_tag: nic.nic_tag,
        model: named(out, &format!("{at}.model"), nic.model, NicModel::NAMES),
        mac: parsed(out, &format!("{at}.mac"), nic.mac),
        ip: parsed(out, &format!("{at}.ip"), nic.ip),
        netmask: parsed(out, &format!("{at}.netmask"), nic.netmask),
        gateway: parsed(out, &format!("{at}.gateway"), nic.gateway),
        primary: nic.primary.unwrap_or_default(),
    }
}

fn flat(out: &mut Vec<Violation>, field: &str, object: Option<Struct>) -> FlatObject {
    let mut flat = FlatObject::new();
    for (key, value) in object.unwrap_or_default().fields {
        let scalar = match value.kind {
            Some(JsonKind::BoolValue(flag)) => Some(Scalar::Bool(flag)),
            Some(JsonKind::StringValue(text)) => Some(Scalar::Text(text)),
            Some(JsonKind::NumberValue(number)) => whole_or_not(number).map(Scalar::Number),
            Some(JsonKind::NullValue(_) | JsonKind::StructValue(_) | JsonKind::ListValue(_)) | None => None,
        };
        match scalar {
            Some(scalar) => {
                flat.insert(key, scalar);
            }
            None => out.push(Violation::value(
                format!("{field}.{key}"),
                "values must be strings, numbers or booleans",
            )),
        }
    }
    flat
}

/// A protobuf number is always a double; 42 should stay 42.
fn whole_or_not(number: f64) -> Option<serde_json::Number> {
    if number.fract() == 0.0 && number.abs() < 9e15 {
        return format!("{number:.0}").parse::<i64>().ok().map(Into::into);
    }
    serde_json::Number::from_f64(number)
}

/// Writes a spec.
#[must_use]
pub fn spec_to_proto(spec: &VmSpec) -> v1::VmSpec {
    v1::VmSpec {
        uuid: spec.uuid.map(|uuid| uuid.to_string()),
        brand: spec.brand.map(|brand| brand.as_str().to_owned()).unwrap_or_default(),
        alias: spec.alias.clone(),
        hostname: spec.hostname.clone(),
        ram: spec.ram,
        vcpus: spec.vcpus,
        autoboot: spec.autoboot,
        resolvers: spec.resolvers.clone(),
        disks: spec.disks.iter().map(disk_to_proto).collect(),
        nics: spec.nics.iter().map(nic_to_proto).collect(),
        customer_metadata: flat_to_proto(&spec.customer_metadata),
        internal_metadata: flat_to_proto(&spec.internal_metadata),
        tags: flat_to_proto(&spec.tags),
        bootrom: spec.bootrom.map(|bootrom| bootrom.as_str().to_owned()),
        vnc_port: spec.vnc_port,
    }
}

fn disk_to_proto(disk: &DiskSpec) -> v1::DiskSpec {
    v1::DiskSpec {
        boot: disk.boot.then_some(true),
        model: disk.model.map(|model| model.as_str().to_owned()),
        size: disk.size,
        path: disk.path.clone(),
        media: Some(disk.media.as_str().to_owned()),
        nocreate: disk.nocreate.then_some(true),
    }
}

fn nic_to_proto(nic: &NicSpec) -> v1::NicSpec {
    v1::NicSpec {
        nic_tag: nic.nic_tag.clone(),
        model: nic.model.map(|model| model.as_str().to_owned()),
        mac: nic.mac.map(|mac| mac.to_string()),
        ip: nic.ip.map(|ip| ip.to_string()),
        netmask: nic.netmask.map(|netmask| netmask.to_string()),
        gateway: nic.gateway.map(|gateway| gateway.to_string()),
        primary: nic.primary.then_some(true),
    }
}

fn flat_to_proto(object: &FlatObject) -> Option<Struct> {
    let value = |scalar: &Scalar| match scalar {
        Scalar::Bool(flag) => JsonKind::BoolValue(*flag),
        Scalar::Number(number) => JsonKind::NumberValue(number.as_f64().unwrap_or_default()),
        Scalar::Text(text) => JsonKind::StringValue(text.clone()),
    };
    (!object.is_empty()).then(|| Struct {
        fields: object
            .iter()
            .map(|(key, scalar)| (key.clone(), Value { kind: Some(value(scalar)) }))
            .collect(),
    })
}

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
        order: parsed(out, "options.order", Some(options.order)),
        once: parsed(out, "options.once", Some(options.once)),
        devices: options
            .devices
            .into_iter()
            .enumerate()
            .filter_map(|(i, device)| boot_device(out, &format!("options.devices.{i}"), device))
            .collect(),
    };
    if found.is_empty() { Ok(parsed) } else { Err(found) }
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

pub(super) fn vm(record: &VmRecord) -> v1::Vm {
    let machine = record.machine.as_ref();
    v1::Vm {
        uuid: record.uuid.to_string(),
        spec: Some(spec_to_proto(&record.spec)),
        status: Some(v1::VmStatus {
            state: state(record.state).into(),
            create_time: Some(time(record.created)),
            last_modified: Some(time(record.modified)),
            boot_time: machine.map(|machine| time(machine.booted)),
            pid: machine.map(|machine| machine.pid),
            exit: record.exit.as_ref().map(exit),
            accelerator: machine.map(|machine| machine.accelerator.clone()),
            zonepath: String::new(),
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
    }
}

fn exit(exit: &Exit) -> v1::ExitInfo {
    let reason = match exit.reason {
        ExitReason::Unknown => v1::ExitReason::Unknown,
        ExitReason::GuestShutdown => v1::ExitReason::GuestShutdown,
        ExitReason::GuestPanic => v1::ExitReason::GuestPanic,
        ExitReason::Operator => v1::ExitReason::Operator,
        ExitReason::HypervisorError => v1::ExitReason::HypervisorError,
        ExitReason::Signal => v1::ExitReason::Signal,
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
    let (step, reason) = match &reached.phase {
        Phase::Failed { step, reason } => (step.clone(), reason.clone()),
        _ => Default::default(),
    };
    let phase = match reached.phase {
        Phase::ZoneReady => Wire::ZoneReady,
        Phase::DisksReady => Wire::DisksReady,
        Phase::NicsReady => Wire::NicsReady,
        Phase::HypervisorSpawned => Wire::HypervisorSpawned,
        Phase::ControlReady => Wire::ControlReady,
        Phase::Running => Wire::Running,
        Phase::FirstConsoleByte => Wire::FirstConsoleByte,
        Phase::Failed { .. } => Wire::Failed,
    };
    v1::BootPhase { phase: phase.into(), elapsed_us: offset(reached.elapsed_us), step, reason }
}

/// A count of bytes or microseconds; none comes near the limit.
pub(super) fn offset(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn event(journal: &Journal, event: &Event) -> v1::WatchEventsResponse {
    use v1::event::Kind as Wire;
    let fact = &event.fact;
    let kind = match &fact.kind {
        EventKind::Created { vm } => Wire::Created(v1::VmCreated { vm: Some(self::vm(vm)) }),
        EventKind::Modified { vm, changes } => Wire::Modified(v1::VmModified {
            vm: Some(self::vm(vm)),
            changes: changes
                .iter()
                .map(|change| v1::Change {
                    path: change.path.clone(),
                    old_value: change.old.as_ref().map(ToString::to_string).unwrap_or_default(),
                    new_value: change.new.as_ref().map(ToString::to_string).unwrap_or_default(),
                })
                .collect(),
        }),
        EventKind::Deleted { alias } => Wire::Deleted(v1::VmDeleted { alias: alias.clone() }),
        EventKind::Boot(reached) => Wire::Boot(phase(reached)),
        EventKind::File { path, action, size } => Wire::File(v1::FileChanged {
            path: path.clone(),
            action: match action {
                FileAction::Put => v1::file_changed::Action::Put,
                FileAction::Deleted => v1::file_changed::Action::Deleted,
            }
            .into(),
            size: offset(*size),
        }),
    };
    let event = v1::Event {
        sequence: event.sequence,
        time: Some(time(event.time)),
        uuid: fact.uuid.to_string(),
        actor: fact.actor.clone(),
        request_id: fact.request_id.map(|id| id.to_string()).unwrap_or_default(),
        kind: Some(kind),
    };
    v1::WatchEventsResponse {
        cursor: journal.cursor(event.sequence).to_string(),
        item: Some(v1::watch_events_response::Item::Event(event)),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_survives_the_wire() {
        let text = r#"{"uuid":"b8ab5fc1-8576-45ef-bb51-9826b52a4651","brand":"kvm","alias":"a","hostname":"h","ram":1,"vcpus":2,
            "autoboot":false,"bootrom":"uefi","vnc_port":-1,"resolvers":["1.1.1.1"],
            "disks":[{"boot":true,"model":"ide","size":3},{"media":"cdrom","path":"/x","model":"scsi"},{"nocreate":true,"path":"/y"}],
            "nics":[{"nic_tag":"t","model":"e1000","mac":"2:0:0:0:0:1","ip":"10.0.0.1","netmask":"255.0.0.0","gateway":"10.0.0.2","primary":true}],
            "customer_metadata":{"s":"x","b":true,"n":42},"internal_metadata":{"f":1.5},"tags":{"t":"u"}}"#;
        let parsed = machine_json::parse(text.as_bytes()).unwrap();
        assert_eq!(parsed.violations, []);
        assert_eq!(spec_from_proto(spec_to_proto(&parsed.spec)).unwrap(), parsed.spec);
    }

    #[test]
    fn what_is_no_spec_is_told_by_path() {
        let vm = v1::VmSpec {
            uuid: Some("X".into()),
            brand: "xen".into(),
            bootrom: Some("fast".into()),
            disks: vec![v1::DiskSpec {
                model: Some("nvme".into()),
                media: Some("tape".into()),
                ..Default::default()
            }],
            nics: vec![v1::NicSpec {
                mac: Some("z".into()),
                gateway: Some("z".into()),
                ..Default::default()
            }],
            ..Default::default()
        };
        let fields: Vec<String> = spec_from_proto(vm).unwrap_err().into_iter().map(|v| v.field).collect();
        assert_eq!(
            fields,
            ["uuid", "brand", "bootrom", "disks.0.model", "disks.0.media", "nics.0.mac", "nics.0.gateway"]
        );
    }
}
