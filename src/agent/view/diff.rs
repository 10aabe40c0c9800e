//! The difference between two records, in paths of the flat object.

use serde_json::{Map, Value, json};

use super::object::machine;
use crate::{
    model::{Change, VmRecord, bounded, flat},
    spec::secret,
};

/// What is no change by itself: it follows from others, or is too much for a line.
const FOLLOWS: [&str; 7] =
    ["etag", "last_modified", "transition_to", "transition_expire", "restrictions", "limits", "accelerator"];

/// What is compared of a VM: also that a password is another, which is not shown.
fn compared(vm: &VmRecord) -> Value {
    let mut spec = machine(&vm.spec);
    for list in ["disks", "nics"] {
        let items = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        items.filter_map(Value::as_object_mut).for_each(|item| drop(item.shift_remove("place")));
    }
    secret::cover_passwords(&mut spec);
    let mut status = vm.status("");
    if let Some(run) = &mut status.run {
        // Built only to be left out.
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

/// A flat object as it was before the changes.
pub(in crate::agent) fn undone(object: Map<String, Value>, changes: &[Change]) -> Map<String, Value> {
    let mut whole = Value::Object(object);
    // What was cut is no longer known.
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
            // A key may have dots in it; the longest that exists is meant.
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
