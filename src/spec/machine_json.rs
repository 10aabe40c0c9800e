//! The machine JSON: vmadm's payload, strictly read.

use serde_json::{Map, Value};

use super::{
    Kind, MAX_PAYLOAD, Note, VmSpec,
    coerce::{Action, Coercion, brand_of},
    property::VM,
    strict_json, validate,
    violation::Violation,
};

/// Why a text is not a machine JSON.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// Not JSON.
    #[error("Invalid JSON payload: {0}")]
    Json(String),
    /// JSON, but not an object.
    #[error("Invalid JSON payload: it must be an object, like {{\"brand\": \"kvm\", ...}}")]
    NotAnObject,
    /// Larger than [`MAX_PAYLOAD`].
    #[error("Invalid JSON payload: {0} bytes is over the limit of 1 MiB")]
    TooLarge(usize),
}

/// The readable parts of a payload, and its faults.
#[derive(Debug)]
pub struct Parsed {
    /// The machine, without the fields that are in `violations`.
    pub spec: VmSpec,
    /// Fields of the wrong type or name.
    pub violations: Vec<Violation>,
    /// Accepted values without effect here.
    pub notes: Vec<Note>,
}

impl Parsed {
    /// Returns unreadable fields and the rules that the rest breaks, each field once.
    #[must_use]
    pub fn all_violations(&self) -> Vec<Violation> {
        let mut all = self.violations.clone();
        if all.iter().any(|violation| violation.field == "vm") {
            // There is no machine to check.
            return all;
        }
        for violation in validate::check(&self.spec) {
            let known = |wanted: &str| self.violations.iter().any(|known| known.field.starts_with(wanted));
            let item = violation.field.rsplit_once('.').map(|(item, _)| format!("{item}."));
            // A field that "goes with" an unreadable one is no mistake of its own.
            let follows = violation.kind == Kind::BadProperty && item.is_some_and(|item| known(&item));
            if !follows && !all.iter().any(|known| known.field == violation.field) {
                all.push(violation);
            }
        }
        all
    }
}

/// Reads a JSON object's text.
pub fn parse_text(text: &[u8]) -> Result<Map<String, Value>, PayloadError> {
    if text.len() > MAX_PAYLOAD {
        return Err(PayloadError::TooLarge(text.len()));
    }
    match strict_json::parse(text).map_err(PayloadError::Json)? {
        Value::Object(object) => Ok(object),
        _ => Err(PayloadError::NotAnObject),
    }
}

/// Reads a machine JSON text.
pub fn parse(text: &[u8]) -> Result<Parsed, PayloadError> {
    parse_text(text).map(parse_object)
}

/// Reads a machine JSON object.
#[must_use]
pub fn parse_object(object: Map<String, Value>) -> Parsed {
    parse_as(object, Strictness::Strict)
}

/// The treatment of unknown properties.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strictness {
    /// Violations.
    #[default]
    Strict,
    /// Notes, for old tools that send more than they know.
    Lenient,
}

/// Reads a machine JSON object.
#[must_use]
pub fn parse_as(mut object: Map<String, Value>, strictness: Strictness) -> Parsed {
    make_anew(&mut object);
    let renamed = rename_old(&mut object, strictness);
    let mut coercion = Coercion::new(Action::Create, brand_of(&object));
    coercion.lenient = strictness == Strictness::Lenient;
    let read = coercion.object(VM, object, "");
    let Coercion { mut violations, mut notes, .. } = coercion;
    let spec = typed(read, &mut violations);
    notes.extend(renamed);
    notes.extend(validate::notes(&spec));
    Parsed { spec, violations, notes }
}

/// Converts what was read by the table to its typed form. Tests ensure that both agree; a difference would be
/// reported.
pub(super) fn typed(read: Map<String, Value>, violations: &mut Vec<Violation>) -> VmSpec {
    serde_json::from_value(Value::Object(read)).unwrap_or_else(|error| {
        violations.push(Violation::value("vm", error.to_string()));
        VmSpec::default()
    })
}

/// Makes the output of `get`, here or on SmartOS, valid for `create`: this agent creates the disks in its own
/// place, and drops another VM's hostname.
fn make_anew(object: &mut Map<String, Value>) {
    let Some(Value::String(zonename)) = object.get("zonename").cloned() else { return };
    let is_clone = object.get("uuid").and_then(Value::as_str) != Some(&zonename);
    if is_clone && object.get("hostname").and_then(Value::as_str) == Some(&zonename) {
        object.shift_remove("hostname");
    }
    let Some(Value::Array(disks)) = object.get_mut("disks") else { return };
    for disk in disks.iter_mut().filter_map(Value::as_object_mut) {
        let is_file = disk.get("nocreate").is_some_and(|flag| *flag == true)
            || disk.get("media") == Some(&"cdrom".into());
        if !is_file {
            disk.shift_remove("path");
        }
    }
}

/// Renames vmadm's old property names.
fn rename_old(object: &mut Map<String, Value>, strictness: Strictness) -> Option<Note> {
    if let Some(pool) = object.shift_remove("zfs_storage_pool_name") {
        object.entry("zpool").or_insert(pool);
    }
    // Ansible sends its own word for the alias beside it, or instead.
    let name = object.get("name").filter(|name| name.is_string()).cloned()?;
    let alias = object.get("alias").filter(|alias| !alias.is_null());
    let is_repeated = alias == Some(&name);
    let is_taken = alias.is_none() && strictness == Strictness::Lenient;
    if is_repeated || is_taken {
        object.shift_remove("name");
        object.insert("alias".to_owned(), name);
    }
    is_taken.then(|| Note::new("name", "there is no such property; it is taken for the alias"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that every operator starts from.
    pub(super) const EXAMPLE: &str = r#"{"brand":"kvm","vcpus":1,"autoboot":false,"ram":1024,"resolvers":["208.67.222.222","208.67.220.220"],"disks":[{"boot":true,"model":"virtio","size":40960}],"nics":[{"nic_tag":"admin","model":"virtio","ip":"10.88.88.51","netmask":"255.255.255.0","gateway":"10.88.88.1","primary":1}]}"#;

    fn fields(text: &str) -> Vec<String> {
        let parsed = parse(text.as_bytes()).unwrap();
        parsed.violations.into_iter().map(|v| v.field).collect()
    }

    #[test]
    fn the_example_parses_as_it_stands() {
        let parsed = parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(parsed.violations, []);
        assert!(parsed.spec.nics[0].primary);
        assert_eq!(parsed.spec.disks[0].size, Some(40960));
        assert_eq!(parsed.spec.resolvers.len(), 2);
        assert_eq!(parsed.spec.autoboot, Some(false));
    }

    #[test]
    fn coercions() {
        let text = r#"{"brand":"kvm","ram":"1024","vcpus":2.0,"autoboot":"false","alias":null,"resolvers":"1.1.1.1, 8.8.8.8","vnc_port":""}"#;
        let parsed = parse(text.as_bytes()).unwrap();
        assert_eq!(parsed.violations, []);
        assert_eq!((parsed.spec.ram, parsed.spec.vcpus), (Some(1024), Some(2)));
        assert_eq!(parsed.spec.autoboot, Some(false));
        assert_eq!((parsed.spec.alias, parsed.spec.vnc_port), (None, None));
        assert_eq!(parsed.spec.resolvers, ["1.1.1.1", "8.8.8.8"]);
    }

    #[test]
    fn everything_wrong_is_reported_at_once_by_path() {
        let text = r#"{"brand":"xen","ram":"lots","autoboot":"aardvark","alias":42,"rma":1,
            "disks":[{"model":"floppy","sise":1,"image_uuid":"x"}],"nics":[{"ip":"1.2.3.4,5.6.7.8"},7],"tags":{"a":[]},"uuid":"doogle"}"#;
        let mut found = fields(text);
        found.sort();
        assert_eq!(
            found,
            [
                "alias",
                "autoboot",
                "brand",
                "disks.0.image_uuid",
                "disks.0.model",
                "disks.0.sise",
                "nics.0.ip",
                "nics.1",
                "ram",
                "rma",
                "tags.a",
                "uuid"
            ]
        );
    }

    #[test]
    fn hints() {
        let parsed = parse(br#"{"brand":"kvn","vpcus":1}"#).unwrap();
        let text: Vec<String> = parsed.violations.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "brand: \"kvn\" is not one of: kvm, bhyve; did you mean \"kvm\"?",
                "vpcus: there is no such property; did you mean \"vcpus\"?"
            ]
        );
    }

    #[test]
    fn not_a_machine() {
        assert!(matches!(parse(b"{"), Err(PayloadError::Json(_))));
        assert!(matches!(parse(b"[]"), Err(PayloadError::NotAnObject)));
        assert!(matches!(parse(&vec![b' '; MAX_PAYLOAD + 1]), Err(PayloadError::TooLarge(_))));
        assert!(matches!(parse(&vec![b'['; MAX_PAYLOAD]), Err(PayloadError::Json(_))), "deep nesting");
    }

    #[test]
    fn metadata_values_stay_out_of_messages() {
        let parsed = parse(br#"{"brand":"kvm","customer_metadata":{"root_pw":["hunter2"]}}"#).unwrap();
        assert_eq!(parsed.violations.len(), 1);
        assert!(!parsed.violations[0].to_string().contains("hunter2"));
    }
}
