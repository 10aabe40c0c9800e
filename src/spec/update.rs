//! Changes of a machine: vmadm's patch verbs. All of a payload is applied or nothing is.

use serde_json::{Map, Value};

use super::{
    DiskSpec, Note, VmSpec,
    defaults::{
        Host, adjusted, choose_primary, complete_disks, complete_memory, complete_nics, default_of,
        name_disks, take_from_images,
    },
    disk::drive_name,
    hint::instead,
    machine_json::typed,
    patch::{LISTS, OBJECTS, is_fixed, is_same, items},
    place,
    property::{Effect, Given, Kind, Property, VM, find},
    validate,
    violation::Violation,
};

pub use super::patch::{Patch, read, read_as};

/// The result of a patch.
#[derive(Clone, Debug, PartialEq)]
pub struct Updated {
    /// The updated machine.
    pub spec: VmSpec,
    /// Top-level properties that changed and wait for the next boot.
    pub next_boot: Vec<String>,
    /// Accepted values without effect, or with another effect than requested.
    pub notes: Vec<Note>,
}

/// Applies a patch to a machine.
pub fn apply(current: &VmSpec, patch: &Patch, host: &Host<'_>) -> Result<Updated, Vec<Violation>> {
    let mut object = match serde_json::to_value(current) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    };
    let mut found = Vec::new();
    let mut verbs = Map::new();
    let brand = current.brand();
    for (name, value) in &patch.given {
        let property = find(VM, name);
        if property.is_some_and(|property| property.given == Given::InUpdates) {
            verbs.insert(name.clone(), value.clone());
        } else if is_fixed(name) {
            if !is_same(object.get(name), value) {
                found.push(Violation::property(name, instead(name)));
            }
        } else if !value.is_null() {
            object.insert(name.clone(), value.clone());
        } else if let Some(default) = property.and_then(|property| default_of(property, brand)) {
            object.insert(name.clone(), default);
        } else {
            object.shift_remove(name);
        }
    }
    for name in OBJECTS {
        change_object(&mut object, name, &verbs);
    }
    for (list, key) in LISTS {
        change_list(&mut object, list, key, &verbs, &mut found);
    }
    let mut spec = typed(object, &mut found);
    let asked = limits_of(&spec, &patch.given);
    if found.is_empty() {
        let in_so_many_words = patch.given.contains_key("max_physical_memory");
        found.extend(validate::memory(&spec).filter(|_| in_so_many_words));
        complete(&mut spec, current, &patch.given, host);
        found.extend(check(&spec, current, &may_shrink(&patch.given)));
        found.extend(validate::outgrown(&spec, Some(current)));
    }
    if !found.is_empty() {
        return Err(found);
    }
    let next_boot = waiting(current, &spec);
    let mut notes = patch.notes.clone();
    notes.extend(adjusted(&asked, &spec));
    if spec.nics != current.nics || spec.disks != current.disks {
        notes.extend(validate::notes(&spec));
    }
    Ok(Updated { spec, next_boot, notes })
}

/// The limits of memory that a payload itself gives.
fn limits_of(spec: &VmSpec, given: &Map<String, Value>) -> VmSpec {
    let asked = |name: &str, limit: Option<i32>| limit.filter(|_| given.contains_key(name));
    VmSpec {
        max_physical_memory: asked("max_physical_memory", spec.max_physical_memory),
        max_locked_memory: asked("max_locked_memory", spec.max_locked_memory),
        max_swap: asked("max_swap", spec.max_swap),
        ..VmSpec::default()
    }
}

fn items_of(list: &str) -> &'static [Property] {
    match find(VM, list).map(|property| property.kind) {
        Some(Kind::Objects(table)) => table,
        _ => &[],
    }
}

/// A key that is both removed and set is set.
fn change_object(object: &mut Map<String, Value>, name: &str, verbs: &Map<String, Value>) {
    let slot = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(held) = slot else { return };
    for key in verbs.get(&format!("remove_{name}")).and_then(Value::as_array).into_iter().flatten() {
        held.shift_remove(key.as_str().unwrap_or_default());
    }
    if let Some(Value::Object(set)) = verbs.get(&format!("set_{name}")) {
        held.extend(set.clone());
    }
}

fn change_list(
    object: &mut Map<String, Value>,
    list: &str,
    key: &str,
    verbs: &Map<String, Value>,
    found: &mut Vec<Violation>,
) {
    let [add, update, remove] = ["add", "update", "remove"].map(|verb| format!("{verb}_{list}"));
    if ![&add, &update, &remove].iter().any(|verb| verbs.contains_key(*verb)) {
        return;
    }
    let slot = object.entry(list).or_insert_with(|| Value::Array(Vec::new()));
    let Value::Array(held) = slot else { return };
    let place = |held: &[Value], wanted: &Value| held.iter().position(|item| is_called(item, key, wanted));
    for (index, wanted) in verbs.get(&remove).and_then(Value::as_array).into_iter().flatten().enumerate() {
        match place(held, wanted) {
            Some(place) => drop(held.remove(place)),
            None => found.push(not_there(format!("{remove}.{index}"), list, key, wanted)),
        }
    }
    for (index, change) in items(verbs, &update).enumerate() {
        let at = format!("{update}.{index}.{key}");
        let Some(wanted) = change.get(key) else {
            found.push(Violation::missing(at, format!("required: which of the VM's {list} to change")));
            continue;
        };
        let Some(item) = place(held, wanted).and_then(|place| held[place].as_object_mut()) else {
            found.push(not_there(at, list, key, wanted));
            continue;
        };
        let table = items_of(list);
        // The key finds an item and never changes it; a drive's own name is no path.
        for (name, value) in change.iter().filter(|(name, _)| *name != key) {
            let given = find(table, name).map(|property| property.given);
            if given == Some(Given::InUpdates) {
                continue;
            }
            if given == Some(Given::AtCreation) {
                if !is_same(item.get(name), value) {
                    found.push(Violation::property(format!("{update}.{index}.{name}"), instead(name)));
                }
            } else if value.is_null() {
                item.shift_remove(name);
            } else {
                item.insert(name.clone(), value.clone());
            }
        }
        keep_addresses_one(item, change);
    }
    held.extend(items(verbs, &add).cloned().map(Value::Object));
    // A new primary interface replaces the previous one.
    let asked = |verb: &str| {
        let primaries = items(verbs, verb).filter(|item| item.get("primary") == Some(&Value::Bool(true)));
        primaries.last().cloned()
    };
    if let Some(primary) = asked(&add).or_else(|| asked(&update)) {
        let mut rest: Vec<&mut Map<String, Value>> =
            held.iter_mut().filter_map(Value::as_object_mut).collect();
        let own = rest.iter().rposition(|item| {
            item.get("primary") == Some(&Value::Bool(true))
                && primary.iter().all(|(name, value)| value.is_null() || item.get(name) == Some(value))
        });
        for (index, item) in rest.iter_mut().enumerate() {
            if Some(index) != own {
                item.shift_remove("primary");
            }
        }
    }
}

/// `ip` and `ips` are equivalent, as are `gateway` and `gateways`: given values replace old ones.
fn keep_addresses_one(item: &mut Map<String, Value>, change: &Map<String, Value>) {
    let given = |name: &str| change.contains_key(name);
    if given("ips") && !given("ip") {
        item.shift_remove("ip");
        if !given("netmask") {
            item.shift_remove("netmask");
        }
    } else if (given("ip") || given("netmask")) && !given("ips") {
        item.shift_remove("ips");
    }
    if given("gateways") && !given("gateway") {
        item.shift_remove("gateway");
    } else if given("gateway") && !given("gateways") {
        item.shift_remove("gateways");
    }
}

/// Whether an item has the name; a drive also has a permanent name, the only one of an empty drive.
fn is_called(item: &Value, key: &str, wanted: &Value) -> bool {
    let drive = || Some(Value::String(drive_name(item["place"]["number"].as_u64()?.try_into().ok()?)));
    item.get(key) == Some(wanted) || (key == "path" && drive().as_ref() == Some(wanted))
}

fn not_there(at: String, list: &str, key: &str, wanted: &Value) -> Violation {
    Violation::value(at, format!("none of the VM's {list} has the {key} {wanted}"))
}

/// Fills in what new disks and interfaces left open, and lets dependent limits follow.
fn complete(spec: &mut VmSpec, current: &VmSpec, given: &Map<String, Value>, host: &Host<'_>) {
    if spec.hostname.is_none() {
        spec.hostname = current.uuid.map(|uuid| uuid.to_string());
    }
    follow_memory(spec, current, given, host.overhead);
    complete_memory(spec, host.overhead);
    take_from_images(&mut spec.disks, spec.brand, host);
    complete_disks(&mut spec.disks, &current.disks, spec.disk_driver, host);
    complete_nics(&mut spec.nics, spec.nic_driver, host);
    choose_primary(&mut spec.nics);
    name_disks(spec, host);
    place::assign(spec);
}

/// Unset limits keep their distance from the limits that they follow.
fn follow_memory(spec: &mut VmSpec, current: &VmSpec, given: &Map<String, Value>, overhead: i32) {
    let given = |name: &str| given.contains_key(name);
    if given("ram") && !given("max_physical_memory") {
        let more = spec.ram().saturating_sub(current.ram());
        spec.max_physical_memory = current.max_physical_memory.map(|limit| limit.saturating_add(more));
    }
    let least = spec.ram().saturating_add(overhead);
    spec.max_physical_memory = spec.max_physical_memory.map(|limit| limit.max(least));
    if spec.max_physical_memory == current.max_physical_memory {
        return;
    }
    for (name, limit, was) in [
        ("max_locked_memory", &mut spec.max_locked_memory, current.max_locked_memory),
        ("max_swap", &mut spec.max_swap, current.max_swap),
    ] {
        // A limit that was set separately stays, as far as the rules allow.
        if !given(name) && was == current.max_physical_memory {
            *limit = spec.max_physical_memory;
        }
    }
}

/// Checks the rules of a whole machine, except those for new ones: existing disks have their paths.
fn check(spec: &VmSpec, current: &VmSpec, may_shrink: &[&Value]) -> Vec<Violation> {
    let mut found = validate::check_whole(spec);
    for (index, disk) in spec.disks.iter().enumerate() {
        let Some(was) = current.disks.iter().find(|was| was.path == disk.path) else { continue };
        let names = [disk.path.clone(), disk.drive()];
        let may_shrink = names.iter().flatten().any(|name| may_shrink.iter().any(|may| *may == name));
        grows(&mut found, index, was, disk, may_shrink);
    }
    found
}

/// The disks, by path or drive, whose change says that they may lose what they hold.
fn may_shrink(given: &Map<String, Value>) -> Vec<&Value> {
    let allowed = items(given, "update_disks")
        .filter(|disk| disk.get("dangerous_allow_shrink") == Some(&Value::Bool(true)));
    allowed.filter_map(|disk| disk.get("path")).collect()
}

fn grows(found: &mut Vec<Violation>, index: usize, was: &DiskSpec, disk: &DiskSpec, may_shrink: bool) {
    if let (Some(before), Some(after)) = (was.size, disk.size)
        && after < before
        && !may_shrink
    {
        found.push(Violation::value(
            format!("disks.{index}.size"),
            format!("new size must be greater than current size. ({before} > {after})"),
        ));
    }
    if was.is_made_here() != disk.is_made_here() {
        found.push(Violation::value(
            format!("disks.{index}.media"),
            "a disk that the agent made stays one, and a file that it did not make too",
        ));
    }
}

/// Top-level properties that differ and take effect when the VM is started next.
fn waiting(current: &VmSpec, spec: &VmSpec) -> Vec<String> {
    let (Ok(Value::Object(before)), Ok(Value::Object(after))) =
        (serde_json::to_value(current), serde_json::to_value(spec))
    else {
        return Vec::new();
    };
    // A screen comes and goes with a boot.
    let screen = current.has_screen() != spec.has_screen();
    let waits = |name: &str| {
        let property = find(VM, name);
        property.is_some_and(|property| property.effect == Effect::NextBoot) || (screen && name == "vnc_port")
    };
    let differs = |property: &&Property| {
        let of = |object: &Map<String, Value>| object.get(property.name).map(|held| slow(property, held));
        of(&before) != of(&after)
    };
    VM.iter()
        .filter(differs)
        .map(|property| property.name)
        .filter(|name| waits(name))
        .map(str::to_owned)
        .collect()
}

/// Strips properties that take effect at once.
fn slow(property: &Property, value: &Value) -> Value {
    let mut value = value.clone();
    if let (Kind::Objects(table), Some(items)) = (property.kind, value.as_array_mut()) {
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.retain(|name, _| find(table, name).is_none_or(|inner| inner.effect != Effect::Live));
        }
    }
    value
}

/// Whether an update changes anything that a VM must be stopped for.
#[must_use]
pub fn needs_stopped(current: &VmSpec, spec: &VmSpec) -> bool {
    let without_what_is_live = |disk: &DiskSpec| {
        let mut disk = disk.clone();
        // Kept only.
        disk.other.clear();
        disk
    };
    let of = |spec: &VmSpec| spec.disks.iter().map(without_what_is_live).collect::<Vec<_>>();
    of(current) != of(spec)
}

/// A payload from `key=value` words: everything is text, and the last of several wins.
pub fn from_words<S: AsRef<str>>(words: &[S]) -> Result<Map<String, Value>, String> {
    let mut object = Map::new();
    for word in words {
        let word = word.as_ref();
        let Some((key, value)) = word.split_once('=') else {
            return Err(format!("{word:?} is not a change; give key=value, like ram=2048"));
        };
        if key.is_empty() {
            return Err(format!("{word:?} names no property; give key=value, like ram=2048"));
        }
        let is_list = find(VM, key).is_some_and(|p| matches!(p.kind, Kind::Objects(_) | Kind::FlatObject));
        if is_list {
            return Err(format!("{key} can't be given as key=value; give a JSON payload on standard input"));
        }
        object.insert(key.to_owned(), Value::String(value.to_owned()));
    }
    Ok(object)
}
