//! Brand bhyve: its rules, and what becomes of its disks and interfaces. `guest/bhyve` has a guest that looks at them.

use serde_json::{Value, json};
use tonic::{Code, Status};
use uuid::Uuid;
use zoneward::{
    internals::config::Config,
    proto::{json_to_update, spec_to_json, spec_to_proto, v1},
    spec::{
        Mac, VmSpec,
        defaults::{self, Host},
        machine_json,
        property::{DISK, Given, NIC, Property, VM},
        update,
    },
};

use super::support::{Clients, eventually, fields, simulated::Simulated};

fn parsed(machine: &Value) -> machine_json::Parsed {
    let mut machine = machine.as_object().unwrap().clone();
    machine.entry("brand").or_insert(json!("bhyve"));
    machine.insert("autoboot".to_owned(), json!(false));
    machine_json::parse_object(machine)
}

fn completed(machine: &Value) -> VmSpec {
    let parsed = parsed(machine);
    assert_eq!(parsed.all_violations(), [], "{machine}");
    let mut spec = parsed.spec;
    let new_mac = || Mac::local(Uuid::new_v4().as_bytes()[..6].try_into().unwrap());
    let host =
        Host { overhead: 256, disk_path: &|n| format!("/d{n}"), new_mac: &new_mac, new_uuid: &Uuid::new_v4 };
    defaults::complete(&mut spec, Uuid::new_v4(), &host);
    spec
}

/// Why a machine is refused: field and words.
fn refused(machine: &Value) -> (String, String) {
    let found = parsed(machine).all_violations();
    let first = found.first().unwrap_or_else(|| panic!("{machine} is accepted"));
    (first.field.clone(), first.message.clone())
}

fn slots(spec: &VmSpec) -> Vec<String> {
    spec.disks.iter().map(|disk| disk.pci_slot.unwrap().to_string()).collect()
}

fn functions(spec: &VmSpec) -> Vec<String> {
    spec.nics.iter().map(|nic| nic.place.as_ref().unwrap().slot.unwrap().to_string()).collect()
}

fn disks(count: usize) -> Vec<Value> {
    vec![json!({"size": 5, "model": "virtio"}); count]
}

async fn create(clients: &mut Clients, machine: Value) -> Result<v1::Vm, Status> {
    let request =
        v1::CreateVmRequest { vm: Some(spec_to_proto(&parsed(&machine).spec)), ..Default::default() };
    Ok(clients.vms.create_vm(request).await?.into_inner().vm.unwrap())
}

async fn change(clients: &mut Clients, uuid: &str, payload: Value) -> Result<Value, Status> {
    let patch = update::read(payload.as_object().unwrap().clone(), None).unwrap();
    let request = json_to_update(patch.payload().clone()).unwrap();
    let request = v1::UpdateVmRequest { uuid: uuid.to_owned(), ..request };
    let vm = clients.vms.update_vm(request).await?.into_inner().vm.unwrap();
    Ok(Value::Object(spec_to_json(&vm.spec.unwrap())))
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
            let until = error.find("invalid").or_else(|| error.find("pci_slot \"")).unwrap_or(error.len());
            let (field, why) = refused(&machine);
            assert!(
                why.starts_with(&error[..until]) || error.contains("reserved") && why.contains("reserved"),
                "{field}: {why}; {error}"
            );
            continue;
        }
        if case["name"].as_str().unwrap().ends_with("015") {
            // Theirs looks at bus 0 alone.
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
        let read = slot.parse::<zoneward::spec::PciSlot>();
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
    let left = functions(&held(&agent));
    assert!(left.contains(&"0:6:0".to_owned()) && left.contains(&"0:6:1".to_owned()), "{left:?}");
}

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

#[tokio::test]
async fn a_machine_type_is_for_life() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let vm = create(&mut clients, json!({})).await.unwrap();
    assert_eq!(vm.spec.unwrap().machine_type.as_deref(), Some("pc-q35-7.2"));
    let old = create(&mut clients, json!({"machine_type": "pc-q35-6.0"})).await.unwrap();
    assert_eq!(old.spec.unwrap().machine_type.as_deref(), Some("pc-q35-6.0"));
    let moved = change(&mut clients, &old.uuid, json!({"machine_type": "pc-q35-7.1"})).await.unwrap();
    assert_eq!(moved["machine_type"], "pc-q35-7.1");
    // null takes the newest.
    let newest = change(&mut clients, &old.uuid, json!({"machine_type": null})).await.unwrap();
    assert_eq!(newest["machine_type"], "pc-q35-7.2");
    let status = change(&mut clients, &old.uuid, json!({"machine_type": "pc-i440fx-7.2"})).await.unwrap_err();
    assert_eq!(fields(&status), ["machine_type"]);
    for wrong in ["pc-i440fx-7.2", "q35", "pc-q35-7"] {
        assert_eq!(refused(&json!({"machine_type": wrong})).0, "machine_type", "{wrong}");
    }
}

#[tokio::test]
async fn a_boot_has_the_machines_type_and_screen() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let vm = create(&mut clients, json!({"machine_type": "pc-q35-6.0", "vnc_port": -1})).await.unwrap();
    clients.start(&vm.uuid).await.unwrap();
    let arguments = agent.process(&vm.uuid).arguments.clone();
    assert!(arguments.contains(&"machine=pc-q35-6.0 screen=false".to_owned()), "{arguments:?}");
    // A screen comes with a boot.
    let update = v1::UpdateVmRequest {
        uuid: vm.uuid.clone(),
        vm: Some(Box::new(v1::VmSpec { vnc_port: Some(0), ..Default::default() })),
        ..Default::default()
    };
    let answer = clients.vms.update_vm(update).await.unwrap().into_inner();
    assert_eq!(answer.next_boot, ["vnc_port"]);
    let request = v1::TakeScreenshotRequest { uuid: vm.uuid.clone() };
    let status = clients.vms.take_screenshot(request).await.unwrap_err();
    assert!(status.message().contains("no screen"), "{status:?}");
}

#[tokio::test]
async fn models_of_the_other_brand_are_refused_for_one_boot_too() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let vm = create(&mut clients, json!({})).await.unwrap();
    let device = |model: &str| v1::BootDevice { path: "/x.iso".into(), model: model.into(), media: 1 };
    let options = |model: &str| v1::StartVmRequest {
        uuid: vm.uuid.clone(),
        options: Some(v1::BootOptions { devices: vec![device(model)], ..Default::default() }),
        ..Default::default()
    };
    for model in ["ide", "scsi"] {
        let status = clients.start_with(options(model)).await.unwrap_err();
        assert_eq!(
            (status.code(), fields(&status)),
            (Code::InvalidArgument, vec!["options.devices.0.model".into()])
        );
    }
    // It comes as far as the file, which is not there.
    let status = clients.start_with(options("ahci")).await.unwrap_err();
    assert!(status.message().contains("disk: /x.iso"), "{status:?}");
}

#[tokio::test]
async fn what_only_bhyve_can_do_is_refused() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let status = create(&mut clients, json!({"bhyve_extra_opts": "-w"})).await.unwrap_err();
    assert_eq!(fields(&status), ["bhyve_extra_opts"]);
    let devices =
        json!({"pci_devices": [{"path": "/devices/pci@0,0", "pci_slot": "0:8:0", "model": "passthru"}]});
    let vm = create(&mut clients, devices).await.unwrap();
    let status = clients.start(&vm.uuid).await.unwrap_err();
    assert!(status.message().contains("pci_devices: this agent passes no devices"), "{status:?}");
    change(&mut clients, &vm.uuid, json!({"remove_pci_devices": ["/devices/pci@0,0"]})).await.unwrap();
    clients.start(&vm.uuid).await.unwrap();
}

#[tokio::test]
async fn info_types_are_those_of_kvm() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let vm = create(&mut clients, json!({})).await.unwrap();
    clients.start(&vm.uuid).await.unwrap();
    let info = |kind: &str| v1::GetVmInfoRequest { uuid: vm.uuid.clone(), types: vec![kind.to_owned()] };
    let status = clients.vms.get_vm_info(info("spice")).await.unwrap_err();
    assert!(String::from_utf8_lossy(status.details()).contains("unknown info type spice"), "H03: {status:?}");
    for kind in ["vnc", "pci"] {
        clients.vms.get_vm_info(info(kind)).await.unwrap();
    }
}

#[tokio::test]
async fn a_brand_can_be_switched_off() {
    let mut agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let vm = create(&mut clients, json!({})).await.unwrap();
    let brands =
        |host: v1::GetHostResponse| host.hypervisors.into_iter().map(|each| each.brand).collect::<Vec<_>>();
    let host = clients.host.get_host(v1::GetHostRequest {}).await.unwrap().into_inner();
    let types: Vec<_> = host.hypervisors.iter().map(|each| each.machine_types.clone()).collect();
    assert_eq!(types, [["pc-i440fx-7.2"], ["pc-q35-7.2"]]);
    assert!(host.hypervisors.iter().all(|each| each.description.contains("simulated")));
    assert_eq!(brands(host), ["kvm", "bhyve"]);
    clients.start(&vm.uuid).await.unwrap();
    agent.stop().await;
    let off = |config: &mut Config| config.brands.bhyve = false;
    off(&mut agent.config);
    agent.resume().await;
    let mut clients = agent.clients().await;
    let host = clients.host.get_host(v1::GetHostRequest {}).await.unwrap().into_inner();
    assert_eq!(brands(host), ["kvm"]);
    // One that runs goes on, and can be stopped, but not booted again.
    let reboot = v1::RebootVmRequest { uuid: vm.uuid.clone(), ..Default::default() };
    assert_eq!(clients.vms.reboot_vm(reboot).await.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(clients.state(&vm.uuid).await, v1::VmState::Running);
    clients.stop(&vm.uuid, true).await.unwrap();
    for status in
        [clients.start(&vm.uuid).await.unwrap_err(), create(&mut clients, json!({})).await.unwrap_err()]
    {
        assert_eq!(status.code(), Code::Unimplemented);
        assert!(status.message().contains("brands.bhyve"), "{status:?}");
    }
    clients.delete(&vm.uuid).await.unwrap();
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

/// The page has a row for each property that can be given.
#[test]
fn the_page_has_every_property() {
    let page = std::fs::read_to_string("docs/brands.md").unwrap();
    let given = |property: &&Property| matches!(property.given, Given::Always | Given::AtCreation);
    let missing: Vec<&str> = [VM, DISK, NIC]
        .into_iter()
        .flatten()
        .filter(given)
        .map(|property| property.name)
        .filter(|name| !page.contains(&format!("`{name}`")))
        .collect();
    assert!(missing.is_empty(), "docs/brands.md lacks: {missing:?}");
}
