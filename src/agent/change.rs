//! What changed between two records, in the words of a machine JSON.

use serde_json::{Map, Value, json};

use crate::{
    spec::{
        VmSpec,
        property::{Kind, VM, find},
    },
    store::{Change, VmRecord},
};

/// Stands for a secret.
const REDACTED: &str = "********";

/// A machine as it may be shown: without secrets.
#[must_use]
pub fn shown(spec: &VmSpec) -> VmSpec {
    let mut spec = VmSpec { vnc_password: None, ..spec.clone() };
    spec.other.shift_remove("spice_password");
    spec
}

/// Everything that is known of a VM, as vmadm's flat object: what filters look at.
pub(super) fn view(vm: &VmRecord, zonepath: &str) -> Map<String, Value> {
    let Value::Object(mut object) = public(vm) else { return Map::new() };
    for (name, value) in [
        ("zonename", json!(vm.uuid)),
        ("zonepath", json!(zonepath)),
        ("type", json!(vm.spec.brand.map(crate::spec::Brand::type_name))),
        ("create_timestamp", json!(iso(vm.created))),
        ("last_modified", json!(iso(vm.modified))),
        ("hvm", json!(true)),
        ("etag", json!(vm.etag())),
    ] {
        object.insert(name.to_owned(), value);
    }
    if let Some(machine) = &vm.machine {
        object.insert("accelerator".to_owned(), json!(machine.accelerator));
    }
    if let Some((to, expire)) = vm.transition() {
        object.insert("transition_to".to_owned(), json!(to));
        if let Some(expire) = expire {
            object.insert("transition_expire".to_owned(), json!(iso(expire)));
        }
    }
    object
}

/// The record as operators see it: vmadm's flat object.
pub(super) fn public(vm: &VmRecord) -> Value {
    let mut object = match serde_json::to_value(&vm.spec) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    };
    // Who may see events and files may not know passwords.
    for (name, value) in &mut object {
        if find(VM, name).is_some_and(|property| matches!(property.kind, Kind::Secret(_))) {
            *value = json!(REDACTED);
        }
    }
    object.insert("state".to_owned(), json!(vm.state));
    object.insert("zone_state".to_owned(), json!(vm.state.zone_state()));
    if let Some(machine) = &vm.machine {
        object.insert("pid".to_owned(), json!(machine.pid));
        object.insert("boot_timestamp".to_owned(), json!(iso(machine.booted)));
        // A boot is not worth a line more.
        if machine.resets > 0 {
            object.insert("init_restarts".to_owned(), json!(machine.resets));
        }
    }
    if let Some(exit) = &vm.exit {
        object.insert("exit_status".to_owned(), json!(exit.status));
        object.insert("exit_timestamp".to_owned(), json!(iso(exit.time)));
        object.insert("exit_reason".to_owned(), json!(exit.reason));
    }
    Value::Object(object)
}

fn iso(time: crate::store::Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.0).map(|t| format!("{t:.3}")).unwrap_or_default()
}

/// Every path that differs.
pub(super) fn changes(old: &VmRecord, new: &VmRecord) -> Vec<Change> {
    let mut found = Vec::new();
    compare(String::new(), Some(&public(old)), Some(&public(new)), &mut found);
    found
}

fn compare(path: String, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<Change>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (old, new) {
        (old, new) if old == new => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let added = new.keys().filter(|key| !old.contains_key(*key));
            for key in old.keys().chain(added) {
                compare(below(key), old.get(key), new.get(key), found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for index in 0..old.len().max(new.len()) {
                compare(below(&index.to_string()), old.get(index), new.get(index), found);
            }
        }
        (old, new) => found.push(Change { path, old: old.cloned(), new: new.cloned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_by_path() {
        let old = json!({"a": 1, "b": [{"c": 2}, {"c": 3}], "d": "x"});
        let new = json!({"a": 1, "b": [{"c": 4}], "e": true});
        let mut found = Vec::new();
        compare(String::new(), Some(&old), Some(&new), &mut found);
        let words: Vec<_> = found.iter().map(|c| format!("{} {:?} {:?}", c.path, c.old, c.new)).collect();
        assert_eq!(
            words,
            [
                "b.0.c Some(Number(2)) Some(Number(4))",
                "b.1 Some(Object {\"c\": Number(3)}) None",
                "d Some(String(\"x\")) None",
                "e None Some(Bool(true))"
            ]
        );
    }
}
