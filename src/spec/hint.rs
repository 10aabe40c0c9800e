//! Words of a violation that show what was given, and what to give instead.

use std::fmt::Display;

/// Maps another tool's name to the property.
pub(super) fn meant(key: &str) -> Option<String> {
    let name = match key {
        "name" => "alias",
        "default_gateway" | "default-gateway" => "nics.*.gateway",
        "memory" | "max_memory" => "ram",
        "cpus" | "cpu" => "vcpus",
        "dns" | "nameservers" => "resolvers",
        "metadata" => "customer_metadata",
        _ => return None,
    };
    Some(format!("; did you mean \"{name}\"?"))
}

/// Returns the alternative to a property that can't be replaced as a whole.
pub(super) fn instead(name: &str) -> String {
    match name {
        "disks" | "nics" | "pci_devices" => {
            format!("can't be replaced as a whole; use add_{name}, update_{name} and remove_{name}")
        }
        "customer_metadata" | "internal_metadata" | "tags" | "routes" => {
            format!("can't be replaced as a whole; use set_{name} and remove_{name}")
        }
        _ => "can't be changed".to_owned(),
    }
}

/// `; did you mean "x"?` when something is near enough.
pub(super) fn closest<'n>(given: &str, names: impl Iterator<Item = &'n str>) -> String {
    names
        .map(|name| (strsim::damerau_levenshtein(given, name), name))
        .filter(|(distance, name)| *distance <= 2 && *distance * 3 <= name.len().max(given.len()))
        .min()
        .map(|(_, name)| format!("; did you mean \"{name}\"?"))
        .unwrap_or_default()
}

/// Formats a value for a message, at most one line long.
pub(super) fn shown(value: &impl Display) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        return text;
    }
    let start: String = text.chars().take(57).collect();
    format!("{start}...")
}
