//! Two QEMUs, one after the other: a machine stays as it was made, or says why it can't.

use serde_json::{Value, json};
use tonic::Code;
use zoneward::proto::v1;

use super::support::{
    machine,
    net::Guest,
    real::{Real, guest, with_newer_qemu},
};

fn get(agent: &Real, uuid: &str, name: &str) -> String {
    let vm: Value = serde_json::from_str(&agent.vmadm_ok(&["get", uuid]).0).unwrap();
    vm[name].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_machine_outlives_its_qemu_in_both_directions() {
    let Some(newer) = with_newer_qemu() else { return };
    let mut agent = Real::start().await;
    let iso = [guest().join("tiny.iso")];
    let disks = json!([{"size": 20, "model": "virtio"}]);
    let bhyve = json!({"brand": "bhyve", "bootrom": "uefi", "disks": disks});
    let mut old = Guest::boot_from(&agent, bhyve, &iso, &[]).await;
    assert_eq!(get(&agent, &old.uuid, "machine_type"), "pc-q35-7.2");
    assert!(get(&agent, &old.uuid, "hypervisor").starts_with("QEMU 7.2"));

    // The newer QEMU is installed while it runs.
    agent.terminate();
    agent.wrap(newer);
    agent.resume().await;
    old.reconnect(&agent).await;
    assert!(get(&agent, &old.uuid, "hypervisor").starts_with("QEMU 7.2"), "what runs is what was started");
    agent.vmadm_ok(&["stop", "-F", &old.uuid]);
    agent.vmadm_ok(&["boot", &old.uuid, "order=d", "cdrom=/tiny.iso,ahci"]);
    old.until("GUEST: ready").await;
    assert_eq!(get(&agent, &old.uuid, "machine_type"), "pc-q35-7.2");
    assert!(get(&agent, &old.uuid, "hypervisor").starts_with("QEMU 10."), "{}", agent.log());
    agent.vmadm_ok(&["stop", "-F", &old.uuid]);

    let mut clients = agent.clients().await;
    let new = clients.create(machine()).await;
    assert_eq!(get(&agent, &new, "machine_type"), "pc-i440fx-10.0");
    agent.terminate();
    agent.wrap(Vec::new());
    agent.resume().await;
    let mut clients = agent.clients().await;
    let status = clients.start(&new).await.unwrap_err();
    let said = status.message();
    assert_eq!(status.code(), Code::FailedPrecondition, "{said}");
    assert!(
        said.contains("has no machine \"pc-i440fx-10.0\"")
            && said.contains("vmadm update UUID machine_type="),
        "{said}"
    );
    assert_eq!(clients.state(&new).await, v1::VmState::Stopped);
    // Another change is not in the way of that, and none makes it worse.
    agent.vmadm_ok(&["update", &new, "alias=moved"]);
    let refused = agent.vmadm(&["update", &new, "machine_type=pc-i440fx-10.1"]);
    assert_eq!(refused.status.code(), Some(1));
    agent.vmadm_ok(&["update", &new, "machine_type=pc-i440fx-7.2"]);
    clients.start(&new).await.unwrap();
    clients.stop(&new, true).await.unwrap();
}
