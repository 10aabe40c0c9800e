//! VMs come to be whole or not at all.

use tonic::Code;
use zoneward::proto::v1;

use super::support::{disk, fields, machine, reason, simulated::Simulated};

fn request(vm: v1::VmSpec) -> v1::CreateVmRequest {
    v1::CreateVmRequest { vm: Some(vm), ..Default::default() }
}

/// Each field of the spec comes back as it was given: none is ignored.
#[tokio::test]
async fn every_field_is_kept() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let text =
        |text: &str| prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text.into())) };
    let object = |key: &str| Some(prost_types::Struct { fields: [(key.to_owned(), text("v"))].into() });
    let given = v1::VmSpec {
        uuid: Some("b8ab5fc1-8576-45ef-bb51-9826b52a4651".into()),
        brand: "kvm".into(),
        alias: Some("web1 öÖ".into()),
        hostname: Some("web1.example".into()),
        ram: Some(2048),
        vcpus: Some(3),
        autoboot: Some(false),
        resolvers: vec!["10.0.0.2".into(), "::1".into()],
        disks: vec![
            v1::DiskSpec { boot: Some(true), model: Some("scsi".into()), ..disk(7) },
            v1::DiskSpec {
                media: Some("cdrom".into()),
                path: Some("/a.iso".into()),
                model: Some("ide".into()),
                ..Default::default()
            },
            v1::DiskSpec {
                nocreate: Some(true),
                path: Some("/b.raw".into()),
                model: Some("virtio".into()),
                ..Default::default()
            },
        ],
        nics: vec![v1::NicSpec {
            nic_tag: Some("admin".into()),
            model: Some("e1000".into()),
            mac: Some("02:08:20:00:00:01".into()),
            ip: Some("10.88.88.51".into()),
            netmask: Some("255.255.255.0".into()),
            gateway: Some("10.88.88.1".into()),
            primary: Some(true),
        }],
        customer_metadata: object("c"),
        internal_metadata: object("i"),
        tags: object("t"),
        bootrom: Some("uefi".into()),
        vnc_port: Some(-1),
        cpu_cap: Some(150),
        cpu_shares: Some(50),
        max_physical_memory: Some(4096),
        max_locked_memory: Some(3000),
        max_swap: Some(5000),
        max_lwps: Some(333),
        zfs_io_priority: Some(7),
    };
    let uuid = clients.create(given.clone()).await;
    let mut kept = clients.get(&uuid).await.unwrap().spec.unwrap();
    let zonepath = agent.zonepath(&uuid);
    assert_eq!(kept.disks[0].path.take().unwrap(), zonepath.join("disk0.raw").display().to_string());
    kept.disks[0].media = None;
    kept.disks[2].media = None;
    assert_eq!(kept, given);
    assert_eq!(zonepath.join("disk0.raw").metadata().unwrap().len(), 7 << 20);
    assert!(!zonepath.join("disk1.raw").exists(), "a CD is not made");
    assert!(!zonepath.join("disk2.raw").exists(), "nocreate");
    let json = std::fs::read_to_string(zonepath.join("vm.json")).unwrap();
    assert!(json.contains("web1.example"), "for people: {json}");
}

#[tokio::test]
async fn every_violation_is_told_and_nothing_is_made() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let bad = v1::VmSpec {
        ram: Some(-1),
        disks: vec![disk(-5), v1::DiskSpec::default()],
        nics: vec![v1::NicSpec { ip: Some("10.0.0.1".into()), ..Default::default() }],
        ..machine()
    };
    let status = clients.vms.create_vm(request(bad.clone())).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_MACHINE"));
    let expected =
        ["ram", "disks.0.size", "disks.1.size", "nics.0.nic_tag", "nics.0.model", "nics.0.netmask"];
    assert_eq!(fields(&status), expected);

    let validated =
        clients.vms.validate_vm(v1::ValidateVmRequest { vm: Some(bad) }).await.unwrap().into_inner();
    let found: Vec<String> = validated.violations.into_iter().map(|v| v.field).collect();
    assert_eq!(found, expected, "validate finds what create finds");
    assert!(clients.journal().await.is_empty());
    assert_eq!(std::fs::read_dir(&agent.config.zones_dir).unwrap().count(), 0);
}

#[tokio::test]
async fn unknown_brand_missing_vm_and_bad_uuid() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let status =
        clients.vms.create_vm(request(v1::VmSpec { brand: "xen".into(), ..machine() })).await.unwrap_err();
    assert_eq!(fields(&status), ["brand"]);
    let status = clients.vms.create_vm(v1::CreateVmRequest::default()).await.unwrap_err();
    assert_eq!(fields(&status), ["vm"]);
    let upper = v1::VmSpec { uuid: Some("B8AB5FC1-8576-45EF-BB51-9826B52A4651".into()), ..machine() };
    assert_eq!(fields(&clients.vms.create_vm(request(upper)).await.unwrap_err()), ["uuid"]);
    let status =
        clients.vms.create_vm(request(v1::VmSpec { brand: "bhyve".into(), ..machine() })).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unimplemented, "CAPABILITY_MISSING"));
}

#[tokio::test]
async fn a_uuid_is_taken_once() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let vm = v1::VmSpec { uuid: Some("b8ab5fc1-8576-45ef-bb51-9826b52a4651".into()), ..machine() };
    clients.create(vm.clone()).await;
    let status = clients.vms.create_vm(request(vm)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "VM_EXISTS"));
    assert_eq!(status.message(), "VM with UUID b8ab5fc1-8576-45ef-bb51-9826b52a4651 already exists");
}

#[tokio::test]
async fn a_folder_of_somebody_else_is_left_alone() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = "b8ab5fc1-8576-45ef-bb51-9826b52a4651";
    std::fs::create_dir(agent.zonepath(uuid)).unwrap();
    std::fs::write(agent.zonepath(uuid).join("precious"), "").unwrap();
    let vm = v1::VmSpec { uuid: Some(uuid.into()), ..machine() };
    assert_eq!(clients.vms.create_vm(request(vm)).await.unwrap_err().code(), Code::AlreadyExists);
    assert!(agent.zonepath(uuid).join("precious").exists());
}

#[tokio::test]
async fn a_disk_that_does_not_fit_leaves_nothing() {
    // ext4 takes no file of 64 TiB, nor does tmpfs one of more than it has pages for.
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let vm = v1::VmSpec { disks: vec![disk(1), disk(64 << 20)], ..machine() };
    let status = clients.vms.create_vm(request(vm)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "NO_ROOM"));
    assert_eq!(std::fs::read_dir(&agent.config.zones_dir).unwrap().count(), 0);
    assert!(clients.vms.list_vms(v1::ListVmsRequest::default()).await.unwrap().into_inner().vms.is_empty());
    let kinds: Vec<bool> = clients
        .journal()
        .await
        .iter()
        .map(|event| matches!(event.kind, Some(v1::event::Kind::Deleted(_))))
        .collect();
    assert_eq!(kinds, [false, true], "created, deleted");
}

#[tokio::test]
async fn autoboot_decides_whether_it_runs() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let stopped = clients.create(machine()).await;
    let running = clients.create(v1::VmSpec { autoboot: None, ..machine() }).await;
    assert_eq!(clients.state(&stopped).await, v1::VmState::Stopped);
    assert_eq!(clients.state(&running).await, v1::VmState::Running);
}

#[tokio::test]
async fn validate_only_makes_nothing() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let request = v1::CreateVmRequest { validate_only: true, ..request(machine()) };
    let vm = clients.vms.create_vm(request).await.unwrap().into_inner().vm.unwrap();
    assert_eq!(vm.spec.unwrap().ram, Some(256), "the answer is what would be");
    assert!(clients.get(&vm.uuid).await.is_err());
    assert!(clients.journal().await.is_empty());
}

#[tokio::test]
async fn many_at_once_are_all_different() {
    let agent = Simulated::start().await;
    let clients = agent.clients().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let mut clients = clients.clone();
        let nic =
            v1::NicSpec { nic_tag: Some("a".into()), model: Some("virtio".into()), ..Default::default() };
        tasks.spawn(async move {
            let uuid = clients.create(v1::VmSpec { nics: vec![nic], ..machine() }).await;
            clients.get(&uuid).await.unwrap().spec.unwrap().nics[0].mac.clone().unwrap()
        });
    }
    let macs: std::collections::HashSet<String> = tasks.join_all().await.into_iter().collect();
    assert_eq!(macs.len(), 50);
    assert!(macs.iter().all(|mac| &mac[1..2] == "2"));
}

/// A spec of nearly 1 MiB is taken, one over it is refused by name, and a message over the transport's
/// limit is refused by the transport.
#[tokio::test]
async fn both_sides_of_the_size_limits() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let with = |bytes: usize| {
        let kind = Some(prost_types::value::Kind::StringValue("x".repeat(bytes)));
        let fields = [("k".to_owned(), prost_types::Value { kind })].into();
        v1::VmSpec { customer_metadata: Some(prost_types::Struct { fields }), ..machine() }
    };
    clients.create(with((1 << 20) - 100)).await;
    let status = clients.vms.create_vm(request(with(1 << 20))).await.unwrap_err();
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["vm".to_owned()]));
    let status = clients.vms.create_vm(request(with(5 << 20))).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
}
