//! `get`, `info`, `screenshot`, `schema`.

use std::path::Path;

use super::{Clients, error::CliError, machine, print};
use crate::proto::{struct_to_json, v1};

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
    print(&pretty(&struct_to_json(answer.into_inner().info.unwrap_or_default())))
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
    print(&pretty(&struct_to_json(answer.schema.unwrap_or_default())))
}
