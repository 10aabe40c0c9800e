//! What an update asks for: vmadm's payload, read and normalized.

use serde_json::{Map, Value};

use super::{
    Brand, Note, VmSpec,
    coerce::{Action, Coercion},
    filter::text,
    hint::instead,
    machine_json::{Strictness, typed},
    property::{Given, VM, find},
    validate,
    violation::Violation,
};

/// Lists whose items are found by a key.
pub(super) const LISTS: [(&str, &str); 3] = [("disks", "path"), ("nics", "mac"), ("pci_devices", "path")];
/// Objects whose keys are set and removed.
pub(super) const OBJECTS: [&str; 4] = ["customer_metadata", "internal_metadata", "tags", "routes"];

/// A payload that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    pub(super) given: Map<String, Value>,
    /// Its values of properties that only the agent changes: accepted if current.
    known: Map<String, Value>,
    /// Accepted values without effect here.
    pub notes: Vec<Note>,
}

impl Patch {
    /// Returns the normalized payload.
    #[must_use]
    pub fn payload(&self) -> &Map<String, Value> {
        &self.given
    }

    /// Converts whole lists to the changes that turn `current` into them. An empty list counts only where the
    /// payload names it.
    #[must_use]
    pub fn against(mut self, current: &VmSpec) -> Self {
        let current = match serde_json::to_value(current) {
            Ok(Value::Object(object)) => object,
            _ => Map::new(),
        };
        for (list, key) in LISTS {
            let Some(wanted) = self.given.shift_remove(list) else { continue };
            let wanted: Vec<Value> = wanted.as_array().cloned().unwrap_or_default();
            let held: Vec<Value> = current.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
            // An emptied CD drive has no name to be found by.
            let stays = |item: &Value| {
                item.get(key).is_none()
                    && held.iter().any(|held| held.get(key).is_none() && is_same(Some(held), item))
            };
            let wanted: Vec<Value> = wanted.into_iter().filter(|item| !stays(item)).collect();
            let is_held = |item: &Value| {
                item.get(key).is_some_and(|name| held.iter().any(|held| held.get(key) == Some(name)))
            };
            let (update, add): (Vec<_>, Vec<_>) = wanted.iter().cloned().partition(is_held);
            let is_wanted = |held: &&Value| wanted.iter().any(|item| item.get(key) == held.get(key));
            let remove: Vec<_> = held
                .iter()
                .filter(|held| !is_wanted(held))
                .filter_map(|held| held.get(key).cloned())
                .collect();
            let differs = |item: &Value| {
                !held.iter().any(|held| held.get(key) == item.get(key) && is_same(Some(held), item))
            };
            let update: Vec<_> = update.into_iter().filter(differs).collect();
            for (verb, items) in [("remove", remove), ("update", update), ("add", add)] {
                if !items.is_empty() {
                    self.given.insert(format!("{verb}_{list}"), Value::Array(items));
                }
            }
        }
        for name in OBJECTS {
            let Some(wanted) = self.given.shift_remove(name) else { continue };
            let wanted = wanted.as_object().cloned().unwrap_or_default();
            let held = current.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
            let gone =
                held.keys().filter(|key| !wanted.contains_key(*key)).map(|key| Value::String(key.clone()));
            self.given.insert(format!("remove_{name}"), gone.collect());
            self.given.insert(format!("set_{name}"), Value::Object(wanted));
        }
        self
    }

    /// Whether it contains properties that only the agent changes.
    #[must_use]
    pub fn says_what_is_known(&self) -> bool {
        !self.known.is_empty()
    }

    /// Returns violations for properties that can't be changed, where no VM exists to compare with.
    #[must_use]
    pub fn unchangeable(&self) -> Vec<Violation> {
        let fixed = self.given.keys().filter(|name| is_fixed(name)).map(|name| (name, instead(name)));
        let known = self.known.keys().map(|name| (name, KNOWN.to_owned()));
        fixed.chain(known).map(|(name, why)| Violation::property(name, why)).collect()
    }

    /// Returns violations for values that differ from the flat object of the VM.
    #[must_use]
    pub fn untrue(&self, vm: &Map<String, Value>) -> Vec<Violation> {
        let untrue = self.known.iter().filter(|(name, said)| !is_same(vm.get(*name), said));
        untrue.map(|(name, _)| Violation::property(name, KNOWN)).collect()
    }
}

const KNOWN: &str = "can't be changed: the agent knows it";

/// Whether a property keeps its initial value for life.
pub(super) fn is_fixed(name: &str) -> bool {
    find(VM, name).is_some_and(|property| property.given == Given::AtCreation)
}

/// Whether a given value equals the current one; of an object, only the given keys are compared.
pub(super) fn is_same(held: Option<&Value>, said: &Value) -> bool {
    match (held, said) {
        (None, said) => said.is_null() || *said == Value::Bool(false),
        (Some(Value::Object(held)), Value::Object(said)) => {
            said.iter().all(|(name, said)| is_same(held.get(name), said))
        }
        (Some(Value::Array(held)), Value::Array(said)) => {
            held.len() == said.len() && held.iter().zip(said).all(|(held, said)| is_same(Some(held), said))
        }
        (Some(held), said) => held == said || text(held) == text(said),
    }
}

/// Reads a payload for an update. Without a brand, its rules are not checked.
pub fn read(object: Map<String, Value>, brand: Option<Brand>) -> Result<Patch, Vec<Violation>> {
    read_as(object, brand, Strictness::Strict)
}

/// Reads a payload for an update; likewise.
pub fn read_as(
    object: Map<String, Value>,
    brand: Option<Brand>,
    strictness: Strictness,
) -> Result<Patch, Vec<Violation>> {
    let mut coercion = Coercion::new(Action::Update, brand);
    coercion.lenient = strictness == Strictness::Lenient;
    let given = coercion.object(VM, object, "");
    for (list, _) in LISTS {
        for (index, nic) in items(&given, &format!("update_{list}")).enumerate() {
            if nic.get("primary").is_some_and(|flag| *flag != Value::Bool(true)) {
                let shown = nic["primary"].to_string();
                coercion.violations.push(Violation::value(
                    format!("update_{list}.{index}.primary"),
                    format!("invalid value for NIC's primary flag: {shown} (must be true)"),
                ));
            }
        }
    }
    if coercion.violations.is_empty() {
        coercion.violations = bad_disks(&given, brand);
    }
    if coercion.violations.is_empty() {
        Ok(Patch { given, known: coercion.known, notes: coercion.notes })
    } else {
        Err(coercion.violations)
    }
}

/// Returns the violations of added disks, which are judged as a new machine's. (An interface takes its model from the
/// VM, so it is judged with the VM.)
fn bad_disks(given: &Map<String, Value>, brand: Option<Brand>) -> Vec<Violation> {
    let Some(disks) = given.get("add_disks") else { return Vec::new() };
    let mut found = Vec::new();
    let machine = Map::from_iter([("disks".to_owned(), disks.clone())]);
    let spec = VmSpec { brand, ..typed(machine, &mut found) };
    found.extend(validate::check(&spec));
    found.retain(|violation| violation.field.starts_with("disks"));
    found.into_iter().map(|v| Violation { field: format!("add_{}", v.field), ..v }).collect()
}

pub(super) fn items<'m>(
    object: &'m Map<String, Value>,
    name: &str,
) -> impl Iterator<Item = &'m Map<String, Value>> {
    object.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
}
