//! imgadm's manifest, version 2: what an image is, for people and programs. Keys that the agent does not know are kept.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    spec::{Violation, forms::parse_uuid},
    text::is_hidden,
};

/// Most bytes of a manifest as JSON: it travels in events.
pub const MAX_MANIFEST: usize = 64 << 10;

/// Types of imgadm that are no disk.
const NO_DISKS: [&str; 5] = ["zone-dataset", "lx-dataset", "docker", "lxd", "other"];
/// Operating systems that imgadm knows.
const SYSTEMS: [&str; 6] = ["smartos", "linux", "windows", "bsd", "illumos", "other"];
/// Of images that can be used. Those of imgadm's other states are not ready.
const STATES: [&str; 1] = ["active"];

/// A manifest that keeps the rules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Manifest(Map<String, Value>);

impl Manifest {
    /// Checks a manifest. Keys that describe an image here and are absent get imgadm's defaults.
    pub fn read(mut object: Map<String, Value>) -> Result<Self, Vec<Violation>> {
        let mut found = Vec::new();
        let defaults = [
            ("v", json!(2)),
            ("owner", json!(Uuid::nil())),
            ("version", json!("0")),
            ("state", json!("active")),
            ("disabled", json!(false)),
            ("public", json!(true)),
            ("type", json!("zvol")),
            ("os", json!("other")),
        ];
        for (key, value) in defaults {
            object.entry(key).or_insert(value);
        }
        let length = Value::Object(object.clone()).to_string().len();
        if length > MAX_MANIFEST {
            found.push(Violation::value(
                "manifest",
                format!("{length} bytes as JSON; {MAX_MANIFEST} are the most"),
            ));
            return Err(found);
        }
        let mut checker = Checker { object: &object, found: &mut found };
        checker.all();
        if found.is_empty() { Ok(Self(object)) } else { Err(found) }
    }

    /// A manifest of an image that has none: its file's name is what is known.
    #[must_use]
    pub fn named(uuid: Uuid, name: &str) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        let name: String = name.chars().take(MAX_NAME).map(plain).collect();
        let name = if name.is_empty() { "image".to_owned() } else { name };
        let object = json!({"v": 2, "uuid": uuid, "name": name});
        match object {
            Value::Object(object) => Self::read(object).unwrap_or_else(|_| Self(Map::new())),
            _ => Self(Map::new()),
        }
    }

    /// A manifest with a name that somebody chose; says what is wrong with it.
    pub fn with_name(uuid: Uuid, name: &str) -> Result<Self, String> {
        if !is_name(name) {
            return Err(not_characters(MAX_NAME, IN_NAMES));
        }
        let mut manifest = Self::named(uuid, name);
        manifest.set("name", json!(name));
        Ok(manifest)
    }

    /// The object.
    #[must_use]
    pub fn object(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The image's UUID.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.text("uuid").and_then(|text| parse_uuid(text).ok()).unwrap_or_default()
    }

    /// Its name; empty if it has none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text("name").unwrap_or_default()
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &str {
        self.text("version").unwrap_or_default()
    }

    /// The image that it is a difference from.
    #[must_use]
    pub fn origin(&self) -> Option<Uuid> {
        parse_uuid(self.text("origin")?).ok()
    }

    /// Bytes and SHA-1 of its file, as a source publishes it.
    #[must_use]
    pub fn file(&self) -> (Option<u64>, Option<&str>) {
        let file = self.0.get("files").and_then(|files| files.get(0));
        let size = file.and_then(|file| file.get("size")).and_then(Value::as_u64);
        (size, file.and_then(|file| file.get("sha1")).and_then(Value::as_str))
    }

    /// A text of it.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Value::as_str)
    }

    /// Sets a key that the agent knows better.
    pub fn set(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_owned(), value);
    }
}

/// Characters of a name, and of a version.
const MAX_NAME: usize = 512;
const MAX_VERSION: usize = 128;
/// Those of them that are no letters and digits.
const IN_NAMES: &str = "._/ -";
const IN_VERSIONS: &str = "._/+-";

fn is_name(text: &str) -> bool {
    has_only(text, MAX_NAME, IN_NAMES)
}

fn has_only(text: &str, most: usize, others: &str) -> bool {
    let is_good = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    !text.is_empty() && text.len() <= most && text.chars().all(is_good)
}

fn not_characters(most: usize, others: &str) -> String {
    format!("1 to {most} letters, digits and {others:?}")
}

struct Checker<'a> {
    object: &'a Map<String, Value>,
    found: &'a mut Vec<Violation>,
}

impl Checker<'_> {
    fn all(&mut self) {
        if self.object.get("v").and_then(Value::as_u64) != Some(2) {
            self.wrong("v", "the version of the manifest; 2 is read");
        }
        for key in ["uuid", "origin"] {
            self.uuid(key, key == "uuid");
        }
        // SmartOS's own images have no owner: a UUID of zeros.
        let is_uuid = |owner: &Value| owner.as_str().is_some_and(|text| Uuid::try_parse(text).is_ok());
        if !self.object.get("owner").is_none_or(is_uuid) {
            self.wrong("owner", "not a UUID");
        }
        self.characters("name", MAX_NAME, IN_NAMES);
        self.characters("version", MAX_VERSION, IN_VERSIONS);
        self.word("state", &STATES);
        if self.object.get("disabled").is_some_and(|disabled| disabled != false) {
            self.wrong("disabled", "the image is disabled");
        }
        if !self.object.get("public").is_none_or(Value::is_boolean) {
            self.wrong("public", "not true or false");
        }
        self.word("os", &SYSTEMS);
        self.kind();
        for key in ["description", "homepage", "nic_driver", "disk_driver", "cpu_type"] {
            self.text(key);
        }
        self.number("image_size", self.object.get("image_size"));
        self.files();
        self.requirements();
    }

    fn wrong(&mut self, key: &str, why: impl Into<String>) {
        self.found.push(Violation::value(format!("manifest.{key}"), why));
    }

    fn missing(&mut self, key: &str) {
        self.found.push(Violation::missing(format!("manifest.{key}"), "required"));
    }

    fn uuid(&mut self, key: &str, is_required: bool) {
        match self.object.get(key) {
            None | Some(Value::Null) if is_required => self.missing(key),
            None | Some(Value::Null) => {}
            Some(Value::String(text)) if parse_uuid(text).is_ok() => {}
            Some(_) => self.wrong(key, "not a UUID in lower case"),
        }
    }

    fn characters(&mut self, key: &str, most: usize, others: &str) {
        match self.object.get(key) {
            None => self.missing(key),
            Some(Value::String(text)) if has_only(text, most, others) => {}
            Some(Value::String(_)) => self.wrong(key, not_characters(most, others)),
            Some(_) => self.wrong(key, "not a text"),
        }
    }

    fn text(&mut self, key: &str) {
        match self.object.get(key) {
            None => {}
            Some(Value::String(text))
                if !text.contains(|c| is_hidden(c) && c != '\n') && text.len() <= 4096 => {}
            Some(_) => self.wrong(key, "not a text of at most 4096 bytes without control characters"),
        }
    }

    fn word(&mut self, key: &str, words: &[&str]) {
        let is_known = self.object.get(key).and_then(Value::as_str).is_some_and(|word| words.contains(&word));
        if !is_known {
            self.wrong(key, format!("one of: {}", words.join(", ")));
        }
    }

    fn kind(&mut self) {
        let text = self.object.get("type").and_then(Value::as_str).unwrap_or_default();
        match text {
            "zvol" => {}
            kind if NO_DISKS.contains(&kind) => {
                self.wrong("type", format!("{kind} is no disk; VMs take images of type zvol"));
            }
            _ => self.wrong("type", "zvol is the type of disks"),
        }
    }

    fn number(&mut self, key: &str, value: Option<&Value>) {
        let is_good = value.is_none_or(|value| value.as_u64().is_some_and(|n| n <= u32::MAX.into()));
        if !is_good {
            self.wrong(key, "not a whole number of MiB");
        }
    }

    fn files(&mut self) {
        let files = match self.object.get("files") {
            None => return,
            Some(Value::Array(files)) if files.len() <= 1 => files,
            Some(_) => return self.wrong("files", "a list of one file"),
        };
        let Some(file) = files.first() else { return };
        if !file.get("size").is_none_or(Value::is_u64) {
            self.wrong("files.0.size", "not a number of bytes");
        }
        let sha1 = file.get("sha1").map(|digest| digest.as_str().unwrap_or_default());
        if sha1.is_some_and(|sha1| sha1.len() != 40 || !sha1.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            self.wrong("files.0.sha1", "not 40 hexadecimal digits");
        }
    }

    fn requirements(&mut self) {
        let requirements = match self.object.get("requirements") {
            None => return,
            Some(Value::Object(requirements)) => requirements,
            Some(_) => return self.wrong("requirements", "not an object"),
        };
        for key in ["brand", "bootrom"] {
            if !requirements.get(key).is_none_or(Value::is_string) {
                self.wrong(&format!("requirements.{key}"), "not a text");
            }
        }
        for key in ["min_ram", "max_ram"] {
            self.number(&format!("requirements.{key}"), requirements.get(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Manifest, Vec<String>> {
        let Value::Object(object) = serde_json::from_str(text).unwrap() else { panic!("no object") };
        Manifest::read(object).map_err(|found| found.into_iter().map(|each| each.field).collect())
    }

    const LEAST: &str = r#""uuid":"01b2c898-945f-11e1-a523-af1afbe22822","name":"debian 12""#;

    #[test]
    fn the_least_manifest_gets_defaults_and_keeps_what_is_unknown() {
        let manifest = read(&format!(r#"{{{LEAST},"tags":{{"a":1}}}}"#)).unwrap();
        assert_eq!(
            (manifest.name(), manifest.version(), manifest.text("type")),
            ("debian 12", "0", Some("zvol"))
        );
        assert_eq!(manifest.object()["tags"]["a"], 1);
        assert_eq!(Manifest::named(Uuid::from_u128(1), "a b?.img").name(), "a-b-.img");
        assert_eq!(Manifest::with_name(Uuid::from_u128(1), "a b").unwrap().name(), "a b");
        assert!(Manifest::with_name(Uuid::from_u128(1), "a b?").unwrap_err().contains("letters"));
    }

    #[test]
    fn both_sides_of_each_rule() {
        for (wrong, field) in [
            (r#""v":1"#, "v"),
            (r#""type":"lx-dataset""#, "type"),
            (r#""type":"x""#, "type"),
            (r#""os":"dos""#, "os"),
            (r#""version":"a b""#, "version"),
            (r#""origin":"x""#, "origin"),
            (r#""image_size":-1"#, "image_size"),
            (r#""files":[{},{}]"#, "files"),
            (r#""files":[{"sha1":"x"}]"#, "files.0.sha1"),
            (r#""requirements":{"min_ram":"x"}"#, "requirements.min_ram"),
            (r#""description":"\u001b""#, "description"),
        ] {
            assert_eq!(read(&format!("{{{LEAST},{wrong}}}")).unwrap_err(), [format!("manifest.{field}")]);
        }
        assert_eq!(read("{}").unwrap_err(), ["manifest.uuid", "manifest.name"]);
    }

    /// A genuine one.
    #[test]
    fn imgadms_own_are_read() {
        for name in ["image", "incremental-image"] {
            let path = format!("{}/tests/zfs-streams/{name}.imgmanifest", env!("CARGO_MANIFEST_DIR"));
            let manifest = read(&std::fs::read_to_string(path).unwrap()).unwrap();
            assert!(manifest.file().0.is_some() && manifest.file().1.is_some());
        }
    }
}
