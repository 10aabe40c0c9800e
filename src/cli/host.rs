//! `host`, `leaks`, `reclaim`, `drain`: the host itself.

use std::io::{self, IsTerminal as _};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Clients, error::CliError, look::pretty, print};
use crate::{
    client::pages,
    model,
    proto::{limits_from, restrictions_from, v1},
};

pub(super) async fn host(clients: &mut Clients) -> Result<(), CliError> {
    let host = clients.host.get_host(v1::GetHostRequest {}).await?.into_inner();
    let hypervisors: Vec<Value> = host
        .hypervisors
        .iter()
        .map(|hypervisor| {
            json!({
                "brand": hypervisor.brand,
                "description": hypervisor.description,
                "version": hypervisor.version,
                "accelerator": hypervisor.accelerator,
                "accelerator_reason": hypervisor.accelerator_reason,
                "machine_type": hypervisor.machine_types.last(),
            })
        })
        .collect();
    print(&pretty(&json!({
        "hostname": host.hostname,
        "version": host.version,
        "kernel": host.kernel,
        "cpus": host.cpus,
        "memory": host.memory,
        "zones_dir": host.zones_dir,
        "hypervisors": hypervisors,
        "restrictions": model::restrictions(&restrictions_from(&host.restrictions)),
        "limits": model::limits(&limits_from(&host.limits)),
        "capacity": host.capacity.iter().map(capacity).collect::<Map<_, _>>(),
    })))
}

/// `"ram": {"total": …, "limit": …, "promised": …}`
fn capacity(capacity: &v1::Capacity) -> (String, Value) {
    let v1::Capacity { total, limit, promised, .. } = capacity;
    (capacity.resource.clone(), json!({"total": total, "limit": limit, "promised": promised}))
}

/// Every nic tag, by name.
pub(super) async fn all_nic_tags(clients: &mut Clients) -> Result<Vec<v1::NicTag>, CliError> {
    let tags = pages::all(|page_token| {
        let mut host = clients.host.clone();
        async move { host.list_nic_tags(v1::ListNicTagsRequest { page_size: 0, page_token }).await }
    });
    Ok(tags.await?)
}

pub(super) async fn nic_tags(clients: &mut Clients, as_json: bool) -> Result<(), CliError> {
    let tags = all_nic_tags(clients).await?;
    let kind = |tag: &v1::NicTag| tag.kind().as_str_name().trim_start_matches("KIND_").to_lowercase();
    if as_json {
        let object = |tag: &v1::NicTag| {
            json!({"name": tag.name, "kind": kind(tag), "device": tag.device, "uplink": tag.uplink,
                "mtu": tag.mtu, "problem": tag.problem})
        };
        return print(&pretty(&tags.iter().map(object).collect::<Vec<_>>()));
    }
    let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let row = |cells: [&str; 6]| {
        let [name, kind, device, uplink, mtu, problem] = cells;
        format!("{name:<20}  {kind:<9}  {device:<15}  {uplink:<15}  {mtu:<5}  {problem}")
            .trim_end()
            .to_owned()
    };
    print(&row(["NAME", "KIND", "DEVICE", "UPLINK", "MTU", "PROBLEM"]))?;
    for tag in &tags {
        let mtu = tag.mtu.to_string();
        let (device, uplink, problem) = (dash(&tag.device), dash(&tag.uplink), dash(&tag.problem));
        print(&row([&tag.name, &kind(tag), &device, &uplink, &mtu, &problem]))?;
    }
    Ok(())
}

/// Most leaks in one call.
const MAX_IDS: usize = 1000;

async fn all_leaks(clients: &mut Clients) -> Result<Vec<v1::Leak>, CliError> {
    let leaks = pages::all(|page_token| {
        let mut host = clients.host.clone();
        async move { host.list_leaks(v1::ListLeaksRequest { page_size: 0, page_token }).await }
    });
    Ok(leaks.await?)
}

pub(super) async fn leaks(clients: &mut Clients, as_json: bool) -> Result<(), CliError> {
    let leaks = all_leaks(clients).await?;
    if as_json {
        let object = |leak: &v1::Leak| {
            json!({
                "id": leak.id,
                "kind": leak.kind().as_str_name().trim_start_matches("KIND_").to_lowercase(),
                "uuid": leak.uuid,
                "path": leak.path,
                "detail": leak.detail,
                "reclaimable": leak.reclaimable,
            })
        };
        return print(&pretty(&leaks.iter().map(object).collect::<Vec<_>>()));
    }
    if leaks.is_empty() {
        say!("No leaked VM resources found on this host");
    }
    for leak in leaks {
        print(&leak.id)?;
        let kept = if leak.reclaimable { "" } else { " (not reclaimable)" };
        say!("    {}{kept}", leak.detail);
    }
    Ok(())
}

pub(super) async fn reclaim(
    clients: &mut Clients,
    ids: &[String],
    all: bool,
    dry_run: bool,
) -> Result<(), CliError> {
    let ids = match all {
        true => all_leaks(clients)
            .await?
            .into_iter()
            .filter(|leak| leak.reclaimable)
            .map(|leak| leak.id)
            .collect(),
        false => ids.to_vec(),
    };
    if ids.is_empty() {
        if all {
            say!("There is nothing to reclaim");
            return Ok(());
        }
        return Err(CliError::usage("Give ids of leaks as `vmadm leaks` prints them, or --all"));
    }
    let mut kept = 0;
    for ids in ids.chunks(MAX_IDS) {
        let (ids, request_id) = (ids.to_vec(), Uuid::new_v4().to_string());
        let request = v1::ReclaimLeaksRequest { ids, validate_only: dry_run, request_id };
        for result in clients.host.reclaim_leaks(request).await?.into_inner().results {
            if result.reclaimed {
                say!("{} {}", if dry_run { "Would remove" } else { "Removed" }, result.id);
            } else {
                kept += 1;
                say!("Kept {}: {}", result.id, result.reason);
            }
        }
    }
    if kept > 0 { Err(CliError::quiet()) } else { Ok(()) }
}

pub(super) async fn drain(clients: &mut Clients, timeout: Option<u32>, end: bool) -> Result<(), CliError> {
    let timeout_seconds =
        timeout.map(|seconds| i32::try_from(seconds).unwrap_or(i32::MAX)).unwrap_or_default();
    let mut stream =
        clients.host.drain_host(v1::DrainHostRequest { timeout_seconds, end }).await?.into_inner();
    if end {
        say!("VMs may be started again");
        return Ok(());
    }
    let bar = if io::stderr().is_terminal() { ProgressBar::no_length() } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} guests are off  {elapsed}") {
        bar.set_style(style);
    }
    let (mut off, mut failed) = (0_u64, 0);
    while let Some(vm) = stream.message().await? {
        off += 1;
        bar.set_length(off + u64::try_from(vm.left).unwrap_or_default());
        bar.set_position(off);
        let name = if vm.alias.is_empty() { vm.uuid } else { format!("{} ({})", vm.uuid, vm.alias) };
        bar.suspend(|| match vm.reason.as_str() {
            "" => say!("Stopped VM {name}"),
            reason => say!("Unable to stop VM {name}: {reason}"),
        });
        failed += u32::from(!vm.reason.is_empty());
    }
    bar.finish_and_clear();
    if failed > 0 { Err(CliError::quiet()) } else { Ok(()) }
}
