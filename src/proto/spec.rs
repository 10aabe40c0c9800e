//! The machine model and its protobuf form.

use prost::Message as _;
use prost_types::{Struct, Value, value::Kind as JsonKind};

use super::v1;
use crate::spec::{
    Bootrom, Brand, DiskModel, DiskSpec, FlatObject, MAX_PAYLOAD, Media, NicModel, NicSpec, Scalar,
    Violation, VmSpec, machine_json,
};

/// Reads a spec; what can't be a spec at all is a violation, as in a machine JSON.
pub fn spec_from_proto(vm: v1::VmSpec) -> Result<VmSpec, Vec<Violation>> {
    let size = vm.encoded_len();
    if size > MAX_PAYLOAD {
        return Err(vec![Violation::value("vm", format!("{size} bytes is over the limit of 1 MiB"))]);
    }
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
        cpu_cap: vm.cpu_cap,
        cpu_shares: vm.cpu_shares,
        max_physical_memory: vm.max_physical_memory,
        max_locked_memory: vm.max_locked_memory,
        max_swap: vm.max_swap,
        max_lwps: vm.max_lwps,
        zfs_io_priority: vm.zfs_io_priority,
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
        cpu_cap: spec.cpu_cap,
        cpu_shares: spec.cpu_shares,
        max_physical_memory: spec.max_physical_memory,
        max_locked_memory: spec.max_locked_memory,
        max_swap: spec.max_swap,
        max_lwps: spec.max_lwps,
        zfs_io_priority: spec.zfs_io_priority,
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
