//! The machine model and its protobuf form.

use prost::Message as _;
use prost_types::{Struct, value::Kind as JsonKind};
use serde::{Deserialize as _, Deserializer};
use serde_json::{Map, Number, Value};

use super::{json::to_json, v1};
use crate::spec::{
    FlatObject, MAX_PAYLOAD, Scalar, Violation, VmSpec,
    machine_json::{Parsed, parse_object},
};

const VM_SPEC: &str = "zoneward.v1.VmSpec";

/// Reads a spec like a machine JSON: a value that one form accepts, the other accepts, too.
#[must_use]
pub fn spec_from_proto(vm: &v1::VmSpec) -> Parsed {
    let size = vm.encoded_len();
    if size > MAX_PAYLOAD {
        let violation = Violation::value("vm", format!("{size} bytes is over the limit of 1 MiB"));
        return Parsed { spec: VmSpec::default(), violations: vec![violation], notes: Vec::new() };
    }
    parse_object(spec_to_json(vm))
}

/// Returns a spec's JSON unchanged.
#[must_use]
pub fn spec_to_json(vm: &v1::VmSpec) -> Map<String, Value> {
    // This can fail only if the contract is not our own.
    let mut object = to_json(VM_SPEC, vm).unwrap_or_default();
    object.values_mut().for_each(make_whole);
    let disks = object.get_mut("disks").and_then(Value::as_array_mut).into_iter().flatten();
    for value in disks.filter_map(|disk| disk.get_mut("refreservation")) {
        // A number, or a word; a field of a message has one type.
        if let Some(number) = value.as_str().and_then(|text| text.parse::<i64>().ok()) {
            *value = number.into();
        }
    }
    object
}

/// Writes a spec.
#[must_use]
pub fn spec_to_proto(spec: &VmSpec) -> v1::VmSpec {
    let object = match serde_json::to_value(spec) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    };
    json_to_spec(object).unwrap_or_else(|error| {
        // A test converts every property.
        tracing::error!(%error, "a spec has no protobuf form");
        v1::VmSpec::default()
    })
}

/// A machine JSON's object, coerced, as a message.
pub(super) fn json_to_spec(mut object: Map<String, Value>) -> Result<v1::VmSpec, String> {
    let disks = object.get_mut("disks").and_then(Value::as_array_mut).into_iter().flatten();
    for disk in disks.filter_map(Value::as_object_mut) {
        reservation_as_text(disk);
    }
    serde_json::from_value(Value::Object(object)).map_err(|error| error.to_string())
}

/// A flat object of a machine JSON as a protobuf struct.
pub(crate) fn flat_object<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Struct>, D::Error> {
    let object = FlatObject::deserialize(from)?;
    let value = |scalar| match scalar {
        Scalar::Bool(flag) => JsonKind::BoolValue(flag),
        Scalar::Number(number) => JsonKind::NumberValue(number.as_f64().unwrap_or_default()),
        Scalar::Text(text) => JsonKind::StringValue(text),
    };
    let fields = object.into_iter().map(|(key, scalar)| {
        let value = prost_types::Value { kind: Some(value(scalar)) };
        (key, value)
    });
    Ok(Some(Struct { fields: fields.collect() }))
}

/// Stores it as text: it may be a number or a word, but a field has one type.
pub(super) fn reservation_as_text(disk: &mut Map<String, Value>) {
    if let Some(value) = disk.get_mut("refreservation")
        && value.is_number()
    {
        *value = Value::String(value.to_string());
    }
}

/// Numbers of a protobuf struct are doubles; 42 should stay 42.
pub(super) fn make_whole(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) =
                number.as_f64().filter(|f| number.is_f64() && f.fract() == 0.0 && f.abs() < 9e15)
            {
                *number = format!("{float:.0}").parse::<i64>().map_or_else(|_| number.clone(), Number::from);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(make_whole),
        Value::Object(object) => object.values_mut().for_each(make_whole),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::spec::{
        machine_json,
        property::{DISK, Given, NIC, PCI_DEVICE, Property, VM},
    };

    #[test]
    fn a_spec_survives_the_wire() {
        let text = r#"{"uuid":"b8ab5fc1-8576-45ef-bb51-9826b52a4651","brand":"kvm","alias":"a","hostname":"h","ram":1,"vcpus":2,
            "autoboot":false,"bootrom":"uefi","vnc_port":-1,"resolvers":["1.1.1.1"],"quota":5,"owner_uuid":"me","routes":{"1.2.3.4":"nics[0]"},
            "disks":[{"boot":true,"model":"ide","size":3,"refreservation":7,"compression":"lz4"},
                {"media":"cdrom","path":"/x","model":"scsi"},{"nocreate":true,"path":"/y","refreservation":"auto"}],
            "nics":[{"nic_tag":"t","model":"e1000","mac":"2:0:0:0:0:1","ip":"10.0.0.1","netmask":"255.0.0.0","gateway":"10.0.0.2",
                "primary":true,"blocked_outgoing_ports":[25,"80"],"allowed_ips":["10.1.0.0/16"],"dhcp_server":true,"mtu":"2323"}],
            "customer_metadata":{"s":"x","b":true,"n":42},"internal_metadata":{"f":1.5},"tags":{"t":"u"}}"#;
        let parsed = machine_json::parse(text.as_bytes()).unwrap();
        assert_eq!(parsed.all_violations(), []);
        let again = spec_from_proto(&spec_to_proto(&parsed.spec));
        assert_eq!(again.violations, []);
        assert_eq!(again.spec, parsed.spec);
    }

    /// What is read from a message is what the model writes: vmadm shows the same object as filters look at.
    #[test]
    fn a_machine_has_one_json() {
        let text = r#"{"brand":"kvm","alias":"a","ram":1024,"tags":{"n":5,"t":"x"},"routes":{"1.2.3.4":"nics[0]"},"autoboot":true,
            "disks":[{"size":3,"model":"virtio","refreservation":7},{"media":"cdrom","path":"/x","model":"ide"}],"resolvers":["1.1.1.1"],
            "nics":[{"nic_tag":"t","model":"e1000","mac":"2:0:0:0:0:1","ip":"10.0.0.1","netmask":"255.0.0.0","primary":true}],
            "customer_metadata":{"n":42,"b":false}}"#;
        let spec = machine_json::parse(text.as_bytes()).unwrap().spec;
        let Ok(Value::Object(whole)) = serde_json::to_value(&spec) else { panic!() };
        assert_eq!(spec_to_json(&spec_to_proto(&spec)), whole);
    }

    /// The table, the contract and the typed model know the same properties.
    #[test]
    fn the_contract_has_every_property() {
        let fields = |name: &str| -> BTreeSet<String> {
            let pool = prost_reflect::DescriptorPool::decode(super::super::DESCRIPTORS).unwrap();
            pool.get_message_by_name(name).unwrap().fields().map(|field| field.name().to_owned()).collect()
        };
        let names = |table: &[Property]| -> BTreeSet<String> {
            let asked = table.iter().filter(|p| p.given != Given::InUpdates && !p.is_never_given());
            asked.map(|property| property.name.to_owned()).collect()
        };
        assert_eq!(fields("zoneward.v1.VmSpec"), names(VM));
        assert_eq!(fields("zoneward.v1.DiskSpec"), names(DISK));
        assert_eq!(fields("zoneward.v1.NicSpec"), names(NIC));
        assert_eq!(fields("zoneward.v1.PciDeviceSpec"), names(PCI_DEVICE));
    }

    #[test]
    fn what_is_no_spec_is_told_by_path() {
        let vm = v1::VmSpec {
            uuid: Some("X".into()),
            brand: "xen".into(),
            bootrom: Some("fast".into()),
            disks: vec![v1::DiskSpec {
                model: Some("floppy".into()),
                media: Some("tape".into()),
                ..Default::default()
            }],
            nics: vec![v1::NicSpec { mac: Some("1:2".into()), ip: Some("x".into()), ..Default::default() }],
            ..Default::default()
        };
        let fields: Vec<String> = spec_from_proto(&vm).violations.into_iter().map(|v| v.field).collect();
        assert_eq!(
            fields,
            ["uuid", "brand", "bootrom", "disks.0.media", "disks.0.model", "nics.0.mac", "nics.0.ip"]
        );
        let huge = v1::VmSpec { alias: Some("x".repeat(MAX_PAYLOAD)), ..Default::default() };
        assert!(spec_from_proto(&huge).violations[0].message.contains("over the limit"));
    }
}
