//! Messages as JSON and back, by the contract's own descriptors: a machine JSON is the JSON form of a
//! `VmSpec`, so nothing has to be written twice.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, ReflectMessage as _, SerializeOptions,
};
use serde_json::{Map, Value};

use super::DESCRIPTORS;

static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).ok());

fn empty(name: &str) -> Result<DynamicMessage, String> {
    let pool = POOL.as_ref().ok_or("the contract can't be read")?;
    let descriptor = pool.get_message_by_name(name).ok_or_else(|| format!("there is no message {name}"))?;
    Ok(DynamicMessage::new(descriptor))
}

/// Converts a message of that name to a JSON object with the contract's field names. Omits non-`optional`
/// fields with default values.
pub(super) fn to_json(name: &str, message: &impl Message) -> Result<Map<String, Value>, String> {
    let mut dynamic = empty(name)?;
    dynamic.transcode_from(message).map_err(|error| error.to_string())?;
    let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);
    match dynamic.serialize_with_options(serde_json::value::Serializer, &options) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(format!("{name} is not an object")),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads a JSON object as a message of that name.
pub(super) fn from_json<M: Message + Default>(name: &str, object: Map<String, Value>) -> Result<M, String> {
    let descriptor = empty(name)?.descriptor();
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let dynamic = DynamicMessage::deserialize_with_options(descriptor, Value::Object(object), &options)
        .map_err(|error| error.to_string())?;
    dynamic.transcode_to().map_err(|error| error.to_string())
}
