//! vmadm's filters of VMs: `ram=1024`, `alias=~^web`, `disks.*.size=10240`, `tags.role=db`.

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::{
    Mac,
    hint::closest,
    property::{Kind, Property, VM, find},
    secret::is_secret,
};

/// Bytes that a regular expression may need: enough for what people type.
const MAX_REGEX: usize = 64 << 10;
/// Bytes that it may need while it is matched, in each thread that does.
const MAX_MATCHING: usize = 64 << 10;
/// Bytes of a filter.
const MAX_FILTER: usize = 4096;

/// One condition on a VM.
#[derive(Clone, Debug)]
pub struct Filter {
    path: Vec<String>,
    wanted: Wanted,
}

#[derive(Clone, Debug)]
enum Wanted {
    Text(String),
    Mac(Mac),
    Match(Regex),
}

impl Filter {
    /// Reads `key=value` or `key=~expression`. The error is vmadm's sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_FILTER {
            return Err(format!("a filter of {} bytes is over the limit of {MAX_FILTER}", text.len()));
        }
        let Some((key, value)) = text.split_once('=') else {
            // A mistake in the key is reported first.
            path(text)?;
            return Err(format!("Invalid filter \"{text}\": give {text}=value, or {text}=~expression"));
        };
        let (path, kind) = path(key)?;
        let wanted = match value.strip_prefix('~') {
            Some(expression) => Wanted::Match(
                RegexBuilder::new(expression)
                    .case_insensitive(true)
                    .size_limit(MAX_REGEX)
                    .dfa_size_limit(MAX_MATCHING)
                    .build()
                    .map_err(|error| format!("Invalid filter \"{text}\": {error}"))?,
            ),
            None if !value.is_empty() && !may_be(kind, value) => {
                let allowed = allowed(kind);
                return Err(format!(
                    "Invalid filter \"{text}\": \"{value}\" is never the value of {key}; {allowed}"
                ));
            }
            None => match value.parse() {
                Ok(mac) if path.last().is_some_and(|name| name == "mac") => Wanted::Mac(mac),
                _ => Wanted::Text(value.to_owned()),
            },
        };
        Ok(Self { path, wanted })
    }

    /// Whether a filter text contains a regular expression.
    #[must_use]
    pub fn is_expression(text: &str) -> bool {
        text.split_once('=').is_some_and(|(_, value)| value.starts_with('~'))
    }

    /// Returns its key.
    #[must_use]
    pub fn key(&self) -> String {
        self.path.join(".")
    }

    /// Whether it reads values that only admins see.
    #[must_use]
    pub fn reads_secrets(&self) -> bool {
        is_secret(&self.key())
    }

    /// Whether a VM, as operators see it, meets the condition.
    #[must_use]
    pub fn matches(&self, vm: &Map<String, Value>) -> bool {
        let Some((first, rest)) = self.path.split_first() else { return false };
        match vm.get(first) {
            Some(value) => self.holds(value, rest),
            // A missing value counts as empty.
            None => rest.is_empty() && self.is(""),
        }
    }

    fn holds(&self, value: &Value, path: &[String]) -> bool {
        let Some((first, rest)) = path.split_first() else { return self.is(&text(value)) };
        match value {
            Value::Array(items) if first == "*" => items.iter().any(|item| self.holds(item, rest)),
            Value::Array(items) => first
                .parse()
                .ok()
                .and_then(|index: usize| items.get(index))
                .is_some_and(|v| self.holds(v, rest)),
            // A key of metadata or of a tag may have dots in it.
            Value::Object(object) => object.get(&path.join(".")).map_or_else(
                || object.get(first).is_some_and(|value| self.holds(value, rest)),
                |value| self.is(&text(value)),
            ),
            _ => false,
        }
    }

    fn is(&self, found: &str) -> bool {
        match &self.wanted {
            Wanted::Text(wanted) => wanted == found,
            Wanted::Mac(wanted) => found.parse().is_ok_and(|mac: Mac| mac == *wanted),
            Wanted::Match(expression) => expression.is_match(found),
        }
    }
}

/// Whether a path like `disks.0.size` is valid.
#[must_use]
pub fn is_path(key: &str) -> bool {
    path(key).is_ok()
}

/// Returns the value at a path without `*`.
#[must_use]
pub fn get<'v>(vm: &'v Map<String, Value>, path: &str) -> Option<&'v Value> {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let mut value = vm.get(first)?;
    if let Value::Object(object) = value
        && !rest.is_empty()
    {
        return object.get(rest);
    }
    for part in rest.split('.').filter(|part| !part.is_empty()) {
        value = match value {
            Value::Array(items) => items.get(part.parse::<usize>().ok()?)?,
            Value::Object(object) => object.get(part)?,
            _ => return None,
        };
    }
    Some(value)
}

/// Whether a property of that kind can have this value.
fn may_be(kind: &Kind, value: &str) -> bool {
    match kind {
        Kind::Integer(..) => value.parse::<i64>().is_ok(),
        Kind::IntegerOr(.., words) => value.parse::<i64>().is_ok() || words.contains(&value),
        Kind::Boolean => ["true", "false"].contains(&value),
        Kind::Word(words) => words.contains(&value),
        Kind::Mac => value.parse::<Mac>().is_ok(),
        // Also what is none: programs ask for the VM of an empty answer.
        _ => true,
    }
}

fn allowed(kind: &Kind) -> String {
    match kind {
        Kind::Integer(..) => "give a whole number".to_owned(),
        Kind::IntegerOr(.., words) => format!("give a whole number or one of: {}", words.join(", ")),
        Kind::Boolean => "give one of: true, false".to_owned(),
        Kind::Word(words) => format!("give one of: {}", words.join(", ")),
        _ => "give an address like 02:08:20:ab:cd:ef".to_owned(),
    }
}

/// Returns the parts of a valid key, and the kind of its value.
fn path(key: &str) -> Result<(Vec<String>, &'static Kind), String> {
    let invalid = |hint: String| Err(format!("Invalid filter key: \"{key}\"{hint}"));
    let parts: Vec<String> = key.split('.').map(str::to_owned).collect();
    let names = || VM.iter().map(|property| property.name);
    let Some(property) = find(VM, &parts[0]) else { return invalid(closest(&parts[0], names())) };
    let kind = match (&property.kind, parts.as_slice()) {
        (kind @ Kind::FlatObject, [_, rest @ ..]) => {
            (!rest.is_empty() && rest.iter().all(|part| !part.is_empty())).then_some(kind)
        }
        (Kind::Objects(table), [_, index, name, rest @ ..]) if is_index(index) => {
            find(table, name).and_then(|inner| item(inner, rest))
        }
        (Kind::List(of, _), [_, index]) if is_index(index) => Some(*of),
        (Kind::Objects(_) | Kind::Secret(_), _) => None,
        (kind, [_]) => Some(kind),
        _ => None,
    };
    match kind {
        Some(kind) => Ok((parts, kind)),
        None => invalid(String::new()),
    }
}

fn item(property: &'static Property, rest: &[String]) -> Option<&'static Kind> {
    match (&property.kind, rest) {
        (kind, []) => Some(kind),
        (Kind::List(of, _), [index]) if is_index(index) => Some(*of),
        _ => None,
    }
}

fn is_index(text: &str) -> bool {
    text == "*" || (!text.is_empty() && text.len() <= 6 && text.bytes().all(|b| b.is_ascii_digit()))
}

/// Formats a value for filters and tables.
#[must_use]
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(|item| !item.is_object()) => {
            items.iter().map(text).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vm() -> Map<String, Value> {
        let vm = json!({"ram": 1024, "alias": "Web1", "autoboot": true, "state": "running",
            "disks": [{"size": 10}, {"size": 20, "media": "disk"}], "nics": [{"mac": "02:00:00:00:00:01", "ips": ["10.0.0.1/8"]}],
            "tags": {"a.b": "x", "role": "db", "n": 4}, "resolvers": ["1.1.1.1", "8.8.8.8"]});
        vm.as_object().unwrap().clone()
    }

    #[test]
    fn conditions() {
        for (filter, expected) in [
            ("ram=1024", true),
            ("ram=102", false),
            ("alias=Web1", true),
            ("alias=web1", false),
            ("alias=~^web", true),
            ("alias=~^eb", false),
            ("hostname=", true),
            ("alias=", false),
            ("autoboot=true", true),
            ("disks.0.size=10", true),
            ("disks.1.size=10", false),
            ("disks.*.size=20", true),
            ("disks.7.size=20", false),
            ("nics.*.mac=2:0:0:0:0:1", true),
            ("nics.0.ips.0=10.0.0.1/8", true),
            ("nics.0.ips.*=~^10\\.", true),
            ("tags.role=db", true),
            ("tags.a.b=x", true),
            ("tags.n=4", true),
            ("tags.none=", false),
            ("resolvers.*=8.8.8.8", true),
        ] {
            assert_eq!(Filter::parse(filter).unwrap().matches(&vm()), expected, "{filter}");
        }
    }

    #[test]
    fn what_is_no_filter() {
        for (filter, words) in [
            ("foo=1", "Invalid filter key: \"foo\""),
            ("rma=1", "did you mean \"ram\"?"),
            ("disks=1", "Invalid filter key"),
            ("disks.*=1", "Invalid filter key"),
            ("disks.x.size=1", "Invalid filter key"),
            ("disks.0.sise=1", "Invalid filter key"),
            ("tags=1", "Invalid filter key"),
            ("ram.0=1", "Invalid filter key"),
            ("vnc_password=x", "Invalid filter key"),
            ("state=nonsense", "stopped, starting, running"),
            ("ram=abc", "give a whole number"),
            ("disks.*.size=big", "give a whole number"),
            ("autoboot=yes", "true, false"),
            ("brand=linux", "kvm, bhyve"),
            ("nics.0.mac=x", "an address"),
            ("ram", "give ram=value"),
            ("alias=~(", "Invalid filter"),
            ("alias=~(a{1000}){1000}", "Invalid filter"),
        ] {
            let error = Filter::parse(filter).unwrap_err();
            assert!(error.contains(words), "{filter}: {error}");
        }
        Filter::parse(&format!("alias={}", "x".repeat(MAX_FILTER))).unwrap_err();
    }
}
