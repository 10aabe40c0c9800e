//! Reads a JSON object by a table of properties, with vmadm's coercions: the output has one form for each
//! value, and all faults are collected instead of stopping at the first.

use serde_json::{Map, Value, json};

use super::{
    Brand, Mac, forms,
    forms::parse_uuid,
    hint::{closest, instead, meant, shown},
    property::{Brands, Effect, Given, Kind, Property},
    violation::{Note, Violation},
};
use crate::text::{escaped, is_hidden};

/// The purpose of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A new VM.
    Create,
    /// A change of one.
    Update,
}

/// Reads objects; collects violations and notes.
#[derive(Debug)]
pub(super) struct Coercion {
    pub(super) action: Action,
    /// Unknown until it has been read.
    pub(super) brand: Option<Brand>,
    pub(super) violations: Vec<Violation>,
    pub(super) notes: Vec<Note>,
    /// An update's values of properties that only the agent changes.
    pub(super) known: Map<String, Value>,
    /// Whether unknown properties are notes.
    pub(super) lenient: bool,
}

/// A removed property. Only updates keep it, where it has a meaning.
const UNSET: Value = Value::Null;

impl Coercion {
    pub(super) fn new(action: Action, brand: Option<Brand>) -> Self {
        let (violations, notes, known) = (Vec::new(), Vec::new(), Map::new());
        Self { action, brand, violations, notes, known, lenient: false }
    }

    /// Reads the object at path `at` (empty, or ending in a dot).
    pub(super) fn object(
        &mut self,
        table: &'static [Property],
        mut given: Map<String, Value>,
        at: &str,
    ) -> Map<String, Value> {
        let mut read = Map::new();
        for property in table {
            let Some(value) = given.shift_remove(property.name) else { continue };
            let path = format!("{at}{}", property.name);
            if let Some(why) = self.without_effect(property) {
                if !is_empty(&value) {
                    self.notes.push(Note::new(path, why));
                }
                continue;
            }
            if let Some(why) = self.refusal(property) {
                self.violations.push(Violation::property(path, why));
                continue;
            }
            if property.is_never_given() {
                match self.action {
                    // It may say what is so.
                    Action::Update if at.is_empty() => {
                        drop(self.known.insert(property.name.to_owned(), value))
                    }
                    _ if is_empty(&value) => {}
                    _ => {
                        let why = "known by the agent, so what is given is not used";
                        self.notes.push(Note::new(path, why));
                    }
                }
                continue;
            }
            let before = self.violations.len();
            let Some(value) = self.value(&property.kind, value, &path) else {
                if self.action == Action::Update && at.is_empty() && property.given == Given::AtCreation {
                    // Whatever it is, it is not what the VM has.
                    self.violations.truncate(before);
                    self.violations.push(Violation::property(path, instead(property.name)));
                }
                continue;
            };
            if value == UNSET && self.action == Action::Create {
                continue;
            }
            if let Effect::None(why) = property.effect
                && value != UNSET
            {
                self.notes.push(Note::new(path, format!("kept, but not effective on this host: {why}")));
            }
            read.insert(property.name.to_owned(), value);
        }
        for key in given.keys() {
            let path = format!("{at}{key}");
            if self.lenient {
                self.notes.push(Note::new(path, "there is no such property; it is ignored, as you asked"));
                continue;
            }
            let hint = meant(key).unwrap_or_else(|| closest(key, table.iter().map(|property| property.name)));
            self.violations.push(Violation::property(path, format!("there is no such property{hint}")));
        }
        read
    }

    /// Returns why a property has no effect here: it is for another brand.
    fn without_effect(&self, property: &Property) -> Option<String> {
        let for_others = match (self.brand, property.brands) {
            (Some(brand), Brands::Only(only)) if brand != only => true,
            _ => property.given == Given::OtherBrands,
        };
        for_others.then(|| match self.brand {
            Some(brand) => format!("no effect on brand {}", brand.as_str()),
            None => "no effect on the brands of this host".to_owned(),
        })
    }

    /// Returns why a property can't be given here.
    fn refusal(&self, property: &Property) -> Option<String> {
        match (self.action, property.given) {
            (Action::Create, Given::InUpdates) => Some("is for updates".to_owned()),
            _ => None,
        }
    }

    fn bad(&mut self, path: impl Into<String>, why: impl Into<String>) -> Option<Value> {
        self.violations.push(Violation::value(path, why));
        None
    }

    /// Normalizes one value; `UNSET` when nothing is requested.
    fn value(&mut self, kind: &Kind, value: Value, path: &str) -> Option<Value> {
        if value.is_null() {
            return Some(UNSET);
        }
        let is_text = matches!(&value, Value::String(text) if text.is_empty());
        if is_text && !matches!(kind, Kind::List(..) | Kind::FlatObject | Kind::Objects(_)) {
            return Some(UNSET);
        }
        match kind {
            Kind::Integer(least, most, unit) => self.integer(&value, (*least, *most), unit, path),
            Kind::IntegerOr(least, most, unit, words) => match &value {
                Value::String(word) if words.contains(&word.as_str()) => Some(value),
                _ => self.integer(&value, (*least, *most), unit, path),
            },
            Kind::Boolean => match boolean(&value) {
                Some(flag) => Some(json!(flag)),
                None => self.bad(path, format!("{} is neither true nor false", shown(&value))),
            },
            Kind::List(of, most) => self.list(of, *most, value, path),
            Kind::FlatObject => self.flat(value, path),
            Kind::Objects(table) => self.objects(table, value, path),
            Kind::Secret(most) => match value {
                Value::String(text) if text.len() <= *most => Some(json!(text)),
                Value::String(_) => {
                    let what = if path.starts_with("vnc") { "VNC" } else { "SPICE" };
                    self.bad(
                        path,
                        format!("{what} password is too long, maximum length is {most} characters."),
                    )
                }
                _ => self.bad(path, "is not a string"),
            },
            _ => match &value {
                Value::String(text) => self.text(kind, text, path),
                _ => self.bad(path, format!("{} is not a string", shown(&value))),
            },
        }
    }

    fn text(&mut self, kind: &Kind, text: &str, path: &str) -> Option<Value> {
        let checked = match kind {
            Kind::Text(most) if text.len() > *most => {
                Err(format!("{} bytes is over the limit of {most}", text.len()))
            }
            Kind::Text(_) if text.chars().any(char::is_control) => {
                Err("control characters are not allowed".to_owned())
            }
            Kind::Word(words) if !words.contains(&text) => {
                let hint = closest(text, words.iter().copied());
                Err(format!("\"{text}\" is not one of: {}{hint}", words.join(", ")))
            }
            Kind::Uuid => parse_uuid(text).map(drop),
            // One form for each address, so that addresses can be compared.
            Kind::Mac => {
                return match text.parse::<Mac>() {
                    Ok(mac) => Some(json!(mac)),
                    Err(why) => self.bad(path, why),
                };
            }
            Kind::Ipv4 => forms::netmask(text),
            Kind::NicAddress => forms::nic_address(text),
            Kind::Form(check) => check(text),
            _ => Ok(()),
        };
        match checked {
            Ok(()) => Some(json!(text)),
            Err(why) => self.bad(path, why),
        }
    }

    fn integer(&mut self, value: &Value, (least, most): (i64, i64), unit: &str, path: &str) -> Option<Value> {
        let number = match value {
            Value::Number(number) => number.as_i64().or_else(|| {
                number.as_f64().filter(|f| f.fract() == 0.0).and_then(|f| format!("{f:.0}").parse().ok())
            }),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        let Some(number) = number else {
            let why = if matches!(value, Value::Number(n) if n.is_f64() || n.is_u64()) {
                "is not a whole number in range"
            } else {
                "is not a whole number"
            };
            return self.bad(path, format!("{} {why}", shown(value)));
        };
        if !(least..=most).contains(&number) {
            let text = format!("{number} is out of range: {least} to {most} {unit}");
            return self.bad(path, text.trim_end());
        }
        Some(json!(number))
    }

    /// A list, or one comma-separated string.
    fn list(&mut self, of: &Kind, most: usize, value: Value, path: &str) -> Option<Value> {
        let items: Vec<Value> = match value {
            Value::Array(items) => items,
            Value::String(text) => {
                text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(|s| json!(s)).collect()
            }
            other => return self.bad(path, format!("{} is not a list", shown(&other))),
        };
        if items.len() > most {
            return self.bad(path, format!("{} are over the limit of {most}", items.len()));
        }
        let mut read = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            match self.value(of, item, &format!("{path}.{index}")) {
                Some(UNSET) => {
                    self.bad(format!("{path}.{index}"), "is empty");
                }
                Some(value) => read.push(value),
                None => {}
            }
        }
        Some(Value::Array(read))
    }

    /// Reads a flat object. Values never appear in messages: they may be secrets.
    fn flat(&mut self, value: Value, path: &str) -> Option<Value> {
        let Value::Object(object) = value else { return self.bad(path, "is not an object") };
        let mut flat = Map::new();
        for (name, value) in object {
            if name.is_empty() || name.len() > 255 {
                self.bad(path, "keys have 1 to 255 bytes");
                continue;
            }
            if name.contains(is_hidden) {
                let why = "control characters, and those that turn text around, are not allowed in a key";
                self.bad(format!("{path}.{}", escaped(&name)), why);
                continue;
            }
            match value {
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    self.bad(format!("{path}.{name}"), "values must be strings, numbers or booleans");
                }
                Value::String(text) if text.contains('\0') => {
                    self.bad(format!("{path}.{name}"), "NUL is not allowed in a value");
                }
                // 42.0 becomes 42, whatever its source.
                Value::Number(number) => match kept(number) {
                    Some(value) => drop(flat.insert(name, value)),
                    None => {
                        let why = "a number of this size can't be kept exactly; give it as text";
                        self.bad(format!("{path}.{name}"), why);
                    }
                },
                scalar => {
                    flat.insert(name, scalar);
                }
            }
        }
        Some(Value::Object(flat))
    }

    fn objects(&mut self, table: &'static [Property], value: Value, path: &str) -> Option<Value> {
        let items = match value {
            Value::Array(items) => items,
            // As it comes from a command line.
            Value::String(text) if text.is_empty() => Vec::new(),
            other => return self.bad(path, format!("{} is not a list of objects", shown(&other))),
        };
        let mut read = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let at = format!("{path}.{index}");
            match item {
                Value::Object(object) => {
                    read.push(Value::Object(self.item(table, object, path, &format!("{at}."))));
                }
                other => {
                    self.bad(at, format!("{} is not an object", shown(&other)));
                }
            }
        }
        Some(Value::Array(read))
    }

    /// Reads an item of a list. Only `update_` changes existing items; all others are new.
    fn item(
        &mut self,
        table: &'static [Property],
        object: Map<String, Value>,
        list: &str,
        at: &str,
    ) -> Map<String, Value> {
        let action = self.action;
        self.action = if list.starts_with("update_") { Action::Update } else { Action::Create };
        let read = self.object(table, object, at);
        self.action = action;
        read
    }
}

/// Whether it is empty.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    }
}

/// `true`, `false`, their text, and vmadm's deprecated 1 and "1".
fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(1) => Some(true),
            Some(0) => Some(false),
            _ => None,
        },
        Value::String(text) => match text.as_str() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// From here on some integers have no exact double, the wire's type of numbers.
const INEXACT: u64 = 1 << 53;

/// Normalizes a number: 42.0 becomes 42, and an integer that the wire would round becomes text. `None` if it
/// may already have been rounded.
fn kept(number: serde_json::Number) -> Option<Value> {
    if !number.is_f64() {
        let is_exact = number.as_i64().is_some_and(|whole| whole.unsigned_abs() < INEXACT);
        return Some(if is_exact { Value::Number(number) } else { Value::String(number.to_string()) });
    }
    let float = number.as_f64()?;
    if float.fract() != 0.0 {
        return Some(Value::Number(number));
    }
    let whole = format!("{float:.0}").parse::<i64>().ok()?;
    (whole.unsigned_abs() < INEXACT).then(|| Value::Number(whole.into()))
}

/// Returns the brand that a payload names, before the rest is read.
pub(super) fn brand_of(object: &Map<String, Value>) -> Option<Brand> {
    let name = object.get("brand")?.as_str()?;
    Brand::NAMES.iter().find(|(known, _)| *known == name).map(|(_, brand)| *brand)
}
