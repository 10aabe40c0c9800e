//! What changed between two records, in the words of a machine JSON.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::{
    model::{Change, VmRecord},
    spec::{VmSpec, secret},
};

/// A machine as it may be shown: without secrets.
#[must_use]
pub fn shown(spec: &VmSpec) -> VmSpec {
    let mut spec = VmSpec { vnc_password: None, ..spec.clone() };
    spec.other.shift_remove("spice_password");
    // The guest's business.
    spec.disks.iter_mut().for_each(|disk| disk.place = None);
    spec.nics.iter_mut().for_each(|nic| nic.place = None);
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

/// The record as everybody may see it who may read the host's files.
pub(super) fn for_a_file(vm: &VmRecord) -> Value {
    let mut object = public(vm);
    object.as_object_mut().into_iter().for_each(secret::redact);
    object
}

/// The record as operators see it: vmadm's flat object.
pub(super) fn public(vm: &VmRecord) -> Value {
    let mut object = match serde_json::to_value(&vm.spec) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    };
    for list in ["disks", "nics"] {
        let items = object.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        items.filter_map(Value::as_object_mut).for_each(|item| drop(item.shift_remove("place")));
    }
    secret::cover_passwords(&mut object);
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

fn iso(time: crate::model::Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.0).map(|t| format!("{t:.3}")).unwrap_or_default()
}

/// Every path that differs.
pub(super) fn changes(old: &VmRecord, new: &VmRecord) -> Vec<Change> {
    let mut found = Vec::new();
    compare(String::new(), Some(&public(old)), Some(&public(new)), &mut found);
    bounded(&found).into_owned()
}

/// Bytes of one value of a change, and of all changes of one event together.
const MAX_VALUE: usize = 4 << 10;
const MAX_CHANGES: usize = 256 << 10;

/// Changes that an event has room for beside its VM: with long values cut, and with one for each property where there
/// are too many.
#[must_use]
pub fn bounded(changes: &[Change]) -> Cow<'_, [Change]> {
    let length = |value: &Option<Value>| value.as_ref().map_or(0, |value| value.to_string().len());
    let size = |change: &Change| change.path.len() + length(&change.old) + length(&change.new) + ROW;
    let total: usize = changes.iter().map(size).sum();
    if total <= MAX_CHANGES {
        return Cow::Borrowed(changes);
    }
    let shorter: Vec<Change> = changes.iter().map(cut).collect();
    if shorter.iter().map(size).sum::<usize>() <= MAX_CHANGES {
        return Cow::Owned(shorter);
    }
    // The properties with the most, until the rest fits.
    let mut properties: Vec<Vec<Change>> =
        shorter.chunk_by(|a, b| property(a) == property(b)).map(<[Change]>::to_vec).collect();
    let size_of = |changes: &Vec<Change>| changes.iter().map(size).sum::<usize>();
    while properties.iter().map(size_of).sum::<usize>() > MAX_CHANGES {
        let largest =
            properties.iter_mut().filter(|changes| changes.len() > 1).max_by_key(|changes| size_of(changes));
        let Some(largest) = largest else { break };
        *largest = vec![summed(largest)];
    }
    Cow::Owned(properties.concat())
}

fn property(change: &Change) -> &str {
    change.path.split('.').next().unwrap_or_default()
}

/// One change for all of a property, which names the first of them.
fn summed(changes: &[Change]) -> Change {
    let keys: Vec<Value> = changes.iter().take(MAX_KEYS).map(|change| json!(change.path)).collect();
    let path = changes.first().map(property).unwrap_or_default().to_owned();
    cut(&Change { path, old: None, new: Some(Value::Array(keys)), cut: true })
}

/// Bytes that a change has beside what it says.
const ROW: usize = 24;
/// Paths that stand for many.
const MAX_KEYS: usize = 100;

fn cut(change: &Change) -> Change {
    let mut is_cut = change.cut;
    let mut shorten = |value: &Option<Value>| {
        let text = value.as_ref()?.to_string();
        if text.len() <= MAX_VALUE {
            return value.clone();
        }
        is_cut = true;
        let end = (0..=MAX_VALUE).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        Some(json!(format!("{}…", &text[..end])))
    };
    let (old, new) = (shorten(&change.old), shorten(&change.new));
    Change { path: change.path.clone(), old, new, cut: is_cut }
}

/// A flat object as it was before the changes.
pub(super) fn undone(object: Map<String, Value>, changes: &[Change]) -> Map<String, Value> {
    let mut whole = Value::Object(object);
    // What was cut is not known any more.
    let changes: Vec<&Change> = changes.iter().filter(|change| !change.cut).collect();
    // What came goes, the last first; then what went comes back, the first first.
    for change in changes.iter().rev().filter(|change| change.old.is_none()) {
        put(&mut whole, &change.path, None);
    }
    for change in changes.iter().filter(|change| change.old.is_some()) {
        put(&mut whole, &change.path, change.old.clone());
    }
    match whole {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// Gives what a path names another value, or none.
fn put(at: &mut Value, path: &str, value: Option<Value>) {
    match at {
        Value::Object(object) => {
            // A key may have dots in it; the longest that is there is meant.
            let ends: Vec<usize> = path.match_indices('.').map(|(at, _)| at).chain([path.len()]).collect();
            let key = ends.into_iter().rev().map(|end| &path[..end]).find(|key| object.contains_key(*key));
            match (key.filter(|key| key.len() < path.len()), value) {
                (Some(key), value) => {
                    if let Some(inner) = object.get_mut(key) {
                        put(inner, &path[key.len() + 1..], value);
                    }
                }
                (None, Some(value)) => _ = object.insert(path.to_owned(), value),
                (None, None) => _ = object.remove(path),
            }
        }
        Value::Array(items) => {
            let (index, rest) =
                path.split_once('.').map_or((path, None), |(index, rest)| (index, Some(rest)));
            let Ok(index) = index.parse::<usize>() else { return };
            match (items.get_mut(index), rest, value) {
                (Some(item), Some(rest), value) => put(item, rest, value),
                (Some(item), None, Some(value)) => *item = value,
                (Some(_), None, None) => items.truncate(index),
                (None, None, Some(value)) => items.insert(items.len(), value),
                _ => {}
            }
        }
        _ => {}
    }
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
        (old, new) => found.push(Change { path, old: old.cloned(), new: new.cloned(), cut: false }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_dots_and_items_that_came_are_undone() {
        let old = json!({"m": {"a.b": "1", "a": "2"}, "l": [], "k": [1, 2, 3]});
        let new = json!({"m": {"a.b": "3", "c.d": "4"}, "l": [1, 2], "k": [9]});
        let mut found = Vec::new();
        compare(String::new(), Some(&old), Some(&new), &mut found);
        let Value::Object(new) = new else { panic!() };
        assert_eq!(Value::Object(undone(new, &found)), old);
    }

    #[test]
    fn changes_of_one_event_have_a_bound() {
        let change = |path: String, size: usize| Change {
            path,
            old: Some(json!("x".repeat(size))),
            new: Some(json!("é".repeat(size))),
            cut: false,
        };
        let size = |changes: &[Change]| serde_json::to_string(changes).unwrap().len();
        let few = [change("alias".to_owned(), 100)];
        assert_eq!(*bounded(&few), few);
        let long = [change("customer_metadata.a".to_owned(), 900 << 10), change("alias".to_owned(), 1)];
        let cut = bounded(&long);
        assert!(cut[0].cut && !cut[1].cut && size(&cut) < 20 << 10, "{}", size(&cut));
        let many: Vec<_> = (0..90_000).map(|n| change(format!("customer_metadata.k{n}"), 3)).collect();
        let told = bounded(&many);
        assert_eq!((told.len(), told[0].path.as_str(), told[0].cut), (1, "customer_metadata", true));
        assert!(size(&told) < 20 << 10, "{}", size(&told));
        // What is small beside it is told in full.
        let beside: Vec<_> =
            [change("ram".to_owned(), 3)].into_iter().chain(many).chain(few.clone()).collect();
        let told = bounded(&beside);
        let paths: Vec<_> = told.iter().map(|change| (change.path.as_str(), change.cut)).collect();
        assert_eq!(paths, [("ram", false), ("customer_metadata", true), ("alias", false)]);
        assert_eq!((&told[0], &told[2]), (&beside[0], &few[0]));
    }

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
        let Value::Object(new) = new else { panic!() };
        assert_eq!(Value::Object(undone(new, &found)), old);
    }
}
