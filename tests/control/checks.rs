//! Checks of the machine as it will be: create, validate and update agree.

use serde_json::{Value, json};
use zoneward::{proto::v1, spec::machine_json};

use super::support::{Clients, fields, simulated::Simulated};

fn proto(machine: &Value) -> v1::VmSpec {
    let parsed = machine_json::parse(machine.to_string().as_bytes()).unwrap();
    assert_eq!(parsed.violations, []);
    zoneward::proto::spec_to_proto(&parsed.spec)
}

async fn refused(clients: &mut Clients, machine: &Value) -> Option<Vec<String>> {
    let vm = proto(machine);
    let request = v1::ValidateVmRequest { vm: Some(Box::new(vm.clone())), ..Default::default() };
    let validated = clients.vms.validate_vm(request).await.unwrap().into_inner();
    let create = v1::CreateVmRequest { vm: Some(vm), ..Default::default() };
    let created = clients.vms.create_vm(create).await.map_err(|status| fields(&status)).err();
    assert_eq!(validated.violations.is_empty(), created.is_none(), "{machine}: {:?}", validated.violations);
    created
}

/// What comes of the defaults is checked as what was given is.
#[tokio::test]
async fn what_follows_from_a_driver_is_checked() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let disks = |count: usize| vec![json!({"size": 1}); count];
    let ide = |count| json!({"brand": "kvm", "autoboot": false, "disk_driver": "ide", "disks": disks(count)});
    assert_eq!(refused(&mut clients, &ide(4)).await, None);
    assert!(refused(&mut clients, &ide(5)).await.is_some());
    let nic = |vlan: i32| json!({"nic_tag": "admin", "model": "virtio", "ip": "10.0.0.5", "netmask": "255.255.255.0", "vrrp_vrid": 5, "vlan_id": vlan});
    let vrrp = json!({"brand": "kvm", "autoboot": false, "nics": [nic(1), nic(2)]});
    assert!(refused(&mut clients, &vrrp).await.is_some());
}

/// Addresses that nobody can have.
#[tokio::test]
async fn addresses_that_are_nobodys_are_refused() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let with = |nic: Value| {
        let mut whole =
            json!({"nic_tag": "admin", "model": "virtio", "ip": "10.9.0.7", "netmask": "255.255.255.0"});
        whole.as_object_mut().unwrap().extend(nic.as_object().unwrap().clone());
        json!({"brand": "kvm", "autoboot": false, "nics": [whole]})
    };
    for (nic, field) in [
        (json!({"ip": "10.9.0.0"}), "nics.0.ip"),
        (json!({"ip": "10.9.0.255"}), "nics.0.ip"),
        (json!({"gateway": "0.0.0.0"}), "nics.0.gateway"),
        (json!({"ip": "169.254.169.254", "netmask": "255.255.0.0"}), "nics.0.ip"),
    ] {
        assert_eq!(refused(&mut clients, &with(nic.clone())).await, Some(vec![field.to_owned()]), "{nic}");
    }
    let resolver = json!({"brand": "kvm", "autoboot": false, "resolvers": ["0.0.0.0"]});
    assert_eq!(refused(&mut clients, &resolver).await, Some(vec!["resolvers.0".to_owned()]));
    let twice = json!({"brand": "kvm", "autoboot": false, "nics": [
        {"nic_tag": "admin", "model": "virtio", "interface": "net0"},
        {"nic_tag": "admin", "model": "virtio", "interface": "net0"}]});
    assert_eq!(refused(&mut clients, &twice).await, Some(vec!["nics.1.interface".to_owned()]));
    // A net of two has neither.
    let point = with(json!({"ip": "10.9.1.0", "netmask": "255.255.255.254"}));
    assert_eq!(refused(&mut clients, &point).await, None);

    // One off the net can be meant.
    let off = v1::CreateVmRequest {
        vm: Some(proto(&with(json!({"gateway": "192.168.1.1"})))),
        ..Default::default()
    };
    let notes = clients.vms.create_vm(off).await.unwrap().into_inner().notes;
    assert_eq!(notes.iter().map(|note| note.field.as_str()).collect::<Vec<_>>(), ["nics.0.gateway"]);
}

/// A limit that becomes another than was asked for is said, with the reason.
#[tokio::test]
async fn what_is_raised_or_lowered_is_said() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let asked =
        json!({"brand": "kvm", "autoboot": false, "ram": 1024, "max_physical_memory": 1024, "max_swap": 300});
    let create = v1::CreateVmRequest { vm: Some(proto(&asked)), ..Default::default() };
    let created = clients.vms.create_vm(create).await.unwrap().into_inner();
    let said = |notes: &[v1::Note]| {
        notes.iter().map(|note| format!("{} {}", note.field, note.message)).collect::<Vec<_>>()
    };
    let notes = said(&created.notes);
    assert!(notes[0].starts_with("max_physical_memory raised from 1024 to 1280 MiB"), "{notes:?}");
    assert!(notes[1].starts_with("max_swap raised from 300 to 1280 MiB"), "{notes:?}");
    let validate = v1::ValidateVmRequest { vm: Some(Box::new(proto(&asked))), ..Default::default() };
    assert_eq!(said(&clients.vms.validate_vm(validate).await.unwrap().into_inner().notes), notes);
    let vm = v1::VmSpec { max_swap: Some(300), max_locked_memory: Some(99999), ..Default::default() };
    let update =
        v1::UpdateVmRequest { uuid: created.vm.unwrap().uuid, vm: Some(Box::new(vm)), ..Default::default() };
    let notes = said(&clients.vms.update_vm(update).await.unwrap().into_inner().notes);
    assert!(notes[0].starts_with("max_locked_memory lowered from 99999 to 1280 MiB"), "{notes:?}");
    assert!(notes[1].starts_with("max_swap raised from 300 to 1280 MiB"), "{notes:?}");
    assert_eq!(notes.len(), 2);
}
