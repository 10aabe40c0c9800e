//! Updates and their protobuf form: vmadm's payload, with field masks in place of JSON's `null`.

use prost_types::FieldMask;
use serde_json::{Map, Value};

use super::{
    json::{from_json, to_json},
    spec::{make_whole, reservation_as_text},
    v1,
};
use crate::spec::{
    Violation,
    property::{DISK, Given, NIC, Property, VM, find},
};

const REQUEST: &str = "zoneward.v1.UpdateVmRequest";
/// A field of a disk's change, not of the disk.
const ALLOW_SHRINK: &str = "dangerous_allow_shrink";
/// Fields of the request that are not part of the payload.
const ENVELOPE: [&str; 7] =
    ["uuid", "etag", "request_id", "validate_only", "vm", "update_mask", "replace_lists"];

/// Returns the payload of a request.
pub fn update_to_json(request: &v1::UpdateVmRequest) -> Result<Map<String, Value>, Vec<Violation>> {
    let mut found = Vec::new();
    let mut object = to_json(REQUEST, request).unwrap_or_default();
    object.values_mut().for_each(make_whole);
    let vm = take_object(&mut object, "vm");
    for (list, inner, table) in [("update_disks", "disk", DISK), ("update_nics", "nic", NIC)] {
        let masks: Vec<&Option<FieldMask>> = match list {
            "update_disks" => request.update_disks.iter().map(|update| &update.update_mask).collect(),
            _ => request.update_nics.iter().map(|update| &update.update_mask).collect(),
        };
        let items = object.get_mut(list).and_then(Value::as_array_mut);
        for (index, (item, mask)) in items.into_iter().flatten().zip(masks).enumerate() {
            let Value::Object(wrapped) = item else { continue };
            let given = take_object(wrapped, inner);
            let at = format!("{list}.{index}.update_mask");
            let mut change = masked(given, mask.as_ref(), table, &at, &mut found);
            change.extend(wrapped.shift_remove_entry(ALLOW_SHRINK));
            *item = Value::Object(change);
        }
    }
    for name in ENVELOPE {
        object.shift_remove(name);
    }
    let mut payload = masked(vm, request.update_mask.as_ref(), VM, "update_mask", &mut found);
    payload.extend(object);
    if found.is_empty() { Ok(payload) } else { Err(found) }
}

fn take_object(object: &mut Map<String, Value>, name: &str) -> Map<String, Value> {
    match object.shift_remove(name) {
        Some(Value::Object(inner)) => inner,
        _ => Map::new(),
    }
}

/// Selects the properties that the mask names, if any; a named one that is not given is unset.
fn masked(
    given: Map<String, Value>,
    mask: Option<&FieldMask>,
    table: &[Property],
    at: &str,
    found: &mut Vec<Violation>,
) -> Map<String, Value> {
    let Some(mask) = mask.filter(|mask| !mask.paths.is_empty()) else { return given };
    let mut payload = Map::new();
    for path in &mask.paths {
        if find(table, path).is_none_or(|property| property.is_never_given()) {
            found.push(Violation::value(at, format!("{path:?} is not a property that can be changed")));
        }
        payload.insert(path.clone(), given.get(path).cloned().unwrap_or(Value::Null));
    }
    payload
}

/// Builds a request from a payload that was already read.
pub fn json_to_update(payload: Map<String, Value>) -> Result<v1::UpdateVmRequest, String> {
    let mut request = Map::new();
    let mut vm = Map::new();
    let mut paths = Vec::new();
    for (name, mut value) in payload {
        if find(VM, &name).is_some_and(|property| property.given != Given::InUpdates) {
            paths.push(name.clone());
            for item in value.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
                reservation_as_text(item);
            }
            if !value.is_null() {
                vm.insert(name, value);
            }
            continue;
        }
        for disk in value.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            reservation_as_text(disk);
        }
        let inner = match name.as_str() {
            "update_disks" => "disk",
            "update_nics" => "nic",
            _ => {
                if !value.is_null() {
                    request.insert(name, value);
                }
                continue;
            }
        };
        let wrapped = value.as_array().into_iter().flatten().map(|item| wrap(item, inner)).collect();
        request.insert(name, Value::Array(wrapped));
    }
    request.insert("vm".to_owned(), Value::Object(vm));
    let masks = take_masks(&mut request);
    let mut request: v1::UpdateVmRequest = from_json(REQUEST, request)?;
    let mut masks = masks.into_iter().map(|paths| Some(FieldMask { paths }));
    for update in &mut request.update_disks {
        update.update_mask = masks.next().flatten();
    }
    for update in &mut request.update_nics {
        update.update_mask = masks.next().flatten();
    }
    request.update_mask = (!paths.is_empty()).then_some(FieldMask { paths });
    Ok(request)
}

/// Wraps an item together with its field names, because an empty list or a `null` would be lost. Fields of the change
/// itself stay beside the item.
fn wrap(item: &Value, inner: &str) -> Value {
    let mut given = item.as_object().cloned().unwrap_or_default();
    let names = given.keys().filter(|name| *name != ALLOW_SHRINK);
    let names: Vec<Value> = names.map(|name| Value::String(name.clone())).collect();
    given.retain(|_, value| !value.is_null());
    let mut wrapped = Map::new();
    wrapped.extend(given.shift_remove_entry(ALLOW_SHRINK));
    wrapped.insert(inner.to_owned(), Value::Object(given));
    wrapped.insert("names".to_owned(), Value::Array(names));
    Value::Object(wrapped)
}

/// The JSON form of masks does not allow underscores in names, so they are passed separately: first those of
/// disks, then those of interfaces.
fn take_masks(request: &mut Map<String, Value>) -> Vec<Vec<String>> {
    let mut masks = Vec::new();
    for list in ["update_disks", "update_nics"] {
        let items = request.get_mut(list).and_then(Value::as_array_mut);
        for item in items.into_iter().flatten().filter_map(Value::as_object_mut) {
            let names = item.shift_remove("names");
            let names = names.as_ref().and_then(Value::as_array).into_iter().flatten();
            masks.push(names.filter_map(Value::as_str).map(str::to_owned).collect());
        }
    }
    masks
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::spec::update;

    #[test]
    fn a_payload_survives_the_wire() {
        let payload = json!({
            "ram": "2048", "alias": null, "resolvers": [], "vnc_password": "x", "internal_metadata_namespaces": ["a"],
            "set_tags": {"a": 1, "b": true}, "remove_customer_metadata": ["k"],
            "add_disks": [{"size": 5, "refreservation": 3}], "update_disks": [{"path": "/d", "compression": null, "boot": true}],
            "remove_disks": ["/e"], "add_nics": [{"nic_tag": "x"}],
            "update_nics": [{"mac": "02:00:00:00:00:01", "ips": [], "netmask": null}], "remove_nics": ["02:00:00:00:00:02"],
            "set_routes": {"1.2.3.4": "10.0.0.1"},
        });
        let Value::Object(payload) = payload else { panic!("an object") };
        let patch = update::read(payload.clone(), None).unwrap();
        let request = json_to_update(patch.payload().clone()).unwrap();
        let again = update_to_json(&request).unwrap();
        let read = update::read(again, None).unwrap();
        let mut wanted = patch.payload().clone();
        // An empty list is nothing, and the contract's word for a reservation is a text.
        wanted["resolvers"] = Value::Null;
        wanted["update_nics"][0]["ips"] = Value::Null;
        assert_eq!(Value::Object(read.payload().clone()), Value::Object(wanted));
    }

    #[test]
    fn masks_are_checked() {
        let request = v1::UpdateVmRequest {
            update_mask: Some(FieldMask { paths: vec!["alias".into(), "rma".into(), "state".into()] }),
            ..Default::default()
        };
        let found = update_to_json(&request).unwrap_err();
        assert_eq!(
            found.iter().map(|v| v.field.as_str()).collect::<Vec<_>>(),
            ["update_mask", "update_mask"]
        );
        let request = v1::UpdateVmRequest {
            vm: Some(Box::new(v1::VmSpec { alias: Some("a".into()), ram: Some(5), ..Default::default() })),
            update_mask: Some(FieldMask { paths: vec!["ram".into(), "hostname".into()] }),
            ..Default::default()
        };
        let payload = Value::Object(update_to_json(&request).unwrap());
        assert_eq!(payload, json!({"ram": 5, "hostname": null}));
    }
}
