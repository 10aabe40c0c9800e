//! Disks that begin as images.

use std::{fs, os::unix::fs::FileExt as _};

use serde_json::json;
use zoneward::proto::v1;

use super::{
    super::support::{Clients, disk as empty_disk, fields, machine, metadata, reason, simulated::Simulated},
    delete, disk, header, import, left, manifest, uuid,
};

fn of_image(number: u32) -> v1::DiskSpec {
    v1::DiskSpec { image_uuid: Some(uuid(number)), ..Default::default() }
}

async fn with_image() -> (Simulated, Clients) {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let raw = disk();
    import(&mut clients, header(1, &raw), &raw).await.unwrap();
    (agent, clients)
}

/// What a guest would read of a disk: of an overlay, the image below it.
fn content(agent: &Simulated, vm: &v1::Vm, index: usize) -> Vec<u8> {
    let path = vm.spec.as_ref().unwrap().disks[index].path.clone().unwrap();
    let form = &vm.status.as_ref().unwrap().disks[0].form;
    match form.as_str() {
        "reflink" => fs::read(path).unwrap(),
        "overlay" => {
            let mut magic = [0; 4];
            fs::File::open(path).unwrap().read_exact_at(&mut magic, 0).unwrap();
            assert_eq!(&magic, b"QFI\xfb");
            fs::read(agent.config.zones_dir.join("images").join(uuid(1)).join("disk")).unwrap()
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_disk_begins_as_its_image_and_the_image_stays() {
    let (agent, mut clients) = with_image().await;
    let vm = v1::VmSpec { disks: vec![of_image(1), empty_disk(5)], ..machine() };
    let created = clients.create(vm.clone()).await;
    let found = clients.get(&created).await.unwrap();
    let spec = found.spec.as_ref().unwrap();
    assert_eq!((spec.disks[0].size, spec.disks[0].image_size), (Some(3), Some(3)), "the image's");
    assert_eq!(spec.disks[0].image_uuid, Some(uuid(1)));
    let status = &found.status.as_ref().unwrap().disks;
    assert_eq!((status.len(), status[0].image_uuid.as_str()), (1, uuid(1).as_str()));
    assert!(content(&agent, &found, 0) == disk());
    clients.start(&created).await.unwrap();

    let used = delete(&mut clients, &uuid(1)).await.unwrap_err();
    assert_eq!((reason(&used).as_str(), metadata(&used, "vms")), ("IMAGE_IN_USE", created.clone()));
    assert!(used.message().contains(&created));
    let image = super::get(&mut clients, &uuid(1)).await.unwrap();
    assert_eq!(image.vms, std::slice::from_ref(&created));
    // What a get gives makes another like it.
    let again = v1::VmSpec { uuid: None, hostname: None, nics: vec![], ..spec.clone() };
    let disks = vec![v1::DiskSpec { path: None, uuid: None, ..spec.disks[0].clone() }];
    let second = clients.create(v1::VmSpec { disks, vnc_port: None, ..again }).await;
    clients.delete(&created).await.unwrap();
    assert_eq!(reason(&delete(&mut clients, &uuid(1)).await.unwrap_err()), "IMAGE_IN_USE");
    clients.delete(&second).await.unwrap();
    delete(&mut clients, &uuid(1)).await.unwrap();
    assert_eq!(left(&agent), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn the_rules_of_sizes_are_the_references() {
    let (_agent, mut clients) = with_image().await;
    let size = |image_size, size| v1::DiskSpec { image_size, size, ..of_image(1) };
    let vm = |disk: v1::DiskSpec| v1::VmSpec { disks: vec![disk], ..machine() };
    let flexible =
        |disk: v1::DiskSpec| v1::VmSpec { brand: "bhyve".into(), flexible_disk_size: Some(100), ..vm(disk) };
    for (vm, field) in [
        (vm(size(Some(4), None)), "disks.0.image_size"),
        (vm(size(None, Some(5))), "disks.0.size"),
        (vm(size(Some(3), Some(2))), "disks.0.size"),
        (flexible(size(Some(3), Some(2))), "disks.0.size"),
        (vm(of_image(9)), "disks.0.image_uuid"),
        (vm(v1::DiskSpec { block_size: Some(4096), ..of_image(1) }), "disks.0.block_size"),
        (
            vm(v1::DiskSpec { image_uuid: None, image_size: Some(3), size: Some(3), ..Default::default() }),
            "disks.0.image_size",
        ),
    ] {
        let request = v1::ValidateVmRequest { vm: Some(Box::new(vm.clone())), ..Default::default() };
        let said = clients.vms.validate_vm(request).await.unwrap().into_inner().violations;
        let said: Vec<_> = said.into_iter().map(|violation| violation.field).collect();
        assert_eq!(said, [field]);
        let request = v1::CreateVmRequest { vm: Some(vm), ..Default::default() };
        assert_eq!(fields(&clients.vms.create_vm(request).await.unwrap_err()), [field]);
    }
    for vm in [vm(size(Some(3), None)), vm(size(Some(3), Some(3))), vm(of_image(1))] {
        clients.create(vm).await;
    }
    let larger = clients.create(flexible(size(None, Some(10)))).await;
    let disk = clients.get(&larger).await.unwrap().spec.unwrap().disks[0].clone();
    assert_eq!((disk.size, disk.image_size), (Some(10), Some(3)));
}

#[tokio::test]
async fn requirements_of_an_image_are_met_or_told() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let raw = disk();
    let needs = json!({"brand": "bhyve", "min_ram": 512});
    let described = manifest(json!({"name": "a", "requirements": needs, "disk_driver": "nvme"}));
    let asked = v1::ImportImageHeader { manifest: described, ..header(1, &raw) };
    import(&mut clients, asked, &raw).await.unwrap();
    let vm = |brand: &str, ram| v1::VmSpec {
        brand: brand.into(),
        ram: Some(ram),
        disks: vec![of_image(1)],
        ..machine()
    };
    for wrong in [vm("kvm", 512), vm("bhyve", 511)] {
        let request = v1::CreateVmRequest { vm: Some(wrong), ..Default::default() };
        assert_eq!(fields(&clients.vms.create_vm(request).await.unwrap_err()), ["disks.0.image_uuid"]);
    }
    let right = clients.create(vm("bhyve", 512)).await;
    let disk = clients.get(&right).await.unwrap().spec.unwrap().disks[0].clone();
    assert_eq!(disk.model.as_deref(), Some("nvme"), "the image's driver");
}

#[tokio::test]
async fn an_update_adds_a_disk_from_an_image_and_removes_it() {
    let (_agent, mut clients) = with_image().await;
    let created = clients.create(machine()).await;
    let request = |request: v1::UpdateVmRequest| v1::UpdateVmRequest { uuid: created.clone(), ..request };
    let add = |disk| request(v1::UpdateVmRequest { add_disks: vec![disk], ..Default::default() });
    let unknown = clients.vms.update_vm(add(of_image(9))).await.unwrap_err();
    assert_eq!(fields(&unknown), ["disks.0.image_uuid"]);
    clients.vms.update_vm(add(of_image(1))).await.unwrap();
    let found = clients.get(&created).await.unwrap();
    let disk = found.spec.unwrap().disks[0].clone();
    assert_eq!((disk.size, found.status.unwrap().disks.len()), (Some(3), 1));
    let path = disk.path.unwrap();
    let form = &clients.get(&created).await.unwrap().status.unwrap().disks[0].form;
    if form == "overlay" {
        let larger = v1::DiskSpec { path: Some(path.clone()), size: Some(9), ..Default::default() };
        let grow = v1::DiskUpdate { disk: Some(larger), ..Default::default() };
        let grow = request(v1::UpdateVmRequest { update_disks: vec![grow], ..Default::default() });
        let refused = clients.vms.update_vm(grow).await.unwrap_err();
        assert_eq!(fields(&refused), ["disks.0.size"]);
    }
    assert_eq!(reason(&delete(&mut clients, &uuid(1)).await.unwrap_err()), "IMAGE_IN_USE");
    let remove = request(v1::UpdateVmRequest { remove_disks: vec![path.clone()], ..Default::default() });
    clients.vms.update_vm(remove).await.unwrap();
    assert!(!std::path::Path::new(&path).exists());
    delete(&mut clients, &uuid(1)).await.unwrap();
}
