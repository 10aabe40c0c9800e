//! Disks, interfaces and etags are who they are for life.

use zoneward::proto::v1;

use super::support::{Clients, disk, machine, reason, simulated::Simulated};

async fn paths(clients: &mut Clients, uuid: &str) -> Vec<String> {
    let disks = clients.get(uuid).await.unwrap().spec.unwrap().disks;
    disks.into_iter().map(|disk| disk.path.unwrap()).collect()
}

fn update(uuid: &str, add: Vec<v1::DiskSpec>, remove: Vec<String>) -> v1::UpdateVmRequest {
    v1::UpdateVmRequest { uuid: uuid.to_owned(), add_disks: add, remove_disks: remove, ..Default::default() }
}

/// Whatever stands before it in the list.
#[tokio::test]
async fn the_file_that_is_made_is_the_records() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let cd = v1::DiskSpec {
        media: Some("cdrom".into()),
        path: Some("/tiny.iso".into()),
        model: Some("ide".into()),
        ..Default::default()
    };
    let own = v1::DiskSpec { boot: Some(true), ..disk(16) };
    let uuid = clients.create(v1::VmSpec { disks: vec![cd, own], ..machine() }).await;
    let paths = paths(&mut clients, &uuid).await;
    assert_eq!(paths[0], "/tiny.iso");
    assert!(paths[1].ends_with("/disk0"), "{paths:?}");
    assert_eq!(std::fs::metadata(&paths[1]).unwrap().len(), 16 << 20);
    let made = std::fs::read_dir(agent.zonepath(&uuid)).unwrap().flatten();
    let made = made.filter(|file| file.file_name().to_string_lossy().starts_with("disk"));
    assert_eq!(made.count(), 1);
}

/// One that takes another's place has nothing of it.
#[tokio::test]
async fn a_disk_in_anothers_place_is_empty() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(v1::VmSpec { disks: vec![disk(1)], ..machine() }).await;
    let old = paths(&mut clients, &uuid).await.remove(0);
    std::fs::write(&old, b"secret").unwrap();
    clients.vms.update_vm(update(&uuid, vec![disk(1)], vec![old.clone()])).await.unwrap();
    let new = paths(&mut clients, &uuid).await.remove(0);
    let content = std::fs::read(&new).unwrap();
    assert_eq!(content.len(), 1 << 20);
    assert!(content.iter().all(|byte| *byte == 0), "{new}");
    assert!(new == old || !std::path::Path::new(&old).exists());
}

/// Names stay when one in the middle goes, and an update can't leave the VM's folder.
#[tokio::test]
async fn names_are_for_life_and_inside_the_folder() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(v1::VmSpec { disks: vec![disk(1), disk(2), disk(3)], ..machine() }).await;
    let before = paths(&mut clients, &uuid).await;
    clients.vms.update_vm(update(&uuid, Vec::new(), vec![before[1].clone()])).await.unwrap();
    assert_eq!(paths(&mut clients, &uuid).await, [before[0].clone(), before[2].clone()]);
    let outside = agent.dir.path().join("guest.raw");
    let path = Some(outside.display().to_string());
    let status = clients
        .vms
        .update_vm(update(&uuid, vec![v1::DiskSpec { path, ..disk(1) }], Vec::new()))
        .await
        .unwrap_err();
    assert_eq!(super::support::fields(&status), ["add_disks.0.path"]);
    assert!(!outside.exists());
}

/// An etag belongs to one life.
#[tokio::test]
async fn an_etag_of_a_former_life_matches_nothing() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let id = "b8ab5fc1-8576-45ef-bb51-9826b52a4651";
    let spec = v1::VmSpec { uuid: Some(id.to_owned()), ..machine() };
    clients.create(spec.clone()).await;
    let former = clients.get(id).await.unwrap().etag;
    clients.delete(id).await.unwrap();
    clients.create(spec).await;
    assert_ne!(clients.get(id).await.unwrap().etag, former);
    let request = v1::DeleteVmRequest { uuid: id.to_owned(), etag: former, ..Default::default() };
    assert_eq!(reason(&clients.vms.delete_vm(request).await.unwrap_err()), "ETAG_MISMATCH");
}

/// An image of another program's that is attached raw is no mistake, and worth saying.
#[tokio::test]
async fn a_container_that_is_attached_raw_is_told() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let root = agent.zonepath(&uuid).join("root");
    std::fs::write(root.join("a.qcow2"), b"QFI\xfb and more").unwrap();
    std::fs::write(root.join("b.raw"), b"raw and more").unwrap();
    let add = |path: &str| v1::DiskSpec {
        nocreate: Some(true),
        path: Some(path.to_owned()),
        model: Some("virtio".into()),
        ..Default::default()
    };
    let request = update(&uuid, vec![add("/a.qcow2"), add("/b.raw")], Vec::new());
    let notes = clients.vms.update_vm(request).await.unwrap().into_inner().notes;
    assert_eq!(notes.iter().map(|note| note.field.as_str()).collect::<Vec<_>>(), ["disks.0.path"]);
}
