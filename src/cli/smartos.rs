//! Commands of SmartOS beside vmadm that programs call: `nictagadm` and `sysinfo`, as far as a host here has what they
//! show. A link of that name to vmadm is that command.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

use serde_json::{Map, Value, json};

use super::{
    Clients,
    error::CliError,
    host::all_nic_tags,
    look::pretty,
    options::{NicTagAction, NicTagListOptions},
    print,
};
use crate::proto::v1;

/// `nictagadm list` is `vmadm nictagadm list`.
pub(super) fn by_name(mut words: Vec<OsString>) -> Vec<OsString> {
    let name = words.first().and_then(|word| Path::new(word).file_name()).unwrap_or_default().to_owned();
    if ["nictagadm", "sysinfo"].map(OsStr::new).contains(&name.as_os_str()) {
        words.insert(1, name);
    }
    words
}

pub(super) async fn nic_tags(clients: &mut Clients, action: &NicTagAction) -> Result<(), CliError> {
    let tags = all_nic_tags(clients).await?;
    match action {
        NicTagAction::List(options) => list(&tags, options),
        NicTagAction::Exists { names, list } => {
            let missing: Vec<_> =
                names.iter().filter(|name| !tags.iter().any(|tag| tag.name == **name)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            for name in missing.iter().filter(|_| *list) {
                say!("{name}");
            }
            Err(CliError::quiet())
        }
    }
}

/// Name, address, link and type, as nictagadm has them. A tag of this host has no address of its own.
fn list(tags: &[v1::NicTag], options: &NicTagListOptions) -> Result<(), CliError> {
    let is_stub =
        |tag: &v1::NicTag| matches!(tag.kind(), v1::nic_tag::Kind::Etherstub | v1::nic_tag::Kind::Isolated);
    let wanted = tags.iter().filter(|tag| !(options.no_stubs && is_stub(tag)));
    let wanted = wanted.filter(|tag| !options.stubs || is_stub(tag));
    let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    if !options.parsable {
        print("NAME           MACADDRESS         LINK           TYPE")?;
    }
    for tag in wanted {
        let link = dash(if tag.uplink.is_empty() { &tag.device } else { &tag.uplink });
        let kind = if is_stub(tag) { "etherstub" } else { "normal" };
        let cells = [tag.name.as_str(), "-", &link, kind];
        print(&match options.parsable {
            true => cells.join(&options.delimiter),
            false => format!("{:<14} {:<18} {:<14} {}", cells[0], cells[1], cells[2], cells[3]),
        })?;
    }
    Ok(())
}

/// The facts about the host that programs read, by the names of SmartOS's sysinfo.
pub(super) async fn sysinfo(clients: &mut Clients) -> Result<(), CliError> {
    let host = clients.host.get_host(v1::GetHostRequest {}).await?.into_inner();
    let accelerator = host.hypervisors.first().map(|hypervisor| hypervisor.accelerator.as_str());
    let tags = all_nic_tags(clients).await?;
    let interfaces: Map<String, Value> = tags
        .iter()
        .filter(|tag| !tag.device.is_empty())
        .map(|tag| (tag.device.clone(), json!({"NIC Names": [tag.name], "Link Status": if tag.problem.is_empty() { "up" } else { "down" }})))
        .collect();
    print(&pretty(&json!({
        "Hostname": host.hostname,
        "UUID": host.server_uuid,
        "System Type": "Linux",
        "Live Image": host.kernel,
        "SDC Version": host.version,
        "Datacenter Name": "",
        "Manufacturer": "",
        "Product": "",
        "VM Capable": !host.hypervisors.is_empty(),
        "Bhyve Capable": host.hypervisors.iter().any(|hypervisor| hypervisor.brand == "bhyve"),
        "CPU Virtualization": if accelerator == Some("kvm") { "kvm" } else { "none" },
        "CPU Total Cores": host.cpus,
        "MiB of Memory": host.memory.to_string(),
        "Zpool": "",
        "Network Interfaces": interfaces,
    })))
}
