//! Updates that say again what is so, and machines that are sent back whole.

use serde_json::{Value, json};
use zoneward::proto::v1;

use super::{
    support::{disk, fields, machine, simulated::Simulated},
    update::update,
};

fn nic(mac: &str) -> v1::NicSpec {
    v1::NicSpec {
        nic_tag: Some("admin".into()),
        model: Some("virtio".into()),
        mac: Some(mac.into()),
        ip: Some("dhcp".into()),
        ..Default::default()
    }
}

#[tokio::test]
async fn what_is_so_may_be_said_again() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let spec = v1::VmSpec { disks: vec![disk(5)], nics: vec![nic("02:00:00:00:00:01")], ..machine() };
    let uuid = clients.create(v1::VmSpec { zpool: Some("zones".into()), ..spec }).await;
    // As node-vmadm does.
    update(&mut clients, &uuid, json!({"uuid": uuid, "brand": "kvm", "quota": 11})).await.unwrap();
    let before = clients.get(&uuid).await.unwrap();
    let whole = v1::UpdateVmRequest {
        uuid: uuid.clone(),
        vm: before.spec.clone().map(Box::new),
        ..Default::default()
    };
    let same = clients.vms.update_vm(whole.clone()).await.unwrap().into_inner();
    assert_eq!((same.changes, same.vm), (vec![], Some(before.clone())));
    for (name, wrong) in [
        ("uuid", json!("b8ab5fc1-8576-45ef-bb51-9826b52a4651")),
        ("brand", json!("bhyve")),
        ("zpool", json!("other")),
        ("disks", json!([])),
        ("nics", json!([{"nic_tag": "admin", "mac": "02:00:00:00:00:02", "model": "virtio"}])),
        ("tags", json!({"a": 1})),
    ] {
        let status = update(&mut clients, &uuid, json!({name: wrong, "quota": 12})).await.unwrap_err();
        assert_eq!(fields(&status), [name]);
    }
    assert_eq!(clients.get(&uuid).await.unwrap(), before, "all or nothing");
}

/// A machine as it is to be: items are matched by path and mac, not by their place.
#[tokio::test]
async fn whole_lists_are_compared_and_applied() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let nics = ["02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"].map(nic).to_vec();
    let uuid = clients.create(v1::VmSpec { disks: vec![disk(5), disk(6)], nics, ..machine() }).await;
    update(&mut clients, &uuid, json!({"set_tags": {"keep": 1, "go": 2}})).await.unwrap();
    let before = clients.get(&uuid).await.unwrap();
    let mut spec = before.spec.clone().unwrap();
    let kept = spec.disks[1].path.clone();
    // The first of each goes, the second changes, and another comes.
    spec.disks.remove(0);
    spec.disks[0].size = Some(9);
    spec.disks.push(disk(7));
    spec.nics.remove(0);
    spec.nics[0].allow_ip_spoofing = Some(true);
    spec.nics.push(nic("02:00:00:00:00:04"));
    spec.tags.as_mut().unwrap().fields.remove("go");
    spec.ram = Some(300);
    let request = v1::UpdateVmRequest {
        uuid: uuid.clone(),
        vm: Some(Box::new(spec)),
        replace_lists: true,
        ..Default::default()
    };
    let planned = v1::UpdateVmRequest { validate_only: true, ..request.clone() };
    let planned = clients.vms.update_vm(planned).await.unwrap().into_inner();
    assert_eq!(clients.get(&uuid).await.unwrap(), before, "only looked at");
    let done = clients.vms.update_vm(request.clone()).await.unwrap().into_inner();
    assert_eq!(done.changes.len(), planned.changes.len());
    let after = clients.get(&uuid).await.unwrap().spec.unwrap();
    let sizes: Vec<_> = after.disks.iter().map(|disk| disk.size.unwrap()).collect();
    assert_eq!((sizes, after.disks[0].path.clone()), (vec![9, 7], kept));
    let macs: Vec<_> = after.nics.iter().map(|nic| nic.mac.clone().unwrap()).collect();
    assert_eq!(macs, ["02:00:00:00:00:02", "02:00:00:00:00:03", "02:00:00:00:00:04"]);
    assert_eq!(after.nics[0].allow_ip_spoofing, Some(true));
    assert_eq!(after.tags.unwrap().fields.keys().collect::<Vec<_>>(), ["keep"]);
    // Once it is so, the same request with what the agent filled in changes nothing.
    let spec = clients.get(&uuid).await.unwrap().spec.unwrap();
    let again = v1::UpdateVmRequest { vm: Some(Box::new(spec)), ..request };
    assert_eq!(clients.vms.update_vm(again).await.unwrap().into_inner().changes, []);
}

/// An interface that goes is one change, and those behind it are what they were.
#[tokio::test]
async fn changes_of_items_follow_the_item() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let nics = ["02:00:00:00:00:01", "02:00:00:00:00:02"].map(nic).to_vec();
    let uuid = clients.create(v1::VmSpec { nics, ..machine() }).await;
    let payload = json!({"remove_nics": ["02:00:00:00:00:01"],
        "update_nics": [{"mac": "02:00:00:00:00:02", "allow_mac_spoofing": true}]});
    let changes = update(&mut clients, &uuid, payload).await.unwrap().changes;
    let mut paths: Vec<_> = changes.iter().map(|change| change.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["nics.0", "nics.0.allow_mac_spoofing", "nics.0.primary"]);
    let gone = changes.iter().find(|change| change.path == "nics.0").unwrap();
    let old: Value = serde_json::from_str(&gone.old_value).unwrap();
    assert_eq!((old["mac"].as_str(), gone.new_value.as_str()), (Some("02:00:00:00:00:01"), ""));
}
