//! `get`, `info`, `screenshot`, `schema`.

use std::path::Path;

use prost_types::{Struct, value::Kind};
use serde_json::{Map, Value, json};

use super::{Clients, error::CliError, machine, print};
use crate::proto::v1;

pub(super) fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

pub(super) async fn get(clients: &mut Clients, uuid: &str) -> Result<(), CliError> {
    let answer = clients.vms.get_vm(v1::GetVmRequest { uuid: uuid.to_owned() }).await?.into_inner();
    print(&pretty(&machine::machine(&answer.vm.unwrap_or_default())))
}

pub(super) async fn info(clients: &mut Clients, uuid: &str, types: &[String]) -> Result<(), CliError> {
    let split =
        |word: &String| word.split(',').filter(|t| !t.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let types = types.iter().flat_map(split).collect();
    let answer = clients.vms.get_vm_info(v1::GetVmInfoRequest { uuid: uuid.to_owned(), types }).await;
    let answer = answer.map_err(|status| {
        CliError::from(status).with_prefix(&format!("Unable to get VM info for VM {uuid}"))
    })?;
    print(&pretty(&object(answer.into_inner().info.unwrap_or_default())))
}

pub(super) async fn screenshot(clients: &mut Clients, uuid: &str, file: &Path) -> Result<(), CliError> {
    let answer = clients.vms.take_screenshot(v1::TakeScreenshotRequest { uuid: uuid.to_owned() }).await?;
    std::fs::write(file, answer.into_inner().png)
        .map_err(|error| CliError::failed(format!("{}: {error}", file.display())))?;
    say!("Saved the screen of VM {uuid} as {}", file.display());
    Ok(())
}

pub(super) async fn schema(clients: &mut Clients) -> Result<(), CliError> {
    let answer = clients.vms.get_vm_schema(v1::GetVmSchemaRequest {}).await?.into_inner();
    print(&pretty(&object(answer.schema.unwrap_or_default())))
}

/// A protobuf struct as JSON. Its numbers are doubles; whole ones are printed as such.
fn object(object: Struct) -> Map<String, Value> {
    object.fields.into_iter().map(|(key, value)| (key, json_value(value))).collect()
}

fn json_value(value: prost_types::Value) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => Value::Bool(flag),
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < 9e15 => {
            format!("{number:.0}").parse::<i64>().map_or(Value::Null, Value::from)
        }
        Some(Kind::NumberValue(number)) => json!(number),
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(json_value).collect(),
        Some(Kind::StructValue(nested)) => Value::Object(object(nested)),
    }
}
