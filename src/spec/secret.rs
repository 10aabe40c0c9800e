//! The secrets of a machine: passwords, and the operators' own metadata.

use serde_json::{Map, Value, json};

use super::{
    FlatObject, Scalar, VmSpec,
    property::{Kind, VM, find},
};

/// Replaces a secret.
pub const REDACTED: &str = "********";

/// Suffix of password keys.
const PASSWORD: &str = "_pw";

/// Whether a path like `customer_metadata.root_pw` names a secret, which a machine JSON shows only to admins.
#[must_use]
pub fn is_secret(path: &str) -> bool {
    match path.split_once('.').unwrap_or((path, "")) {
        ("internal_metadata", _) => true,
        ("customer_metadata", key) => key.ends_with(PASSWORD),
        _ => false,
    }
}

/// Whether a machine has secrets.
#[must_use]
pub fn has_secrets(spec: &VmSpec) -> bool {
    !spec.internal_metadata.is_empty() || spec.customer_metadata.keys().any(|key| key.ends_with(PASSWORD))
}

/// Returns the machine with its secrets redacted; their keys are not secret.
#[must_use]
pub fn redacted(spec: &VmSpec) -> VmSpec {
    fn cover(name: &str, object: &mut FlatObject) {
        for (key, value) in object {
            if is_secret(&format!("{name}.{key}")) {
                *value = Scalar::Text(REDACTED.to_owned());
            }
        }
    }
    let mut spec = spec.clone();
    cover("internal_metadata", &mut spec.internal_metadata);
    cover("customer_metadata", &mut spec.customer_metadata);
    spec
}

/// The same for a flat object.
pub fn redact(object: &mut Map<String, Value>) {
    for name in ["internal_metadata", "customer_metadata"] {
        let values = object.get_mut(name).and_then(Value::as_object_mut).into_iter().flatten();
        for (key, value) in values {
            if is_secret(&format!("{name}.{key}")) {
                *value = json!(REDACTED);
            }
        }
    }
}

/// Redacts the passwords of screens, which nobody may see.
pub fn cover_passwords(object: &mut Map<String, Value>) {
    for (name, value) in object {
        if find(VM, name).is_some_and(|property| matches!(property.kind, Kind::Secret(_))) {
            *value = json!(REDACTED);
        }
    }
}

/// Returns a machine for display: without passwords, and without places, which concern only the guest.
#[must_use]
pub fn shown(spec: &VmSpec) -> VmSpec {
    let mut spec = VmSpec { vnc_password: None, ..spec.clone() };
    spec.other.shift_remove("spice_password");
    spec.disks.iter_mut().for_each(|disk| (disk.place, disk.form) = (None, None));
    spec.nics.iter_mut().for_each(|nic| nic.place = None);
    spec
}

/// Generates a screen password of VNC's full length: 48 random bits.
#[must_use]
pub fn new_password() -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.";
    // The random bytes of a UUID.
    let chance = uuid::Uuid::new_v4().into_bytes();
    let letters = chance.iter().take(6).chain(&chance[9..11]);
    letters.map(|byte| char::from(LETTERS[usize::from(byte % 64)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::machine_json;

    #[test]
    fn passwords_and_what_is_the_operators_are_covered() {
        let text = r#"{"brand":"kvm","customer_metadata":{"root_pw":"hunter2","a_pw.b":"x","key":"v"},
            "internal_metadata":{"root_pw":"hunter3","script":"y"},"tags":{"t_pw":"tag"}}"#;
        let spec = machine_json::parse(text.as_bytes()).unwrap().spec;
        assert!(has_secrets(&spec) && !has_secrets(&VmSpec::default()));
        let shown = serde_json::to_string(&redacted(&spec)).unwrap();
        for (word, seen) in [
            ("hunter2", false),
            ("hunter3", false),
            ("\"y\"", false),
            ("\"x\"", true),
            ("\"v\"", true),
            ("tag", true),
        ] {
            assert_eq!(shown.contains(word), seen, "{word}: {shown}");
        }
        assert!(shown.contains("script") && shown.contains("root_pw"), "{shown}");
        let Value::Object(mut object) = serde_json::to_value(&spec).unwrap() else { panic!() };
        redact(&mut object);
        assert_eq!(Value::Object(object), serde_json::to_value(redacted(&spec)).unwrap());
    }
}
