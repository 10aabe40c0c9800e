//! Where disks and interfaces are, and that they stay there.

use serde_json::{Value, json};
use tonic::Code;
use uuid::Uuid;
use zoneward::spec::{
    Mac, PciSlot, VmSpec,
    defaults::{self, Host},
};

use super::{change, create, disks, parsed, refused};
use crate::support::{fields, simulated::Simulated};

fn completed(machine: &Value) -> VmSpec {
    let parsed = parsed(machine);
    assert_eq!(parsed.all_violations(), [], "{machine}");
    let mut spec = parsed.spec;
    let new_mac = || Mac::local(Uuid::new_v4().as_bytes()[..6].try_into().unwrap());
    let host = Host {
        overhead: 256,
        disk_path: &|n| format!("/d{n}"),
        new_mac: &new_mac,
        new_uuid: &Uuid::new_v4,
        image: &|_| None,
    };
    defaults::complete(&mut spec, Uuid::new_v4(), &host);
    spec
}

fn slots(spec: &VmSpec) -> Vec<String> {
    spec.disks.iter().map(|disk| disk.pci_slot.unwrap().to_string()).collect()
}

fn functions(spec: &VmSpec) -> Vec<String> {
    spec.nics.iter().map(|nic| nic.place.as_ref().unwrap().slot.unwrap().to_string()).collect()
}

#[test]
fn disks_have_the_slots_that_smartos_gives_them() {
    let g02 = completed(&json!({"disks": [
        {"size": 5, "model": "virtio"}, {"size": 5, "model": "virtio", "boot": true},
        {"media": "cdrom", "path": "/x.iso", "model": "ahci"}]}));
    assert_eq!(slots(&g02), ["0:4:1", "0:4:0", "0:3:0"], "G02");
    assert_eq!(slots(&completed(&json!({"disks": disks(8)})))[7], "0:4:7", "G03");
    let ninth = refused(&json!({"disks": disks(9)}));
    assert!(ninth.1.starts_with("VM has more than 8 disk devices on PCI device 4"), "G03: {ninth:?}");
    let g04 = json!({"disks": [{"size": 5, "pci_slot": "0:4:5", "model": "virtio"},
        {"size": 5, "pci_slot": "4:1", "model": "virtio"}, {"size": 5, "pci_slot": "5", "model": "virtio"},
        {"size": 5, "model": "virtio"}, {"size": 5, "model": "virtio"}]});
    assert_eq!(slots(&completed(&g04)), ["0:4:5", "0:4:1", "0:5:0", "0:4:0", "0:4:2"], "G04");
    let uuids: std::collections::BTreeSet<_> =
        completed(&g04).disks.iter().map(|disk| disk.uuid.unwrap()).collect();
    assert_eq!(uuids.len(), 5);
}

#[test]
fn slots_that_can_not_be_are_refused() {
    let at = |slot: &str| refused(&json!({"disks": [{"size": 5, "model": "virtio", "pci_slot": slot}]}));
    for slot in ["0:0:0", "0:6:0", "0:30:1", "0:31:0"] {
        let device = slot.split(':').nth(1).unwrap();
        let why = format!("pci_slot \"{slot}\" invalid: PCI device {device} is reserved");
        assert_eq!(at(slot), ("disks.0.pci_slot".to_owned(), why), "G05");
    }
    for slot in ["foo", "4:0:0:0", "256:0:0", "-1:0:0", "4:32:0", "4:0:8", "4:8", "32"] {
        assert_eq!(at(slot).1, format!("pci_slot \"{slot}\" is not valid"));
    }
    let same = json!({"disks": [{"size": 5, "model": "virtio", "pci_slot": "0:4:0"}, {"size": 5, "model": "virtio", "pci_slot": "4:0"}]});
    assert!(refused(&same).1.starts_with("VM has multiple disks in pci_slot \"0:4:0\""), "G06");
    let boot = json!({"disks": [{"size": 5, "model": "virtio", "boot": true}, {"size": 5, "model": "virtio", "boot": true}]});
    assert!(refused(&boot).1.starts_with("multiple boot disks: "), "G06");
    let buses = |count: u8| {
        let on = |bus: u8| json!({"size": 5, "model": "virtio", "pci_slot": format!("{}:0:0", bus * 20)});
        json!({"disks": (1..=count).map(on).collect::<Vec<_>>()})
    };
    assert_eq!(completed(&buses(8)).disks.len(), 8);
    assert!(refused(&buses(9)).1.contains("over the limit of 8"));
    let devices = |count: u8| {
        let at = (1..30).filter(|device| *device != 6).take(count.into());
        json!({"disks": at.map(|device| json!({"size": 5, "model": "virtio", "pci_slot": device.to_string()})).collect::<Vec<_>>()})
    };
    assert_eq!(completed(&devices(27)).disks.len(), 27);
    assert!(refused(&devices(28)).1.contains("put some on functions of one device"));
    let on = |bus: u8| json!({"size": 5, "model": "virtio", "pci_slot": format!("{}:0:0", bus * 20)});
    let with_buses = |count: u8| {
        let mut machine = devices(count);
        machine["disks"].as_array_mut().unwrap().extend((1..=8).map(on));
        machine
    };
    assert_eq!(completed(&with_buses(19)).disks.len(), 27);
    assert!(refused(&with_buses(20)).1.contains("put some on functions of one device"));
    let nics = |count| {
        let nic = |n| json!({"nic_tag": "admin", "model": "virtio", "ip": "dhcp", "mac": format!("02:00:00:00:00:{n:02x}")});
        json!({"nics": (0..count).map(nic).collect::<Vec<_>>()})
    };
    assert_eq!(completed(&nics(8)).nics.len(), 8);
    assert_eq!(refused(&nics(9)).0, "nics");
    for (device, at) in [
        (json!({"path": "/notdevices/x", "pci_slot": "0:8:0"}), "pci_devices.0.path"),
        (json!({"path": "/devices/x", "pci_slot": "foo"}), "pci_devices.0.pci_slot"),
        (json!({"path": "/devices/x", "pci_slot": "0:8:0", "model": "passover"}), "pci_devices.0.model"),
        (json!({"pci_slot": "0:8:0"}), "pci_devices.0.path"),
        (json!({"path": "/devices/x"}), "pci_devices.0.pci_slot"),
        (json!({"path": "/devices/x", "pci_slot": "0:6:0"}), "pci_devices.0.pci_slot"),
    ] {
        assert_eq!(refused(&json!({"pci_devices": [device]})).0, at, "G07");
    }
}

/// An error of SmartOS without its paths, and with the slot as it is shown here.
fn whole(error: &str) -> String {
    let error = error.split(": \"/").next().unwrap();
    let slot = error.split('"').nth(1).and_then(|slot| Some((slot, slot.parse::<PciSlot>().ok()?)));
    slot.map_or_else(|| error.to_owned(), |(given, slot)| error.replacen(given, &slot.to_string(), 1))
}

/// The recorded decisions of SmartOS's own code about machines that are made.
#[test]
fn slots_are_assigned_as_on_smartos() {
    let file = std::fs::read_to_string("tests/smartos-oracle/pci-slots.json").unwrap();
    let file: Value = serde_json::from_str(&file).unwrap();
    let mut compared = 0;
    for case in file["cases"].as_array().unwrap() {
        // Machines of SmartOS's older scheme were made there.
        let Some(disks) = case["disks"].as_array().filter(|_| case["legacy_compat"] == false) else {
            continue;
        };
        let made = disks.iter().enumerate().map(|(index, disk)| {
            let mut disk = disk.as_object().unwrap().clone();
            let path = json!(format!("/{index}"));
            if disk.get("media").is_some_and(|media| media == "cdrom") {
                disk.insert("path".to_owned(), path);
            } else {
                disk.remove("path");
                disk.insert("size".to_owned(), json!(5));
            }
            Value::Object(disk)
        });
        let machine = json!({"disks": made.collect::<Vec<_>>()});
        compared += 1;
        if let Some(error) = case["assignments"]["error"].as_str() {
            let (field, why) = refused(&machine);
            assert!(why.starts_with(&whole(error)), "{field}: {why}; {error}");
            continue;
        }
        if case["name"] == "assign 015" {
            // Theirs looks for clashes on bus 0 alone.
            assert!(refused(&machine).1.contains("multiple disks"));
            continue;
        }
        let slots = slots(&completed(&machine));
        for assignment in case["assignments"].as_array().unwrap() {
            let disk = usize::try_from(assignment["disk"].as_u64().unwrap()).unwrap();
            assert_eq!(slots[disk], assignment["pci_slot"].as_str().unwrap(), "{case}");
        }
    }
    assert!(compared >= 15, "{compared}");
    for case in file["cases"].as_array().unwrap().iter().filter(|case| case["slot"].is_string()) {
        let slot = case["slot"].as_str().unwrap();
        let read = slot.parse::<PciSlot>();
        match &case["result"] {
            wrong if wrong["error"].is_string() => {
                assert_eq!(read.unwrap_err(), wrong["error"].as_str().unwrap())
            }
            right => {
                let wanted = ["bus", "dev", "fn"].map(|part| right[part].to_string()).join(":");
                assert_eq!(read.unwrap().to_string(), wanted, "{slot}");
            }
        }
    }
}

#[tokio::test]
async fn devices_keep_their_slots() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let nic = |mac: &str| json!({"nic_tag": "admin", "model": "virtio", "ip": "dhcp", "mac": format!("02:00:00:00:00:{mac}")});
    let machine = json!({"disks": disks(3), "nics": [nic("01"), nic("02"), nic("03")]});
    let vm = create(&mut clients, machine).await.unwrap();
    let held = |agent: &Simulated| agent.agent().vm(vm.uuid.parse().unwrap()).unwrap().spec.clone();
    assert_eq!(slots(&held(&agent)), ["0:4:0", "0:4:1", "0:4:2"]);
    assert_eq!(functions(&held(&agent)), ["0:6:0", "0:6:1", "0:6:2"]);
    let paths: Vec<String> = held(&agent).disks.iter().map(|disk| disk.path.clone().unwrap()).collect();
    let third = held(&agent).disks[2].uuid;

    change(&mut clients, &vm.uuid, json!({"remove_disks": [paths[1]]})).await.unwrap();
    assert_eq!(
        (slots(&held(&agent)), held(&agent).disks[1].uuid),
        (vec!["0:4:0".into(), "0:4:2".into()], third)
    );
    change(&mut clients, &vm.uuid, json!({"add_disks": [{"size": 5}]})).await.unwrap();
    assert_eq!(slots(&held(&agent)), ["0:4:0", "0:4:2", "0:4:1"]);
    let moved = json!({"update_disks": [{"path": paths[2], "pci_slot": "9"}]});
    assert_eq!(change(&mut clients, &vm.uuid, moved).await.unwrap()["disks"][1]["pci_slot"], "0:9:0");
    let clash = json!({"update_disks": [{"path": paths[2], "pci_slot": "4:0"}]});
    let status = change(&mut clients, &vm.uuid, clash).await.unwrap_err();
    assert_eq!(
        (status.code(), fields(&status)),
        (Code::InvalidArgument, vec!["disks.1.pci_slot".to_owned()])
    );

    // The primary interface is function 0, and changes places with the one that was.
    let primary = json!({"update_nics": [{"mac": "02:00:00:00:00:03", "primary": true}]});
    change(&mut clients, &vm.uuid, primary).await.unwrap();
    assert_eq!(functions(&held(&agent)), ["0:6:2", "0:6:1", "0:6:0"]);
    change(&mut clients, &vm.uuid, json!({"remove_nics": ["02:00:00:00:00:03"]})).await.unwrap();
    assert_eq!(functions(&held(&agent)), ["0:6:0", "0:6:1"]);
}

/// A guest does not look at function 1 of a device without function 0.
#[test]
fn what_a_guest_can_not_find_is_noted() {
    let notes = |machine: Value| -> Vec<String> {
        parsed(&machine).notes.into_iter().map(|note| note.field).collect()
    };
    let disk = |slot: &str| json!({"size": 5, "model": "virtio", "pci_slot": slot});
    assert_eq!(notes(json!({"disks": [disk("7:3")]})), ["disks.0.pci_slot"]);
    assert_eq!(notes(json!({"disks": [disk("7:3"), disk("7:0")]})), Vec::<String>::new());
    // The next one will be function 0.
    assert_eq!(notes(json!({"disks": [disk("4:3"), {"size": 5}]})), Vec::<String>::new());
    let sectors =
        json!({"disks": [{"size": 5, "model": "nvme", "guest_block_size": "4096", "notrim": true}]});
    assert_eq!(notes(sectors), ["disks.0.guest_block_size", "disks.0.notrim"]);
}
