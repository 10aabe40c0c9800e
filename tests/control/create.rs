//! VMs come to be whole or not at all.

use serde_json::Value;
use tonic::Code;
use zoneward::{
    proto::{spec_to_json, spec_to_proto, v1},
    spec::{
        Brand, machine_json,
        property::{DISK, Given, NIC, Property, VM},
    },
};

use super::support::{disk, fields, machine, reason, simulated::Simulated};

fn request(vm: v1::VmSpec) -> v1::CreateVmRequest {
    v1::CreateVmRequest { vm: Some(vm), ..Default::default() }
}

/// A machine with every property that a kvm machine can be given.
const EVERYTHING: &str = r#"{
    "uuid": "b8ab5fc1-8576-45ef-bb51-9826b52a4651", "brand": "kvm", "alias": "web1 öÖ", "hostname": "web1.example",
    "autoboot": false, "owner_uuid": "00000000-0000-0000-0000-00000000000a", "billing_id": "9.99", "package_name": "p",
    "package_version": "1", "do_not_inventory": true, "archive_on_delete": true, "ram": 2048, "vcpus": 3,
    "cpu_type": "qemu64,+aes", "cpu_cap": 150, "cpu_shares": 50, "max_physical_memory": 4096, "max_locked_memory": 3000,
    "max_swap": 5000, "max_lwps": 333, "max_msg_ids": 1, "max_sem_ids": 2, "max_shm_ids": 3, "max_shm_memory": 4,
    "zfs_io_priority": 7, "limit_priv": ["default"], "disk_driver": "virtio", "nic_driver": "virtio", "boot": "order=dc",
    "bootrom": "uefi", "machine_type": "pc-i440fx-6.0", "vga": "qxl", "on_panic": "pause", "vnc_port": -1, "vnc_password": "secret", "spice_port": -1, "spice_password": "x",
    "spice_opts": "y", "virtio_txtimer": 5, "virtio_txburst": 6, "qemu_opts": "-usb", "qemu_extra_opts": "-snapshot",
    "zpool": "tank", "quota": 1, "zfs_root_compression": "lz4", "zfs_root_recsize": 512, "zfs_filesystem_limit": 8,
    "zfs_snapshot_limit": 9, "indestructible_zoneroot": true, "indestructible_delegated": true,
    "image_uuid": "b8ab5fc1-8576-45ef-bb51-9826b52a4652", "zone_dataset_uuid": "b8ab5fc1-8576-45ef-bb51-9826b52a4653",
    "disks": [
        {"boot": true, "model": "scsi", "size": 7, "block_size": 512, "compression": "gzip-1", "refreservation": "auto", "zpool": "t"},
        {"media": "cdrom", "path": "/a.iso", "model": "ide"},
        {"nocreate": true, "path": "/b.raw", "model": "virtio", "media": "disk"}],
    "nics": [{"mac": "02:08:20:00:00:01", "interface": "net3", "nic_tag": "admin", "model": "e1000", "vlan_id": 12,
        "ip": "10.88.88.51", "netmask": "255.255.255.0", "ips": ["10.88.88.51/24", "fd00::2/64"], "gateway": "10.88.88.1",
        "gateways": ["10.88.88.1", "10.88.88.2"], "primary": true, "mtu": 2323,
        "network_uuid": "b8ab5fc1-8576-45ef-bb51-9826b52a4654", "dhcp_server": true, "allow_dhcp_spoofing": true, "answer_dhcp": false,
        "allow_ip_spoofing": true, "allow_mac_spoofing": true, "allow_restricted_traffic": true,
        "allow_unfiltered_promisc": true, "allowed_ips": ["10.1.0.0/16"], "allowed_dhcp_cids": ["0x01ff"],
        "blocked_outgoing_ports": [25, 80]},
        {"nic_tag": "admin", "vrrp_vrid": 5, "vrrp_primary_ip": "10.88.88.51", "interface": "net4", "model": "virtio",
        "mac": "00:00:5e:00:01:05"}],
    "resolvers": ["10.0.0.2", "::1"], "routes": {"1.2.3.0/24": "10.88.88.9"}, "firewall_enabled": true,
    "customer_metadata": {"c": "v", "n": 42, "b": true}, "internal_metadata": {"i": 1.5},
    "internal_metadata_namespaces": ["com.example"], "tags": {"t": "v"}
}"#;

/// Each field of the spec comes back as it was given: none is ignored, none is forgotten in the test.
#[tokio::test]
async fn every_field_is_kept() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let given: Value = serde_json::from_str(EVERYTHING).unwrap();
    for (table, objects) in [
        (VM, vec![&given]),
        (DISK, given["disks"].as_array().unwrap().iter().collect::<Vec<_>>()),
        (NIC, given["nics"].as_array().unwrap().iter().collect()),
    ] {
        let can_be_given = |p: &&Property| {
            p.is_for(Brand::Kvm)
                && matches!(p.given, Given::Always | Given::AtCreation)
                // A disk of an image can't be made yet.
                && !(table.len() == DISK.len() && p.name.starts_with("image_"))
        };
        for property in table.iter().filter(can_be_given) {
            assert!(objects.iter().any(|o| o.get(property.name).is_some()), "{} is missing", property.name);
        }
    }
    let parsed = machine_json::parse(EVERYTHING.as_bytes()).unwrap();
    assert_eq!(parsed.all_violations(), []);
    let request = request(spec_to_proto(&parsed.spec));
    let answer = clients.vms.create_vm(request).await.unwrap().into_inner();
    let uuid = answer.vm.unwrap().uuid;
    let kept = Value::Object(spec_to_json(&clients.get(&uuid).await.unwrap().spec.unwrap()));
    let zonepath = agent.zonepath(&uuid);
    assert_eq!(kept["disks"][0]["path"], zonepath.join("disk0").display().to_string());
    compare("", &given, &kept);
    // What is kept without an effect is told.
    let noted: Vec<&str> = answer.notes.iter().map(|note| note.field.as_str()).collect();
    for field in ["quota", "spice_port", "limit_priv", "disks.0.compression"] {
        assert!(noted.contains(&field), "{noted:?}");
    }
    for field in ["alias", "ram", "owner_uuid", "disks.0.size", "nics.0.mtu", "firewall_enabled"] {
        assert!(!noted.contains(&field), "{noted:?}");
    }
    assert_eq!(zonepath.join("disk0").metadata().unwrap().len(), 7 << 20);
    assert!(!zonepath.join("disk1").exists(), "a CD is not made");
    assert!(!zonepath.join("disk2").exists(), "nocreate");
    let json = std::fs::read_to_string(zonepath.join("vm.json")).unwrap();
    assert!(json.contains("web1.example"), "for people: {json}");
    assert!(!json.contains("secret"), "no password in a file for people: {json}");
}

/// Everything that was given is kept; secrets are not.
fn compare(at: &str, given: &Value, kept: &Value) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (name, value) in given {
                let path = format!("{at}.{name}");
                match kept.get(name) {
                    None if name.ends_with("_password") => {}
                    None => panic!("{path} is gone"),
                    Some(_) if name.ends_with("_password") => panic!("{path} is shown"),
                    Some(found) => compare(&path, value, found),
                }
            }
        }
        (Value::Array(given), Value::Array(kept)) => {
            assert_eq!(given.len(), kept.len(), "{at}");
            given.iter().zip(kept).enumerate().for_each(|(i, (a, b))| compare(&format!("{at}.{i}"), a, b));
        }
        (given, kept) => assert_eq!(given, kept, "{at}"),
    }
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
        ["ram", "disks.0.size", "disks.1.size", "nics.0.nic_tag", "nics.0.netmask", "nics.0.model"];
    assert_eq!(fields(&status), expected);

    let validated = clients
        .vms
        .validate_vm(v1::ValidateVmRequest { vm: Some(Box::new(bad)), ..Default::default() })
        .await
        .unwrap()
        .into_inner();
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

/// A machine as vmadm's JSON, beside the typed one.
#[tokio::test]
async fn a_machine_as_json_is_read_as_vmadm_reads_it() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let json = |value: serde_json::Value| {
        let text = value.to_string();
        let value = prost_reflect::DynamicMessage::deserialize(
            prost_reflect::DescriptorPool::decode(zoneward::proto::DESCRIPTORS)
                .unwrap()
                .get_message_by_name("google.protobuf.Struct")
                .unwrap(),
            &mut serde_json::Deserializer::from_str(&text),
        );
        Some(value.unwrap().transcode_to::<prost_types::Struct>().unwrap())
    };
    let machine_json =
        json(serde_json::json!({"brand": "kvm", "ram": "512", "autoboot": "false", "vcpus": 2.0,
        "nics": [{"nic_tag": "admin", "model": "virtio", "ip": "dhcp", "primary": 1}]}));
    let request = v1::CreateVmRequest { machine_json: machine_json.clone(), ..Default::default() };
    let created = clients.vms.create_vm(request).await.unwrap().into_inner().vm.unwrap().spec.unwrap();
    assert_eq!((created.ram, created.vcpus, created.nics[0].primary), (Some(512), Some(2), Some(true)));
    let wrong = json(serde_json::json!({"brand": "kvm", "rma": 1}));
    let request = v1::ValidateVmRequest { machine_json: wrong, ..Default::default() };
    let found = clients.vms.validate_vm(request).await.unwrap().into_inner().violations;
    assert_eq!((found[0].field.as_str(), found.len()), ("rma", 1));
    assert!(found[0].description.contains("did you mean \"ram\"?"), "{found:?}");
    let both = v1::CreateVmRequest { vm: Some(machine()), machine_json, ..Default::default() };
    assert_eq!(fields(&clients.vms.create_vm(both).await.unwrap_err()), ["machine_json"]);
}
