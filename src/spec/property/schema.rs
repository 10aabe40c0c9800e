//! The JSON schema of a machine JSON, made from the table.

use serde_json::{Map, Value, json};

use super::{Default, Given, Kind, Property, VM};

/// The schema of a payload for creation, and below `$defs/update` of one for updates.
#[must_use]
pub fn schema() -> Value {
    let mut schema = object(VM, |property| !matches!(property.given, Given::InUpdates));
    let update = object(VM, |property| matches!(property.given, Given::Always | Given::InUpdates));
    if let Value::Object(top) = &mut schema {
        top.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        top.insert("title".to_owned(), json!("A machine"));
        top.insert("required".to_owned(), json!(["brand"]));
        top.insert("$defs".to_owned(), json!({"update": update}));
    }
    schema
}

fn object(table: &[Property], wanted: impl Fn(&Property) -> bool) -> Value {
    let properties: Map<String, Value> = table
        .iter()
        .filter(|property| wanted(property))
        .map(|property| (property.name.to_owned(), described(property)))
        .collect();
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

fn described(property: &Property) -> Value {
    let mut schema = match of(&property.kind) {
        Value::Object(schema) => schema,
        _ => Map::new(),
    };
    schema.insert("description".to_owned(), json!(property.about));
    if let Default::Value(text) = property.default
        && let Ok(value) = serde_json::from_str::<Value>(text)
    {
        schema.insert("default".to_owned(), value);
    }
    if property.is_never_given() {
        schema.insert("readOnly".to_owned(), json!(true));
    }
    Value::Object(schema)
}

/// Numbers and flags may also come as text, and lists too; null is nothing.
fn of(kind: &Kind) -> Value {
    match kind {
        Kind::Integer(least, most, _) => {
            json!({"type": ["integer", "string", "null"], "minimum": least, "maximum": most})
        }
        Kind::IntegerOr(least, most, ..) => {
            json!({"type": ["integer", "string", "null"], "minimum": least, "maximum": most})
        }
        Kind::Boolean => json!({"enum": [true, false, "true", "false", 0, 1, "0", "1", "", null]}),
        Kind::Text(most) => json!({"type": ["string", "null"], "maxLength": most}),
        Kind::Secret(most) => json!({"type": ["string", "null"], "maxLength": most, "writeOnly": true}),
        Kind::Word(words) => {
            let mut words: Vec<Value> = words.iter().map(|word| json!(word)).collect();
            words.extend([json!(""), Value::Null]);
            json!({"enum": words})
        }
        Kind::Uuid => json!({"type": ["string", "null"], "format": "uuid"}),
        Kind::Mac | Kind::NicAddress | Kind::Form(_) => json!({"type": ["string", "null"]}),
        Kind::Ipv4 => json!({"type": ["string", "null"], "format": "ipv4"}),
        Kind::List(item, most) => json!({
            "anyOf": [
                {"type": "array", "items": of(item), "maxItems": most},
                {"type": ["string", "null"]},
            ]
        }),
        Kind::FlatObject => json!({
            "type": ["object", "null"],
            "additionalProperties": {"type": ["string", "number", "boolean"]},
        }),
        Kind::Objects(table) => json!({
            "type": ["array", "null"],
            "items": object(table, |property| !property.is_never_given() || property.name == "zfs_filesystem"),
        }),
    }
}
