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
