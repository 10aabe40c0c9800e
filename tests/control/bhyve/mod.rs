//! Brand bhyve: its rules, and what becomes of its disks and interfaces. `guest/bhyve` has a guest that looks at them.

mod disks;
mod machine;
mod slots;

use serde_json::{Value, json};
use tonic::{Code, Status};
use zoneward::{
    proto::{json_to_update, spec_to_json, spec_to_proto, v1},
    spec::{
        machine_json,
        property::{DISK, Given, NIC, Property, VM},
        update,
    },
};

use super::support::{Clients, fields, simulated::Simulated};

fn parsed(machine: &Value) -> machine_json::Parsed {
    let mut machine = machine.as_object().unwrap().clone();
    machine.entry("brand").or_insert(json!("bhyve"));
    machine.insert("autoboot".to_owned(), json!(false));
    machine_json::parse_object(machine)
}

/// Why a machine is refused: field and words.
fn refused(machine: &Value) -> (String, String) {
    let found = parsed(machine).all_violations();
    let first = found.first().unwrap_or_else(|| panic!("{machine} is accepted"));
    (first.field.clone(), first.message.clone())
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
    agent.config.brands.bhyve = false;
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
    agent.stop().await;
    agent.config.brands.kvm = false;
    agent.resume().await;
    let mut clients = agent.clients().await;
    let status = create(&mut clients, json!({"brand": "kvm"})).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("brands.kvm"), "{status:?}");
}

/// The page has a row for each property that can be given.
#[test]
fn the_page_has_every_property() {
    let page = std::fs::read_to_string("docs/brands.md").unwrap();
    let given = |property: &&Property| matches!(property.given, Given::Always | Given::AtCreation);
    for (of, properties) in [("", VM), ("disk: ", DISK), ("nic: ", NIC)] {
        let names: String = page
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.strip_prefix(of)?.strip_prefix('`')?.split_once(" |"))
            .map(|(names, _)| format!("`{names} "))
            .collect();
        let missing: Vec<&str> = properties
            .iter()
            .filter(given)
            .map(|property| property.name)
            .filter(|name| !names.contains(&format!("`{name}`")))
            .collect();
        assert!(missing.is_empty(), "docs/brands.md has no rows \"{of}\" of: {missing:?}");
    }
}
