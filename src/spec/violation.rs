//! One rule that one field of a payload breaks.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of fault; vmadm reports the three separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The value is wrong.
    BadValue,
    /// The field does not exist, or may not be given here.
    BadProperty,
    /// The field is required.
    MissingProperty,
}

/// A broken rule, addressed by field path (`disks.0.size`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Where.
    pub field: String,
    /// Which rule, with the value as given and what would be right.
    pub message: String,
    /// How vmadm would class it.
    pub kind: Kind,
}

impl Violation {
    /// The value of `field` is wrong.
    pub fn value(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(field, message, Kind::BadValue)
    }

    /// `field` does not exist or is not allowed here.
    pub fn property(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(field, message, Kind::BadProperty)
    }

    /// `field` is required.
    pub fn missing(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(field, message, Kind::MissingProperty)
    }

    fn new(field: impl Into<String>, message: impl Into<String>, kind: Kind) -> Self {
        Self { field: field.into(), message: message.into(), kind }
    }
}

/// A remark about a field that is not an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Where.
    pub field: String,
    /// What.
    pub message: String,
}

impl Note {
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// vmadm's one-line summary of a list of violations:
/// `Missing required properties: brand; Invalid value(s) for: ram,vcpus`.
#[must_use]
pub fn summary(violations: &[Violation]) -> String {
    let names = |kind| {
        let mut names: Vec<&str> = Vec::new();
        for violation in violations.iter().filter(|v| v.kind == kind) {
            if !names.contains(&violation.field.as_str()) {
                names.push(&violation.field);
            }
        }
        names.join(",")
    };
    [
        ("Missing required properties", Kind::MissingProperty),
        ("Invalid value(s) for", Kind::BadValue),
        ("Invalid properties", Kind::BadProperty),
    ]
    .into_iter()
    .map(|(title, kind)| (title, names(kind)))
    .filter(|(_, names)| !names.is_empty())
    .map(|(title, names)| format!("{title}: {names}"))
    .collect::<Vec<_>>()
    .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_groups_by_kind_and_names_a_field_once() {
        let list = [
            Violation::value("ram", "a"),
            Violation::missing("brand", "b"),
            Violation::value("ram", "c"),
            Violation::value("vcpus", "d"),
        ];
        assert_eq!(summary(&list), "Missing required properties: brand; Invalid value(s) for: ram,vcpus");
    }
}
