//! Reads one JSON object field by field, with vmadm's coercions, and notes everything that is wrong
//! instead of stopping at the first.

use std::{fmt::Display, str::FromStr};

use serde_json::{Map, Value};

use super::{
    violation::Violation,
    vm::{FlatObject, Scalar},
};

/// A JSON object being read. Each getter takes its field out; what is left at the end is unknown.
pub(super) struct Reader<'a> {
    at: String,
    object: Map<String, Value>,
    asked: Vec<&'static str>,
    violations: &'a mut Vec<Violation>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(object: Map<String, Value>, violations: &'a mut Vec<Violation>) -> Self {
        Self { at: String::new(), object, asked: Vec::new(), violations }
    }

    /// The value of `key`; `null` is the same as absent.
    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.object.remove(key).filter(|value| !value.is_null())
    }

    fn path(&self, key: impl Display) -> String {
        format!("{}{key}", self.at)
    }

    fn bad(&mut self, key: impl Display, message: impl Into<String>) {
        let path = self.path(key);
        self.violations.push(Violation::value(path, message));
    }

    /// A string.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            other => {
                self.bad(key, format!("{} is not a string", shown(&other)));
                None
            }
        }
    }

    /// A whole number, or its text; the empty string means unset.
    pub(super) fn integer(&mut self, key: &'static str) -> Option<i32> {
        let value = self.take(key)?;
        let number = match &value {
            Value::Number(number) => number.as_i64().or_else(|| {
                number.as_f64().filter(|f| f.fract() == 0.0).and_then(|f| format!("{f:.0}").parse().ok())
            }),
            Value::String(text) if text.is_empty() => return None,
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        let Some(number) = number else {
            let why = if matches!(&value, Value::Number(n) if n.is_f64() || n.is_u64()) {
                "is not a whole number in range"
            } else {
                "is not a whole number"
            };
            self.bad(key, format!("{} {why}", shown(&value)));
            return None;
        };
        // What is far out of any range is still reported by the rule that knows the range.
        Some(i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX }))
    }

    /// `true`, `false`, their text, and vmadm's deprecated 1 and "1".
    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let value = self.take(key)?;
        let known = match &value {
            Value::Bool(flag) => Some(*flag),
            Value::Number(number) => match number.as_i64() {
                Some(1) => Some(true),
                Some(0) => Some(false),
                _ => None,
            },
            Value::String(text) => match text.as_str() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                "" => return None,
                _ => None,
            },
            _ => None,
        };
        if known.is_none() {
            self.bad(key, format!("{} is neither true nor false", shown(&value)));
        }
        known
    }

    /// One of a set of names.
    pub(super) fn named<T: Copy>(&mut self, key: &'static str, names: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let found = names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if found.is_none() {
            let valid: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
            let hint = closest(&text, valid.iter().copied());
            self.bad(key, format!("\"{text}\" is not one of: {}{hint}", valid.join(", ")));
        }
        found
    }

    /// A text with a form of its own.
    pub(super) fn parsed<T>(&mut self, key: &'static str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.text(key).filter(|text| !text.is_empty())?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.bad(key, error.to_string());
                None
            }
        }
    }

    /// A list of strings, or one comma-separated string.
    pub(super) fn texts(&mut self, key: &'static str) -> Vec<String> {
        match self.take(key) {
            None => Vec::new(),
            Some(Value::String(text)) => {
                text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()
            }
            Some(Value::Array(items)) => {
                let mut texts = Vec::new();
                for (index, item) in items.into_iter().enumerate() {
                    match item {
                        Value::String(text) => texts.push(text),
                        other => {
                            self.bad(format!("{key}.{index}"), format!("{} is not a string", shown(&other)));
                        }
                    }
                }
                texts
            }
            Some(other) => {
                self.bad(key, format!("{} is not a list of strings", shown(&other)));
                Vec::new()
            }
        }
    }

    /// A list of objects, each read by `read`.
    pub(super) fn objects<T>(&mut self, key: &'static str, read: impl Fn(&mut Reader<'_>) -> T) -> Vec<T> {
        let items = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.bad(key, format!("{} is not a list of objects", shown(&other)));
                return Vec::new();
            }
        };
        let mut list = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let Value::Object(object) = item else {
                self.bad(format!("{key}.{index}"), format!("{} is not an object", shown(&item)));
                continue;
            };
            let mut reader = Reader {
                at: format!("{}{key}.{index}.", self.at),
                object,
                asked: Vec::new(),
                violations: &mut *self.violations,
            };
            list.push(read(&mut reader));
            reader.finish();
        }
        list
    }

    /// A flat object. Values never show in messages: they may be secrets.
    pub(super) fn flat(&mut self, key: &'static str) -> FlatObject {
        let object = match self.take(key) {
            None => return FlatObject::new(),
            Some(Value::Object(object)) => object,
            Some(_) => {
                self.bad(key, "is not an object");
                return FlatObject::new();
            }
        };
        let mut flat = FlatObject::new();
        for (name, value) in object {
            let scalar = match value {
                Value::Bool(flag) => Scalar::Bool(flag),
                Value::Number(number) => Scalar::Number(number),
                Value::String(text) => Scalar::Text(text),
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    self.bad(format!("{key}.{name}"), "values must be strings, numbers or booleans");
                    continue;
                }
            };
            flat.insert(name, scalar);
        }
        flat
    }

    /// Fields that exist in vmadm but can't be given here: `(key, why)`.
    pub(super) fn refuse(&mut self, refused: &[(&'static str, &str)]) {
        for (key, why) in refused {
            if self.object.remove(*key).is_some() {
                let path = self.path(key);
                self.violations.push(Violation::property(path, *why));
            }
        }
    }

    /// Reports what nobody asked for.
    pub(super) fn finish(self) {
        for key in self.object.keys() {
            let hint = closest(key, self.asked.iter().copied());
            self.violations
                .push(Violation::property(self.path(key), format!("there is no such property{hint}")));
        }
    }
}

/// `; did you mean "x"?` when something is near enough.
pub(super) fn closest<'n>(given: &str, names: impl Iterator<Item = &'n str>) -> String {
    names
        .map(|name| (strsim::damerau_levenshtein(given, name), name))
        .filter(|(distance, name)| *distance <= 2 && *distance < name.len())
        .min()
        .map(|(_, name)| format!("; did you mean \"{name}\"?"))
        .unwrap_or_default()
}

/// A value as it may stand in a message: not longer than a line.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        return text;
    }
    let start: String = text.chars().take(57).collect();
    format!("{start}...")
}
