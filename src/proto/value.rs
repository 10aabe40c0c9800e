//! Small values, violations and notes.

use prost_types::{Struct, Value, value::Kind as JsonKind};

use super::v1;
use crate::spec::{Kind, Note, Violation};

/// JSON as a protobuf struct.
pub(crate) fn json_to_struct(object: serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: object.into_iter().map(|(key, value)| (key, json_to_value(value))).collect() }
}

fn json_to_value(value: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match value {
        Json::Null => JsonKind::NullValue(0),
        Json::Bool(flag) => JsonKind::BoolValue(flag),
        Json::Number(number) => JsonKind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => JsonKind::StringValue(text),
        Json::Array(items) => JsonKind::ListValue(prost_types::ListValue {
            values: items.into_iter().map(json_to_value).collect(),
        }),
        Json::Object(object) => JsonKind::StructValue(json_to_struct(object)),
    };
    Value { kind: Some(kind) }
}

/// A protobuf struct as JSON. Its numbers are doubles; whole ones are written as such.
pub(crate) fn struct_to_json(object: Struct) -> serde_json::Map<String, serde_json::Value> {
    object.fields.into_iter().map(|(key, value)| (key, value_to_json(value))).collect()
}

fn value_to_json(value: Value) -> serde_json::Value {
    use serde_json::Value as Json;
    match value.kind {
        None | Some(JsonKind::NullValue(_)) => Json::Null,
        Some(JsonKind::BoolValue(flag)) => Json::Bool(flag),
        Some(JsonKind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < 9e15 => {
            format!("{number:.0}").parse::<i64>().map_or(Json::Null, Json::from)
        }
        Some(JsonKind::NumberValue(number)) => serde_json::json!(number),
        Some(JsonKind::StringValue(text)) => Json::String(text),
        Some(JsonKind::ListValue(list)) => list.values.into_iter().map(value_to_json).collect(),
        Some(JsonKind::StructValue(nested)) => Json::Object(struct_to_json(nested)),
    }
}

pub(crate) fn violation(violation: Violation) -> v1::Violation {
    let kind = match violation.kind {
        Kind::BadValue => v1::violation::Kind::BadValue,
        Kind::BadProperty => v1::violation::Kind::BadProperty,
        Kind::MissingProperty => v1::violation::Kind::MissingProperty,
    };
    v1::Violation { field: violation.field, description: violation.message, kind: kind.into() }
}

pub(crate) fn note(note: Note) -> v1::Note {
    v1::Note { field: note.field, message: note.message }
}

/// A count of bytes or microseconds; none comes near the limit.
pub(crate) fn offset(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
