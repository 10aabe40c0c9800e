//! What a disk holds is kept, or cut by who says so.

use serde_json::json;

use super::{change, create, disks};
use crate::support::{eventually, fields, simulated::Simulated};

/// A drive's own name finds its disk, and is not its path.
#[tokio::test]
async fn a_disk_that_is_named_by_its_drive_keeps_what_it_holds() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    for machine in [json!({"disks": disks(2)}), json!({"brand": "kvm", "disks": disks(2)})] {
        let vm = create(&mut clients, machine).await.unwrap();
        let before = vm.spec.unwrap().disks;
        let path = before[0].path.clone().unwrap();
        std::fs::write(&path, vec![7; 5 << 20]).unwrap();
        let boot = json!({"update_disks": [{"path": "drive0", "boot": true}]});
        let after = change(&mut clients, &vm.uuid, boot).await.unwrap();
        assert_eq!((&after["disks"][0]["path"], &after["disks"][0]["boot"]), (&json!(path), &json!(true)));
        assert_eq!(std::fs::read(&path).unwrap(), vec![7; 5 << 20]);
        let shrink = json!({"update_disks": [{"path": "drive0", "size": 2}]});
        assert_eq!(fields(&change(&mut clients, &vm.uuid, shrink).await.unwrap_err()), ["disks.0.size"]);
        clients.delete(&vm.uuid).await.unwrap();
    }
}

/// A disk is made with a UUID of its own, or with the given one, and keeps it.
#[tokio::test]
async fn a_disk_keeps_its_uuid() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let given = "11111111-2222-4333-8444-555555555555";
    let named = json!({"size": 5, "model": "virtio", "uuid": given});
    let vm = create(&mut clients, json!({"disks": [named, {"size": 5, "model": "virtio"}]})).await.unwrap();
    let made = vm.spec.unwrap().disks[1].uuid.clone().unwrap();
    assert_ne!(made, given);
    let path = agent.agent().vm(vm.uuid.parse().unwrap()).unwrap().spec.disks[1].path.clone();
    // The default of a slot or UUID that is taken away is given again.
    let reset =
        json!({"update_disks": [{"path": path, "boot": true, "pci_slot": null}], "add_disks": [{"size": 5}]});
    let after = change(&mut clients, &vm.uuid, reset).await.unwrap();
    assert_eq!((&after["disks"][0]["uuid"], &after["disks"][1]["uuid"]), (&json!(given), &json!(made)));
    assert_eq!(after["disks"][1]["pci_slot"], "0:4:1");
    assert!(after["disks"][2]["uuid"].is_string(), "{after}");
    let twice = json!({"update_disks": [{"path": path, "uuid": given}]});
    assert_eq!(fields(&change(&mut clients, &vm.uuid, twice).await.unwrap_err()), ["disks.1.uuid"]);
}

/// What a disk holds is cut only by who says so, and only once that is committed.
#[tokio::test]
async fn a_disk_shrinks_when_it_is_dangerously_allowed() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let vm = create(&mut clients, json!({"disks": disks(1)})).await.unwrap();
    let path = vm.spec.unwrap().disks[0].path.clone().unwrap();
    let size = || std::fs::metadata(&path).unwrap().len() >> 20;
    let shrink = |allowed: bool| json!({"update_disks": [{"path": path, "size": 2, "dangerous_allow_shrink": allowed}]});
    let status = change(&mut clients, &vm.uuid, shrink(false)).await.unwrap_err();
    assert_eq!(fields(&status), ["disks.0.size"], "D20: {status:?}");
    assert_eq!(size(), 5);
    let spec = change(&mut clients, &vm.uuid, shrink(true)).await.unwrap();
    assert_eq!(
        (&spec["disks"][0]["size"], spec["disks"][0].get("dangerous_allow_shrink")),
        (&json!(2), None)
    );
    eventually("it is cut", || std::future::ready((size() == 2).then_some(()))).await;
    // What nobody allowed to be lost is not.
    std::fs::File::options().write(true).open(&path).unwrap().set_len(5 << 20).unwrap();
    let status = clients.start(&vm.uuid).await.unwrap_err();
    assert!(status.message().contains("larger than the disk's size says"), "{status:?}");
    assert_eq!(size(), 5);
}
