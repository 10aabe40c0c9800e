//! The difference between two records, in paths of the flat object.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::object::machine;
use crate::{
    model::{Change, Site, VmRecord, bounded, flat},
    spec::secret,
};

/// Properties that are not compared: they follow from others, or are too long for a line.
const FOLLOWS: [&str; 7] =
    ["etag", "last_modified", "transition_to", "transition_expire", "restrictions", "limits", "accelerator"];

/// Returns the compared object of a VM. It shows that a password changed, but not the password.
fn compared(vm: &VmRecord) -> Value {
    let mut spec = machine(&vm.spec);
    for list in ["disks", "nics"] {
        let items = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        items.filter_map(Value::as_object_mut).for_each(|item| drop(item.shift_remove("place")));
    }
    secret::cover_passwords(&mut spec);
    let mut status = vm.status(&Site::default());
    if let Some(run) = &mut status.run {
        // Excluded from the comparison.
        (run.enforcements, run.limits) = (Vec::new(), Vec::new());
    }
    let mut object = flat(spec, &status);
    object.retain(|name, value| {
        !FOLLOWS.contains(&name.as_str()) && (name != "init_restarts" || *value != json!(0))
    });
    Value::Object(object)
}

/// Every path that differs.
pub(in crate::agent) fn changes(old: &VmRecord, new: &VmRecord) -> Vec<Change> {
    let mut found = Vec::new();
    compare(String::new(), Some(&compared(old)), Some(&compared(new)), &mut found);
    bounded(&found).into_owned()
}

/// Returns a flat object as it was before the changes.
pub(in crate::agent) fn undone(object: Map<String, Value>, changes: &[Change]) -> Map<String, Value> {
    let mut whole = Value::Object(object);
    // Cut values can't be restored.
    let changes = changes.iter().filter(|change| !change.cut);
    // Inside of items first: they have the places of now.
    let (items, inside): (Vec<&Change>, Vec<&Change>) = changes.partition(|change| is_item(&change.path));
    for part in [inside, items] {
        undo(&mut whole, &part);
    }
    match whole {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// Whether a path names an item of a list whose items have names.
fn is_item(path: &str) -> bool {
    let (list, rest) = path.split_once('.').unwrap_or((path, ""));
    ["disks", "nics", "pci_devices"].contains(&list) && rest.parse::<usize>().is_ok()
}

/// Values are as before; then what came goes, the last first; then what went comes back, the first first.
fn undo(whole: &mut Value, changes: &[&Change]) {
    for change in changes {
        if let (Some(old), Some(_)) = (&change.old, &change.new) {
            put(whole, &change.path, &Undo::Set(old));
        }
    }
    for change in changes.iter().rev().filter(|change| change.old.is_none()) {
        put(whole, &change.path, &Undo::Remove);
    }
    for change in changes.iter().filter(|change| change.new.is_none()) {
        if let Some(old) = &change.old {
            put(whole, &change.path, &Undo::Restore(old));
        }
    }
}

/// How the place that a path names returns to its old value.
enum Undo<'v> {
    Set(&'v Value),
    /// In a list, before what stands there.
    Restore(&'v Value),
    Remove,
}

fn put(at: &mut Value, path: &str, undo: &Undo<'_>) {
    match at {
        Value::Object(object) => {
            // A key may have dots in it; the longest that exists is meant.
            let ends: Vec<usize> = path.match_indices('.').map(|(at, _)| at).chain([path.len()]).collect();
            let key = ends.into_iter().rev().map(|end| &path[..end]).find(|key| object.contains_key(*key));
            match (key.filter(|key| key.len() < path.len()), undo) {
                (Some(key), undo) => {
                    if let Some(inner) = object.get_mut(key) {
                        put(inner, &path[key.len() + 1..], undo);
                    }
                }
                (None, Undo::Set(value) | Undo::Restore(value)) => {
                    object.insert(path.to_owned(), (*value).clone());
                }
                (None, Undo::Remove) => _ = object.remove(path),
            }
        }
        Value::Array(items) => {
            let (index, rest) =
                path.split_once('.').map_or((path, None), |(index, rest)| (index, Some(rest)));
            let Ok(index) = index.parse::<usize>() else { return };
            match (items.get_mut(index), rest, undo) {
                (Some(item), Some(rest), undo) => put(item, rest, undo),
                (Some(item), None, Undo::Set(value)) => item.clone_from(value),
                (Some(_), None, Undo::Remove) => drop(items.remove(index)),
                (_, None, Undo::Restore(value)) => items.insert(index.min(items.len()), (*value).clone()),
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
        (Some(Value::Array(old)), Some(Value::Array(new))) if are_named(old) && are_named(new) => {
            compare_named(&below, old, new, found);
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for index in 0..old.len().max(new.len()) {
                compare(below(&index.to_string()), old.get(index), new.get(index), found);
            }
        }
        (old, new) => found.push(Change { path, old: old.cloned(), new: new.cloned(), cut: false }),
    }
}

/// The name by which an update finds an item of a list.
fn name_of(item: &Value) -> Option<&Value> {
    item.get("mac").or_else(|| item.get("path"))
}

/// Whether each item has a name of its own.
fn are_named(items: &[Value]) -> bool {
    let mut names = HashSet::new();
    items.iter().all(|item| name_of(item).is_some_and(|name| names.insert(name)))
}

/// Items that have names are compared with themselves, wherever they stand: one that is gone is named by its former
/// place, any other by its place now. Where those that stay changed their order, places are compared.
fn compare_named(below: &dyn Fn(&str) -> String, old: &[Value], new: &[Value], found: &mut Vec<Change>) {
    let place =
        |items: &[Value], item: &Value| items.iter().position(|other| name_of(other) == name_of(item));
    let stay: Vec<_> = old.iter().filter_map(|item| place(new, item)).collect();
    if !stay.is_sorted() {
        for index in 0..old.len().max(new.len()) {
            compare(below(&index.to_string()), old.get(index), new.get(index), found);
        }
        return;
    }
    for (index, item) in old.iter().enumerate().filter(|(_, item)| place(new, item).is_none()) {
        compare(below(&index.to_string()), Some(item), None, found);
    }
    for (index, item) in new.iter().enumerate() {
        let was = place(old, item).map(|place| &old[place]);
        compare(below(&index.to_string()), was, Some(item), found);
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

    /// Whatever is added, removed and changed at once is undone.
    #[test]
    fn items_with_names_are_undone() {
        let nic = |mac: u8, rest: Value| {
            let mut nic = json!({"mac": format!("02:00:00:00:00:0{mac}")});
            nic.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            nic
        };
        let old = json!({"nics": [nic(1, json!({"primary": true})), nic(2, json!({"ips": ["a", "b"]})), nic(3, json!({}))]});
        for new in [
            json!({"nics": [nic(2, json!({"ips": ["c"], "primary": true})), nic(4, json!({}))]}),
            json!({"nics": [nic(3, json!({"x": 1}))]}),
            json!({"nics": []}),
            json!({"nics": [nic(3, json!({})), nic(1, json!({}))]}),
            json!({"nics": [nic(0, json!({})), nic(1, json!({})), nic(2, json!({"ips": ["a"]})), nic(3, json!({})), nic(5, json!({}))]}),
        ] {
            for (old, new) in [(&old, &new), (&new, &old)] {
                let mut found = Vec::new();
                compare(String::new(), Some(old), Some(new), &mut found);
                let Value::Object(new) = new.clone() else { panic!() };
                assert_eq!(Value::Object(undone(new, &found)), *old, "{found:?}");
            }
        }
    }
}
