//! The portable cases of vmadm's own test-suite. `docs/cases.md` says of each what became of it here; the
//! last test makes sure that it does.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tonic::Status;
use zoneward::{
    proto::{json_to_update, spec_from_proto, spec_to_json, spec_to_proto, v1},
    spec::{Brand, Kind, machine_json, update},
};

use super::support::{Clients, machine, reason, simulated::Simulated};

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => panic!("an object"),
    }
}

/// vmadm's report of a payload for creation: field to class.
fn report(payload: Value) -> BTreeMap<String, Kind> {
    let parsed = machine_json::parse_object(object(payload));
    parsed.all_violations().into_iter().map(|v| (v.field, v.kind)).collect()
}

fn report_update(payload: Value) -> BTreeMap<String, Kind> {
    let read = update::read(object(payload), Some(Brand::Kvm));
    let violations = read.map_or_else(|violations| violations, |patch| patch.unchangeable());
    violations.into_iter().map(|v| (v.field, v.kind)).collect()
}

fn only(field: &str, kind: Kind) -> BTreeMap<String, Kind> {
    BTreeMap::from([(field.to_owned(), kind)])
}

fn messages(payload: Value) -> String {
    let parsed = machine_json::parse_object(object(payload));
    parsed.all_violations().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

async fn create(clients: &mut Clients, payload: Value) -> Result<Map<String, Value>, Status> {
    let parsed = machine_json::parse_object(object(payload));
    assert_eq!(parsed.violations, []);
    let request = v1::CreateVmRequest { vm: Some(spec_to_proto(&parsed.spec)), ..Default::default() };
    let vm = clients.vms.create_vm(request).await?.into_inner().vm.unwrap();
    Ok(spec_to_json(&vm.spec.unwrap()))
}

async fn change(clients: &mut Clients, uuid: &Value, payload: Value) -> Result<Map<String, Value>, Status> {
    let patch = update::read(object(payload), None).map_err(|found| {
        Status::invalid_argument(found.iter().map(ToString::to_string).collect::<String>())
    })?;
    let request = json_to_update(patch.payload().clone()).unwrap();
    let request = v1::UpdateVmRequest { uuid: uuid.as_str().unwrap().to_owned(), ..request };
    let vm = clients.vms.update_vm(request).await?.into_inner().vm.unwrap();
    Ok(spec_to_json(&vm.spec.unwrap()))
}

/// A nic that is good.
fn nic(more: Value) -> Value {
    let mut nic =
        object(json!({"nic_tag": "admin", "model": "virtio", "ip": "10.0.0.5", "netmask": "255.255.255.0"}));
    for (name, value) in object(more) {
        if value.is_null() {
            nic.remove(&name);
        } else {
            nic.insert(name, value);
        }
    }
    Value::Object(nic)
}

fn with_nic(more: Value) -> Value {
    json!({"brand": "kvm", "nics": [nic(more)]})
}

#[test]
fn a_payload_validation() {
    let kvm = |key: &str, value: Value| {
        let mut payload = object(json!({"brand": "kvm"}));
        payload.insert(key.to_owned(), value);
        Value::Object(payload)
    };
    let good = BTreeMap::new();
    assert_eq!(report(json!({})), only("brand", Kind::MissingProperty), "A01, A17");
    assert_eq!(
        report_update(json!({"uuid": "doogle", "alias": "x"})),
        only("uuid", Kind::BadProperty),
        "A04"
    );
    assert_eq!(report(kvm("autoboot", json!("aardvark"))), only("autoboot", Kind::BadValue), "A05");
    assert_eq!(report(kvm("alias", json!(42))), only("alias", Kind::BadValue), "A06");
    assert_eq!(report(kvm("cpu_cap", json!("doogle"))), only("cpu_cap", Kind::BadValue), "A08");
    assert_eq!(report(kvm("customer_metadata", json!({"a": "s", "b": true, "c": 42}))), good, "A11");
    assert_eq!(report(kvm("nics", json!({}))), only("nics", Kind::BadValue), "A12");
    assert_eq!(report(kvm("nics", json!("x"))), only("nics", Kind::BadValue), "A12");
    for mtu in [json!(576), json!(4242), json!(9000), json!("2323")] {
        assert_eq!(report(with_nic(json!({"mtu": mtu}))), good, "A14");
    }
    for mtu in [575, 9001] {
        assert_eq!(report(with_nic(json!({"mtu": mtu}))), only("nics.0.mtu", Kind::BadValue), "A14");
    }
    let verb = json!([{"mac": "2:0:0:0:0:1", "mtu": 1500}]);
    assert_eq!(report(kvm("update_nics", verb.clone())), only("update_nics", Kind::BadProperty), "A15");
    assert_eq!(report_update(json!({"update_nics": verb})), good, "A15");
    assert_eq!(report(with_nic(json!({"physical": "x"}))), only("nics.0.physical", Kind::BadProperty), "A16");
    let disk = |disk: Value| kvm("disks", json!([disk]));
    assert_eq!(
        report(disk(json!({"size": 1, "dataset_name": "x"}))),
        only("disks.0.dataset_name", Kind::BadProperty),
        "A16"
    );
    assert_eq!(report(json!({"brand": "kvm"})), good, "A17");
    let page = json!({"brand": "kvm", "vcpus": 1, "autoboot": false, "ram": 1024, "resolvers": ["208.67.222.222", "208.67.220.220"],
        "disks": [{"boot": true, "model": "virtio", "size": 40960}],
        "nics": [{"nic_tag": "admin", "model": "virtio", "ip": "10.88.88.51", "netmask": "255.255.255.0", "gateway": "10.88.88.1", "primary": 1}]});
    assert_eq!(report(page), good, "A18");
    let image = "b8ab5fc1-8576-45ef-bb51-9826b52a4651";
    let both = disk(json!({"image_uuid": image, "image_size": 10, "block_size": 512}));
    assert_eq!(report(both), only("disks.0.block_size", Kind::BadProperty), "A20");
    assert_eq!(report(disk(json!({"image_uuid": image, "image_size": 10}))), good, "A21");
    assert_eq!(report(disk(json!({"size": 10}))), good, "A21");
    let texts = json!({"brand": "kvm", "ram": "1024", "vcpus": "2", "autoboot": "true", "cpu_shares": "7"});
    assert_eq!(report(texts), good, "A24");
}

#[tokio::test]
async fn b_create_and_defaults() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let quiet = |more: Value| {
        let mut payload = object(json!({"brand": "kvm", "autoboot": false}));
        payload.extend(object(more));
        Value::Object(payload)
    };
    let vm = create(&mut clients, quiet(json!({"ram": 256}))).await.unwrap();
    for limit in ["max_physical_memory", "max_locked_memory", "max_swap"] {
        assert_eq!(vm[limit], 1280, "B03");
    }
    let zero = "00000000-0000-0000-0000-000000000000";
    for (name, value) in [
        ("quota", json!(10)),
        ("cpu_shares", json!(100)),
        ("zfs_io_priority", json!(100)),
        ("max_lwps", json!(2000)),
        ("owner_uuid", json!(zero)),
        ("billing_id", json!(zero)),
    ] {
        assert_eq!(vm[name], value, "B05 {name}");
    }
    let bhyve = spec_to_json(&spec_to_proto(&completed(json!({"brand": "bhyve", "ram": 512}))));
    assert_eq!((&bhyve["max_physical_memory"], &bhyve["quota"]), (&json!(1792), &json!(1)), "B05, B06");
    let cds = json!({"disks": [{"size": 1}, {"media": "cdrom", "path": "/foo.iso"}, {"media": "cdrom", "path": "/bar.iso"}]});
    let vm = create(&mut clients, quiet(cds)).await.unwrap();
    let column =
        |name: &str| vm["disks"].as_array().unwrap().iter().map(|d| d[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("media"), ["disk", "cdrom", "cdrom"], "B07");
    assert_eq!(column("path")[1..], ["/foo.iso", "/bar.iso"], "B07");
    assert_eq!(
        report(with_nic(json!({"mac": "aa:bb:cc:dd:ee:ff:12"}))),
        only("nics.0.mac", Kind::BadValue),
        "B09"
    );
    assert_eq!(report(with_nic(json!({"ip": "1.2.3.4,5.6.7.8"}))), only("nics.0.ip", Kind::BadValue), "B10");
    let vm = create(&mut clients, quiet(json!({"alias": null}))).await.unwrap();
    assert!(!vm.contains_key("alias"), "B11");
    let ips: Vec<String> = (1..=21).map(|n| format!("10.9.0.{n}/24")).collect();
    let text = messages(with_nic(json!({"ip": null, "netmask": null, "ips": ips})));
    assert!(text.contains("nic.*.ips contains 21 addresses, but is limited to 20"), "B14: {text}");
    let mut running = object(json!({"brand": "kvm"}));
    running.insert("autoboot".into(), json!(true));
    let vm = create(&mut clients, Value::Object(running)).await.unwrap();
    assert_eq!(vm["autoboot"], true, "B17");
    assert_eq!(clients.state(vm["uuid"].as_str().unwrap()).await, v1::VmState::Running, "B17");
    let vm = create(&mut clients, quiet(json!({}))).await.unwrap();
    assert_eq!(clients.state(vm["uuid"].as_str().unwrap()).await, v1::VmState::Stopped, "B17");

    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let mut clients = clients.clone();
        tasks.spawn(async move {
            create(
                &mut clients,
                json!({"brand": "kvm", "autoboot": false, "nics": [{"nic_tag": "a", "model": "virtio"}]}),
            )
            .await
            .unwrap()
        });
    }
    let vms = tasks.join_all().await;
    let mut macs: Vec<&str> = vms.iter().map(|vm| vm["nics"][0]["mac"].as_str().unwrap()).collect();
    assert!(macs.iter().all(|mac| mac.as_bytes()[1] == b'2'), "B19: {macs:?}");
    macs.sort_unstable();
    macs.dedup();
    assert_eq!(macs.len(), 50, "B18, B19");
    assert_eq!(report(json!({"brand": "kvm", "colour": "red"})), only("colour", Kind::BadProperty), "B20");
    let foreign = json!({"brand": "kvm", "quota": 1, "flexible_disk_size": 12288});
    let parsed = machine_json::parse_object(object(foreign));
    assert_eq!(parsed.violations, [], "B21");
    let note = parsed.notes.iter().find(|note| note.field == "flexible_disk_size");
    assert_eq!(note.unwrap().message, "no effect on brand kvm", "B21");
    assert!(!parsed.spec.other.contains_key("flexible_disk_size"), "B21");
    assert!(messages(with_nic(json!({"nic_tag": "bad-tag"}))).contains("Invalid nic tag \"bad-tag\""), "B22");
}

/// What creation would make of a payload for a host that has the brand.
fn completed(payload: Value) -> zoneward::spec::VmSpec {
    use zoneward::spec::{Mac, defaults};
    let mut spec = machine_json::parse_object(object(payload)).spec;
    let host = defaults::Host {
        overhead: 256,
        disk_path: &|n| format!("/d{n}"),
        new_mac: &|| Mac::local([1; 6]),
        new_uuid: &uuid::Uuid::new_v4,
        image: &|_| None,
    };
    defaults::complete(&mut spec, uuid::Uuid::from_u128(1), &host);
    spec
}

#[tokio::test]
async fn c_networking() {
    assert_eq!(
        report(with_nic(json!({"nic_tag": null}))),
        only("nics.0.nic_tag", Kind::MissingProperty),
        "C01"
    );
    assert_eq!(
        report(with_nic(json!({"netmask": null}))),
        only("nics.0.netmask", Kind::MissingProperty),
        "C01"
    );
    assert_eq!(report(with_nic(json!({"model": null}))), only("nics.0.model", Kind::MissingProperty), "C01");
    assert_eq!(report(with_nic(json!({"ip": "dhcp", "netmask": null}))), BTreeMap::new(), "C03");
    assert_eq!(
        report(with_nic(json!({"network_uuid": "asdf"}))),
        only("nics.0.network_uuid", Kind::BadValue),
        "C05"
    );
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let network = "b8ab5fc1-8576-45ef-bb51-9826b52a4655";
    let vm = create(
        &mut clients,
        json!({"brand": "kvm", "autoboot": false, "nics": [nic(json!({"network_uuid": network}))]}),
    )
    .await
    .unwrap();
    assert_eq!(vm["nics"][0]["network_uuid"], network, "C05");
    let (uuid, mac) = (vm["uuid"].clone(), vm["nics"][0]["mac"].clone());
    for property in ["netmask", "model"] {
        let mut update = object(json!({"mac": mac}));
        update.insert(property.into(), json!(""));
        let result = change(&mut clients, &uuid, json!({"update_nics": [update]})).await;
        // With one interface only there is no model to derive either.
        assert!(result.is_err(), "C04 {property}");
    }
    for primary in [json!(false), json!("blah")] {
        let error = change(&mut clients, &uuid, json!({"update_nics": [{"mac": mac, "primary": primary}]}))
            .await
            .unwrap_err();
        assert!(error.message().contains("primary"), "C07: {error:?}");
    }
    let vm =
        change(&mut clients, &uuid, json!({"add_nics": [{"nic_tag": "b", "primary": true}]})).await.unwrap();
    assert_eq!((vm["nics"][0].get("primary"), &vm["nics"][1]["primary"]), (None, &json!(true)), "C08");
    assert_eq!(vm["nics"][1]["model"], "virtio", "A23");
    let same = json!({"brand": "kvm", "autoboot": false, "nics": [nic(json!({}))]});
    assert_eq!(reason(&create(&mut clients, same.clone()).await.unwrap_err()), "CONFLICT");
    let other = json!({"brand": "kvm", "autoboot": false, "nics": [nic(json!({"nic_tag": "other"}))]});
    create(&mut clients, other).await.unwrap();
    // C11: the owner fails.
    clients.start(uuid.as_str().unwrap()).await.unwrap();
    agent.hypervisor.set_faults(zoneward::internals::hypervisor::simulated::Faults {
        stopped: Some("internal-error"),
        ..Default::default()
    });
    agent
        .hypervisor
        .tell(uuid.as_str().unwrap().parse().unwrap(), zoneward::internals::hypervisor::MachineEvent::Stopped)
        .await;
    super::support::eventually("failed", || {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move { (clients.state(uuid.as_str().unwrap()).await == v1::VmState::Failed).then_some(()) }
    })
    .await;
    create(&mut clients, same).await.unwrap();

    for (field, value, text) in [
        ("mac", json!("2:0:0:0:0:7"), "Cannot add multiple NICs with the same MAC: 02:00:00:00:00:07"),
        ("ip", json!("10.0.0.5"), "Cannot add multiple NICs with the same IP: 10.0.0.5"),
    ] {
        let mut one = object(nic(json!({"ip": null, "netmask": null})));
        one.insert(field.into(), value);
        one.insert("netmask".into(), if field == "ip" { json!("255.0.0.0") } else { Value::Null });
        let text_found = messages(json!({"brand": "kvm", "nics": [one.clone(), one]}));
        assert!(text_found.contains(text), "C13: {text_found}");
    }
    let cids = |cids: Vec<String>| messages(with_nic(json!({"allowed_dhcp_cids": cids})));
    let many = cids((0..33).map(|n| format!("0x{n:04x}")).collect());
    assert!(
        many.contains("nics.*.allowed_dhcp_cids contains 33 Client Identifiers, but is limited to 20"),
        "C15: {many}"
    );
    let long = cids((0..20).map(|n| format!("0x{n:060x}")).collect());
    assert!(long.contains("contains too many long Client Identifiers"), "C16: {long}");
    assert!(cids(vec!["1234".into()]).contains("0x"), "C17");
    for ip in [
        "1.1.1.1/36",
        "1.1.1.1/0",
        "1.1.1.1/-3",
        "1.1.1.1/",
        "fd00::/129",
        "fd00::/0",
        "fd00::/-5",
        "fd00::/",
    ] {
        let found = report(with_nic(json!({"allowed_ips": [ip]})));
        assert_eq!(found, only("nics.0.allowed_ips.0", Kind::BadValue), "C18 {ip}");
    }
    let vrrp = |more: Value| {
        let mut one =
            object(json!({"nic_tag": "a", "model": "virtio", "vrrp_vrid": 7, "vrrp_primary_ip": "10.0.0.5"}));
        for (name, value) in object(more) {
            one.insert(name, value);
        }
        one.retain(|_, value| !value.is_null());
        messages(json!({"brand": "kvm", "nics": [nic(json!({})), one]}))
    };
    assert_eq!(vrrp(json!({})), "", "C21");
    for (more, text) in [
        (json!({"mac": "2:0:0:0:0:1"}), "Cannot set both mac and vrrp_vrid"),
        (
            json!({"ip": "10.0.0.9", "netmask": "255.0.0.0", "vrrp_primary_ip": "10.0.0.9"}),
            "Cannot set vrrp_primary_ip to the IP of a VRRP nic",
        ),
        (json!({"vrrp_primary_ip": "10.7.7.7"}), "vrrp_primary_ip must belong to the same VM"),
        (json!({"vrrp_primary_ip": null}), "vrrp_vrid set but not vrrp_primary_ip"),
    ] {
        assert!(vrrp(more).contains(text), "C21 {text}");
    }
    let lone = json!({"brand": "kvm", "nics": [{"nic_tag": "a", "model": "virtio", "vrrp_vrid": 7, "vrrp_primary_ip": "10.0.0.5"}]});
    assert!(messages(lone).contains("VM cannot contain only VRRP nics"), "C21");
    let group = json!({"nic_tag": "a", "model": "virtio", "vrrp_vrid": 7, "vrrp_primary_ip": "10.0.0.5"});
    let two = json!({"brand": "kvm", "nics": [nic(json!({})), group, group]});
    assert!(messages(two).contains("Cannot add multiple NICs with the same VRID: 7"), "C21");
}

#[tokio::test]
async fn d_updates() {
    let raised = completed(json!({"brand": "bhyve", "ram": 2048, "max_physical_memory": 2048}));
    assert_eq!(
        (raised.max_physical_memory, raised.max_locked_memory, raised.max_swap),
        (Some(2304), Some(2304), Some(2304)),
        "D02"
    );
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let made = json!({"brand": "kvm", "autoboot": false, "ram": 512, "disks": [{"size": 1, "model": "ide"}], "nic_driver": "e1000", "disk_driver": "scsi"});
    let vm = create(&mut clients, made).await.unwrap();
    let uuid = vm["uuid"].clone();
    let limits = |vm: &Map<String, Value>| {
        ["max_locked_memory", "max_physical_memory", "max_swap"].map(|name| vm[name].as_i64().unwrap())
    };
    assert_eq!(limits(&vm), [1536, 1536, 1536]);
    for (payload, expected, case) in [
        (json!({"max_swap": 2000}), [1536, 1536, 2000], "D03"),
        (json!({"max_swap": 1472}), [1536, 1536, 1536], "D04"),
        (json!({"max_swap": 448}), [1536, 1536, 1536], "D04"),
        (json!({"max_physical_memory": 768}), [768, 768, 768], "D05"),
        (json!({"max_physical_memory": 1536}), [1536, 1536, 1536], "D05"),
        (json!({"max_locked_memory": 1792}), [1536, 1536, 1536], "D06"),
    ] {
        let vm = change(&mut clients, &uuid, payload.clone()).await.unwrap();
        assert_eq!(limits(&vm), expected, "{case} {payload}");
    }
    for immutable in ["uuid", "brand", "hvm"] {
        let mut payload = object(json!({"alias": "x"}));
        payload.insert(immutable.into(), json!("x"));
        assert_eq!(report_update(Value::Object(payload)), only(immutable, Kind::BadProperty), "D07");
    }
    let long = "x".repeat(2000);
    for alias in ["useless VM", "öÖ-çÇ-şŞ-ıI-iİ-üÜ-ğĞ", long.as_str()] {
        let vm = change(&mut clients, &uuid, json!({"alias": alias, "billing_id": "9.99"})).await.unwrap();
        assert_eq!((&vm["alias"], &vm["billing_id"]), (&json!(alias), &json!("9.99")), "D09");
    }
    let vm = change(&mut clients, &uuid, json!({"alias": ""})).await.unwrap();
    assert!(!vm.contains_key("alias"), "D09");
    let vm = change(&mut clients, &uuid, json!({"cpu_cap": 1600})).await.unwrap();
    assert_eq!(vm["cpu_cap"], 1600, "D11");
    let vm = change(&mut clients, &uuid, json!({"cpu_cap": 0})).await.unwrap();
    assert!(vm.get("cpu_cap").is_none_or(|cap| *cap == 0), "D11");
    let vm = change(&mut clients, &uuid, json!({"resolvers": ["1.1.1.1", "2.2.2.2"]})).await.unwrap();
    assert_eq!(vm["resolvers"], json!(["1.1.1.1", "2.2.2.2"]), "D12");
    change(&mut clients, &uuid, json!({"resolvers": []})).await.unwrap();
    let kept = clients.get(uuid.as_str().unwrap()).await.unwrap().spec.unwrap();
    assert!(kept.resolvers.is_empty(), "D12");
    assert_eq!(change(&mut clients, &uuid, json!({"vnc_port": -1})).await.unwrap()["vnc_port"], -1, "D13");
    let error = change(&mut clients, &uuid, json!({"vnc_password": "123456789"})).await.unwrap_err();
    assert!(error.message().contains("VNC password is too long, maximum length is 8 characters."), "D13");
    let both = json!({"set_tags": {"a": "1"}, "remove_tags": ["a"], "owner_uuid": "me", "hostname": "h"});
    let vm = change(&mut clients, &uuid, both).await.unwrap();
    assert_eq!(
        (&vm["tags"]["a"], &vm["owner_uuid"], &vm["hostname"]),
        (&json!("1"), &json!("me"), &json!("h")),
        "D14"
    );
    let path = vm["disks"][0]["path"].clone();
    let vm = change(&mut clients, &uuid, json!({"update_disks": [{"path": path, "model": "virtio"}]}))
        .await
        .unwrap();
    assert_eq!(vm["disks"][0]["model"], "virtio", "D16");
    let vm = change(&mut clients, &uuid, json!({"add_disks": [{"size": 1}], "add_nics": [{"nic_tag": "a"}]}))
        .await
        .unwrap();
    assert_eq!((&vm["disks"][1]["model"], &vm["nics"][0]["model"]), (&json!("scsi"), &json!("e1000")), "D17");
    let two = json!({"add_nics": [{"nic_tag": "a"}, {"nic_tag": "b"}]});
    let vm = change(&mut clients, &uuid, two).await.unwrap();
    let macs: Vec<Value> = vm["nics"].as_array().unwrap().iter().map(|nic| nic["mac"].clone()).collect();
    let vm = change(&mut clients, &uuid, json!({"remove_nics": [macs[1]]})).await.unwrap();
    assert_eq!(vm["nics"].as_array().unwrap().len(), 2, "D18");
    let three = json!({"add_nics": [{"nic_tag": "a"}, {"nic_tag": "b"}, {"nic_tag": "c"}]});
    let vm = change(&mut clients, &uuid, three).await.unwrap();
    let mut names: Vec<&str> =
        vm["nics"].as_array().unwrap().iter().map(|nic| nic["interface"].as_str().unwrap()).collect();
    assert_eq!((&vm["nics"][0]["mac"], &vm["nics"][1]["mac"]), (&macs[0], &macs[2]), "D18");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 5, "D18");
    let unknown = json!({"update_nics": [{"mac": "2:9:9:9:9:9", "mtu": 1500}]});
    assert!(change(&mut clients, &uuid, unknown).await.is_err(), "D19");
    let by_name = json!({"update_nics": [{"interface": "net0", "mtu": 1500}]});
    assert!(change(&mut clients, &uuid, by_name).await.is_err(), "D19");
    let set = json!({"update_nics": [{"mac": macs[0], "ips": ["10.3.3.3/24"]}]});
    assert_eq!(change(&mut clients, &uuid, set).await.unwrap()["nics"][0]["ip"], "10.3.3.3");
    let vm =
        change(&mut clients, &uuid, json!({"update_nics": [{"mac": macs[0], "ips": []}]})).await.unwrap();
    assert!(vm["nics"][0].get("ip").is_none(), "D24");
    change(&mut clients, &uuid, json!({"max_shm_memory": 5, "zfs_filesystem_limit": 5})).await.unwrap();
    let vm = change(&mut clients, &uuid, json!({"max_shm_memory": "", "zfs_filesystem_limit": null}))
        .await
        .unwrap();
    assert!(!vm.contains_key("max_shm_memory") && !vm.contains_key("zfs_filesystem_limit"), "D25");
    // L06: of two at once the second sees what the first did.
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..10 {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        let mut tags = Map::new();
        tags.insert(format!("t{index}"), json!(index));
        tasks.spawn(async move { change(&mut clients, &uuid, json!({"set_tags": tags})).await.unwrap() });
    }
    tasks.join_all().await;
    let vm = spec_to_json(&clients.get(uuid.as_str().unwrap()).await.unwrap().spec.unwrap());
    assert_eq!(vm["tags"].as_object().unwrap().len(), 11, "L06");
}

#[test]
fn g_disks() {
    let boot = |value: &str| report(json!({"brand": "bhyve", "bootrom": value}));
    assert_eq!(
        (boot("uefi"), boot("bios"), boot("")),
        (BTreeMap::new(), BTreeMap::new(), BTreeMap::new()),
        "G08"
    );
    assert_eq!(boot("/usr/share/bhyve/uefi-rom.bin"), BTreeMap::new(), "G08");
    assert_eq!(boot("fast"), only("bootrom", Kind::BadValue), "G08");
}

/// The ids of the reference's portable cases, and of those about bhyve's disks.
const PORTABLE: &str = "A01 A03 A04 A05 A06 A08 A11 A12 A14 A15 A16 A17 A18 A20 A21 A23 A24 \
    B02 B03 B05 B06 B07 B09 B10 B11 B12 B14 B17 B18 B19 B20 B21 B22 \
    C01 C03 C04 C05 C07 C08 C11 C12 C13 C15 C16 C17 C18 C21 C22 C23 \
    D02 D03 D04 D05 D06 D07 D09 D11 D12 D13 D14 D16 D17 D18 D19 D24 D25 \
    E01 E02 E03 E04 E06 E07 E11 E12 E13 F02 F04 F09 G02 G03 G04 G05 G06 G07 G08 H03 H06 H08 H09 H11 \
    I01 I02 I04 I05 I06 I07 J03 J04 J06 J07 J08 K02 K03 K04 K05 K06 K07 L01 L02 L03 L04 L05 L06 M02";

/// Each case has a verdict, and each test that the table names exists.
#[test]
fn every_portable_case_has_its_verdict() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join("docs/cases.md")).unwrap();
    let rows: BTreeMap<&str, Vec<&str>> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .map(|line| line.trim_end_matches('|').split('|').map(str::trim).collect::<Vec<_>>())
        .filter(|cells| cells.len() == 4 && cells[0].len() == 3 && cells[0].as_bytes()[1].is_ascii_digit())
        .map(|cells| (cells[0], cells))
        .collect();
    for id in PORTABLE.split_whitespace() {
        let row = rows.get(id).unwrap_or_else(|| panic!("docs/cases.md has no {id}"));
        let (verdict, why, test) = (row[1], row[2], row[3]);
        match verdict {
            "same" => assert!(!test.is_empty(), "{id} has no test"),
            "stricter" => assert!(!test.is_empty() && !why.is_empty(), "{id} has no test or no reason"),
            "not yet" | "not applicable" => assert!(!why.is_empty(), "{id} has no reason"),
            other => panic!("{id}: {other} is no verdict"),
        }
        if let Some((file, name)) = test.trim_matches('`').split_once("::") {
            let source = std::fs::read_to_string(root.join(format!("tests/{file}.rs"))).unwrap();
            assert!(source.contains(&format!("fn {name}(")), "{id}: there is no {test}");
        }
    }
    assert_eq!(rows.len(), PORTABLE.split_whitespace().count(), "a case that is none");
}

/// What validation accepts, creation accepts; what it refuses, creation refuses.
#[tokio::test]
async fn validate_and_create_agree() {
    use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let scalar = prop_oneof![
        Just(json!(null)),
        Just(json!("")),
        Just(json!(true)),
        Just(json!(-1)),
        Just(json!(0)),
        Just(json!(1)),
        Just(json!(256)),
        Just(json!(9_999_999_999_i64)),
        Just(json!("x")),
        Just(json!("virtio")),
        Just(json!("10.0.0.1")),
        Just(json!("255.0.0.0")),
        Just(json!("dhcp")),
        Just(json!("/a.iso")),
        Just(json!("cdrom")),
        Just(json!([])),
        Just(json!({})),
    ];
    let names = |table: &'static [zoneward::spec::property::Property]| {
        proptest::sample::select(table.iter().map(|p| p.name).collect::<Vec<_>>())
    };
    use zoneward::spec::property::{DISK, NIC, VM};
    let item = |table| proptest::collection::btree_map(names(table), scalar.clone(), 0..3);
    let payload = (
        proptest::collection::btree_map(names(VM), scalar.clone(), 0..3),
        proptest::collection::vec(item(DISK), 0..3),
        proptest::collection::vec(item(NIC), 0..3),
    );
    let mut runner = TestRunner::deterministic();
    let mut accepted = 0;
    for _ in 0..1000 {
        let (top, disks, nics) = payload.new_tree(&mut runner).unwrap().current();
        let mut object: Map<String, Value> = top.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        object.insert("brand".into(), json!("kvm"));
        object.insert("autoboot".into(), json!(false));
        let list = |items: Vec<BTreeMap<&str, Value>>, base: Value| {
            let full = items.into_iter().map(|item| {
                let mut full = self::object(base.clone());
                full.extend(item.into_iter().map(|(k, v)| (k.to_owned(), v)));
                Value::Object(full)
            });
            Value::Array(full.collect())
        };
        object.insert("disks".into(), list(disks, json!({"size": 1})));
        object.insert("nics".into(), list(nics, json!({"nic_tag": "a", "model": "virtio"})));
        let parsed = machine_json::parse_object(object.clone());
        let violations = parsed.all_violations();
        // What can't be read has no protobuf form; what can is looked at by the agent itself.
        if !parsed.violations.is_empty() {
            continue;
        }
        let vm = spec_to_proto(&parsed.spec);
        let asked = v1::ValidateVmRequest { vm: Some(Box::new(vm.clone())), ..Default::default() };
        let told = clients.vms.validate_vm(asked).await.unwrap().into_inner();
        assert_eq!(told.violations.len(), violations.len(), "{object:?}");
        let request = v1::CreateVmRequest { vm: Some(vm.clone()), validate_only: true, ..Default::default() };
        match clients.vms.create_vm(request).await {
            Ok(_) => accepted += usize::from(told.violations.is_empty()),
            Err(error) if told.violations.is_empty() => {
                assert_eq!(reason(&error), "CAPABILITY_MISSING", "{error:?} {object:?}");
            }
            Err(error) => assert_eq!(reason(&error), "INVALID_MACHINE", "{error:?}"),
        }
        assert_eq!(spec_from_proto(&vm).violations, [], "the wire loses nothing");
    }
    assert!(accepted > 20, "{accepted}");
    clients.create(machine()).await;
}
