//! Changes of a machine: all or nothing, and said what.

use serde_json::{Map, Value, json};
use tonic::Code;
use zoneward::{
    proto::{json_to_update, spec_to_json, v1},
    spec::update,
};

use super::support::{Clients, disk, fields, machine, metadata, reason, simulated::Simulated};

/// As vmadm sends it.
fn request(uuid: &str, payload: Value) -> v1::UpdateVmRequest {
    let Value::Object(payload) = payload else { panic!("a payload is an object") };
    let patch = update::read(payload, None).unwrap();
    v1::UpdateVmRequest { uuid: uuid.to_owned(), ..json_to_update(patch.payload().clone()).unwrap() }
}

pub(super) async fn update(
    clients: &mut Clients,
    uuid: &str,
    payload: Value,
) -> Result<v1::UpdateVmResponse, tonic::Status> {
    Ok(clients.vms.update_vm(request(uuid, payload)).await?.into_inner())
}

async fn get(clients: &mut Clients, uuid: &str) -> Map<String, Value> {
    spec_to_json(&clients.get(uuid).await.unwrap().spec.unwrap())
}

fn nic(rest: &str) -> v1::NicSpec {
    let mut nic = v1::NicSpec {
        nic_tag: Some("admin".into()),
        model: Some("virtio".into()),
        netmask: Some("255.255.255.0".into()),
        ..Default::default()
    };
    nic.ip = Some(rest.to_owned());
    nic
}

#[tokio::test]
async fn an_update_says_what_changed_and_what_waits() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(v1::VmSpec { ram: Some(512), alias: Some("a".into()), ..machine() }).await;
    clients.start(&uuid).await.unwrap();
    let payload = json!({"ram": "1024", "alias": "b", "cpu_cap": 50, "quota": 7, "set_tags": {"role": "db"}});
    let answer = update(&mut clients, &uuid, payload).await.unwrap();
    let changes: Vec<(&str, &str, &str)> = answer
        .changes
        .iter()
        .map(|c| (c.path.as_str(), c.old_value.as_str(), c.new_value.as_str()))
        .collect();
    for change in [
        ("ram", "512", "1024"),
        ("alias", "\"a\"", "\"b\""),
        ("cpu_cap", "", "50"),
        ("quota", "10", "7"),
        ("tags.role", "", "\"db\""),
        ("max_physical_memory", "1536", "2048"),
        ("max_swap", "1536", "2048"),
    ] {
        assert!(changes.contains(&change), "{change:?}: {changes:?}");
    }
    assert!(answer.next_boot.contains(&"ram".to_owned()), "{:?}", answer.next_boot);
    assert!(!answer.next_boot.iter().any(|name| name == "alias" || name == "cpu_cap" || name == "tags"));
    assert_eq!(answer.notes.len(), 1);
    assert_eq!(answer.notes[0].field, "quota");

    // Live: the zone has its new bounds.
    let bounds = agent.process(&uuid).bounds();
    assert_eq!((bounds.cpu_cap, bounds.memory), (Some(50), 2048 << 20));
    let limits = clients.get(&uuid).await.unwrap().status.unwrap().limits;
    assert!(limits.iter().any(|limit| limit.mechanism == "simulated=50"), "{limits:?}");

    // The event says the same.
    let journal = clients.journal().await;
    let told = journal.iter().find_map(|event| match &event.kind {
        Some(v1::event::Kind::Modified(modified)) if modified.changes.iter().any(|c| c.path == "alias") => {
            Some(modified.changes.clone())
        }
        _ => None,
    });
    assert_eq!(told.unwrap(), answer.changes);

    // Nothing to do is no change.
    let before = clients.get(&uuid).await.unwrap();
    let answer = update(&mut clients, &uuid, json!({"alias": "b"})).await.unwrap();
    assert!(answer.changes.is_empty() && answer.next_boot.is_empty());
    assert_eq!(clients.get(&uuid).await.unwrap().etag, before.etag);
}

#[tokio::test]
async fn all_or_nothing() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(v1::VmSpec { disks: vec![disk(5)], ..machine() }).await;
    let before = clients.get(&uuid).await.unwrap();
    let path = before.spec.clone().unwrap().disks[0].path.clone().unwrap();
    for (payload, expected) in [
        (json!({"alias": "x", "remove_disks": ["/none"]}), vec!["remove_disks.0"]),
        (
            json!({"alias": "x", "update_nics": [{"mac": "2:0:0:0:0:1", "mtu": 1500}]}),
            vec!["update_nics.0.mac"],
        ),
        (json!({"alias": "x", "update_disks": [{"size": 9}]}), vec!["update_disks.0.path"]),
        (json!({"alias": "x", "update_disks": [{"path": path, "size": 4}]}), vec!["disks.0.size"]),
        (json!({"alias": "x", "add_nics": [{"model": "virtio"}]}), vec!["nics.0.nic_tag"]),
        (json!({"alias": "x", "ram": 1024, "max_physical_memory": 512}), vec!["max_physical_memory"]),
    ] {
        let status = update(&mut clients, &uuid, payload.clone()).await.unwrap_err();
        assert_eq!(
            (status.code(), fields(&status)),
            (Code::InvalidArgument, expected.iter().map(ToString::to_string).collect()),
            "{payload}"
        );
    }
    assert_eq!(clients.get(&uuid).await.unwrap(), before);
    // The second disk can't be made: the first is not there either, and what was in the way still is.
    std::fs::write(agent.zonepath(&uuid).join("disk2"), "somebody's").unwrap();
    let two = json!({"alias": "x", "add_disks": [{"size": 3}, {"size": 4}]});
    assert_eq!(reason(&update(&mut clients, &uuid, two).await.unwrap_err()), "FILE_EXISTS");
    assert_eq!(clients.get(&uuid).await.unwrap(), before);
    let names: Vec<_> =
        std::fs::read_dir(agent.zonepath(&uuid)).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(
        names.iter().filter(|name| name.to_string_lossy().starts_with("disk")).count(),
        2,
        "{names:?}"
    );
    // Read onlyed at.
    let request = v1::UpdateVmRequest { validate_only: true, ..request(&uuid, json!({"alias": "x"})) };
    let answer = clients.vms.update_vm(request).await.unwrap().into_inner();
    assert_eq!(answer.changes[0].path, "alias");
    assert_eq!(clients.get(&uuid).await.unwrap(), before);
}

#[tokio::test]
async fn what_can_not_be_changed_is_an_error() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let vm = |vm: v1::VmSpec| v1::UpdateVmRequest {
        uuid: uuid.clone(),
        vm: Some(Box::new(vm)),
        ..Default::default()
    };
    for (request, field, words) in [
        (vm(v1::VmSpec { brand: "bhyve".into(), ..Default::default() }), "brand", "can't be changed"),
        (vm(v1::VmSpec { disks: vec![disk(1)], ..Default::default() }), "disks", "use add_disks"),
        (vm(v1::VmSpec { zpool: Some("x".into()), ..Default::default() }), "zpool", "can't be changed"),
        (
            vm(v1::VmSpec {
                tags: Some(prost_types::Struct {
                    fields: [(
                        "a".into(),
                        prost_types::Value { kind: Some(prost_types::value::Kind::BoolValue(true)) },
                    )]
                    .into(),
                }),
                ..Default::default()
            }),
            "tags",
            "use set_tags",
        ),
    ] {
        let status = clients.vms.update_vm(request).await.unwrap_err();
        assert_eq!(fields(&status), [field]);
        let details = tonic_types::StatusExt::get_error_details(&status);
        let told = &details.bad_request().unwrap().field_violations[0].description;
        assert!(told.contains(words), "{told}");
    }
    let unknown = "b8ab5fc1-8576-45ef-bb51-9826b52a4651";
    let status = update(&mut clients, unknown, json!({"ram": 1})).await.unwrap_err();
    assert_eq!(reason(&status), "VM_NOT_FOUND");
    let stale = v1::UpdateVmRequest { etag: "g999".into(), ..request(&uuid, json!({"ram": 300})) };
    assert_eq!(reason(&clients.vms.update_vm(stale).await.unwrap_err()), "ETAG_MISMATCH");
}

#[tokio::test]
async fn disks_are_changed_while_the_vm_is_stopped() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(v1::VmSpec { disks: vec![disk(5)], ..machine() }).await;
    clients.start(&uuid).await.unwrap();
    let status = update(&mut clients, &uuid, json!({"add_disks": [{"size": 3}]})).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "VM_STATE"));
    assert_eq!(
        status.message(),
        "updates to disks are only allowed when state is \"stopped\", currently: running (running)"
    );
    let path = get(&mut clients, &uuid).await["disks"][0]["path"].clone();
    update(&mut clients, &uuid, json!({"update_disks": [{"path": path, "compression": "lz4"}]}))
        .await
        .unwrap();
    clients.stop(&uuid, true).await.unwrap();

    let zone = agent.zonepath(&uuid);
    update(&mut clients, &uuid, json!({"add_disks": [{"size": 3}, {"size": 4, "model": "ide"}]}))
        .await
        .unwrap();
    assert_eq!(zone.join("disk1").metadata().unwrap().len(), 3 << 20);
    let vm = get(&mut clients, &uuid).await;
    assert_eq!((&vm["disks"][1]["model"], &vm["disks"][2]["model"]), (&json!("virtio"), &json!("ide")));
    let second = zone.join("disk1").display().to_string();
    update(
        &mut clients,
        &uuid,
        json!({"remove_disks": [second], "update_disks": [{"path": path, "size": 9}]}),
    )
    .await
    .unwrap();
    assert!(!zone.join("disk1").exists());
    assert_eq!(zone.join("disk0").metadata().unwrap().len(), 9 << 20);
    // A new disk gets a file that no other one has.
    update(&mut clients, &uuid, json!({"add_disks": [{"size": 1}]})).await.unwrap();
    let vm = get(&mut clients, &uuid).await;
    let paths: Vec<&str> =
        vm["disks"].as_array().unwrap().iter().map(|d| d["path"].as_str().unwrap()).collect();
    assert_eq!(paths.len(), 3);
    assert!(paths.iter().all(|path| std::path::Path::new(path).exists()), "{paths:?}");
}

#[tokio::test]
async fn nics_come_and_go_also_while_the_vm_runs() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(v1::VmSpec { nics: vec![nic("10.0.0.1")], ..machine() }).await;
    clients.start(&uuid).await.unwrap();
    let added = json!({"add_nics": [{"nic_tag": "x"}, {"nic_tag": "y", "primary": true, "ip": "dhcp"}]});
    let answer = update(&mut clients, &uuid, added).await.unwrap();
    assert_eq!(answer.next_boot, ["nics"]);
    let vm = get(&mut clients, &uuid).await;
    let nics = vm["nics"].as_array().unwrap();
    let column =
        |name: &str| nics.iter().map(|nic| nic.get(name).cloned().unwrap_or_default()).collect::<Vec<_>>();
    assert_eq!(column("interface"), [json!("net0"), json!("net1"), json!("net2")]);
    assert_eq!(column("primary"), [Value::Null, Value::Null, json!(true)], "the flag moves");
    assert_eq!(column("model"), [json!("virtio"), json!("virtio"), json!("virtio")], "derived");
    let macs = column("mac");
    // The primary one goes: a public address is preferred, else the first follows.
    update(&mut clients, &uuid, json!({"remove_nics": [macs[2]]})).await.unwrap();
    assert_eq!(get(&mut clients, &uuid).await["nics"][0]["primary"], true);
    let public = json!({"update_nics": [{"mac": macs[1], "ips": ["9.9.9.9/24"]}]});
    update(&mut clients, &uuid, public).await.unwrap();
    let vm = get(&mut clients, &uuid).await;
    assert_eq!(
        (&vm["nics"][1]["ip"], &vm["nics"][1]["netmask"]),
        (&json!("9.9.9.9"), &json!("255.255.255.0"))
    );
    update(&mut clients, &uuid, json!({"update_nics": [{"mac": macs[1], "ips": []}]})).await.unwrap();
    let vm = get(&mut clients, &uuid).await;
    assert!(vm["nics"][1].get("ip").is_none() && vm["nics"][1].get("ips").is_none(), "{vm:?}");
    assert_eq!(vm["nics"].as_array().unwrap().len(), 2);
    for (payload, field) in [
        (json!({"update_nics": [{"mac": macs[0], "netmask": ""}]}), "nics.0.netmask"),
        (json!({"add_nics": [{"nic_tag": "x", "mac": macs[0]}]}), "nics.2.mac"),
        (json!({"add_nics": [{"nic_tag": "admin", "ip": "10.0.0.1", "netmask": "255.0.0.0"}]}), "nics.2.ip"),
    ] {
        let status = update(&mut clients, &uuid, payload).await.unwrap_err();
        assert_eq!(fields(&status), [field], "{status:?}");
    }
}

#[tokio::test]
async fn two_vms_have_no_address_in_common() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let first =
        clients.create(v1::VmSpec { nics: vec![nic("10.0.0.1")], vnc_port: Some(5999), ..machine() }).await;
    let create = |vm: v1::VmSpec| v1::CreateVmRequest { vm: Some(vm), ..Default::default() };
    for (vm, field) in [
        (v1::VmSpec { nics: vec![nic("10.0.0.1")], ..machine() }, "nics.0.ip"),
        (v1::VmSpec { vnc_port: Some(5999), ..machine() }, "vnc_port"),
    ] {
        let status = clients.vms.create_vm(create(vm)).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "CONFLICT"));
        assert!(
            status
                .message()
                .starts_with("Conflict detected with another vm, please check the MAC, IP, and VRID")
        );
        assert_eq!(
            (metadata(&status, "uuid"), metadata(&status, "field")),
            (first.clone(), field.to_owned())
        );
    }
    assert_eq!(std::fs::read_dir(&agent.config.zones_dir).unwrap().count(), 1, "nothing half-made");
    let other_tag = v1::NicSpec { nic_tag: Some("other".into()), ..nic("10.0.0.1") };
    clients.vms.create_vm(create(v1::VmSpec { nics: vec![other_tag], ..machine() })).await.unwrap();
    let second = clients.create(v1::VmSpec { nics: vec![nic("10.0.0.2")], ..machine() }).await;
    let mac = get(&mut clients, &second).await["nics"][0]["mac"].clone();
    let taken = json!({"update_nics": [{"mac": mac, "ip": "10.0.0.1"}]});
    assert_eq!(reason(&update(&mut clients, &second, taken.clone()).await.unwrap_err()), "CONFLICT");
    // What a VM gives up, another may have.
    let own = get(&mut clients, &first).await["nics"][0]["mac"].clone();
    update(&mut clients, &first, json!({"update_nics": [{"mac": own, "ip": "10.0.0.3"}]})).await.unwrap();
    update(&mut clients, &second, taken).await.unwrap();
    clients.delete(&second).await.unwrap();
    clients.vms.create_vm(create(v1::VmSpec { nics: vec![nic("10.0.0.1")], ..machine() })).await.unwrap();
}

#[tokio::test]
async fn metadata_and_secrets() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let set = json!({"set_customer_metadata": {"a": "1", "n": 2, "b": true}, "vnc_password": "hunter2"});
    let answer = update(&mut clients, &uuid, set).await.unwrap();
    assert!(
        answer.changes.iter().any(|c| c.path == "vnc_password" && c.new_value == "\"********\""),
        "{:?}",
        answer.changes
    );
    let both = json!({"set_customer_metadata": {"a": "3"}, "remove_customer_metadata": ["a", "n"]});
    update(&mut clients, &uuid, both).await.unwrap();
    let vm = get(&mut clients, &uuid).await;
    assert_eq!(vm["customer_metadata"], json!({"a": "3", "b": true}), "set wins");
    let everything = format!("{:?}{:?}", clients.journal().await, clients.get(&uuid).await.unwrap());
    assert!(!everything.contains("hunter2"), "no secret is shown");
    let long = clients.vms.update_vm(v1::UpdateVmRequest {
        uuid: uuid.clone(),
        vm: Some(Box::new(v1::VmSpec { vnc_password: Some("123456789".into()), ..Default::default() })),
        ..Default::default()
    });
    let status = long.await.unwrap_err();
    assert!(!format!("{status:?}").contains("123456789"), "not in an error either");
    // A mask unsets.
    let mask = Some(prost_types::FieldMask { paths: vec!["vnc_password".into(), "resolvers".into()] });
    let request = v1::UpdateVmRequest { uuid: uuid.clone(), update_mask: mask, ..Default::default() };
    let answer = clients.vms.update_vm(request).await.unwrap().into_inner();
    assert!(
        answer.changes.iter().any(|c| c.path == "vnc_password" && c.new_value.is_empty()),
        "{:?}",
        answer.changes
    );
}

#[tokio::test]
async fn the_display_changes_while_the_vm_runs() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    clients.start(&uuid).await.unwrap();
    let port = |info: v1::GetVmInfoResponse| info.info.unwrap().fields["vnc"].clone();
    let info = v1::GetVmInfoRequest { uuid: uuid.clone(), types: vec!["vnc".into()] };
    let before = port(clients.vms.get_vm_info(info.clone()).await.unwrap().into_inner());
    update(&mut clients, &uuid, json!({"vnc_port": -1})).await.unwrap();
    let after = port(clients.vms.get_vm_info(info.clone()).await.unwrap().into_inner());
    assert_ne!(before, after);
    assert_eq!(
        after,
        prost_types::Value { kind: Some(prost_types::value::Kind::StructValue(Default::default())) }
    );
    update(&mut clients, &uuid, json!({"vnc_port": 0, "vnc_password": "pw"})).await.unwrap();
    let done = agent.hypervisor.done(uuid.parse().unwrap());
    assert!(done.contains(&"password pw".to_owned()), "{done:?}");
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer() {
    let mut agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let request = v1::UpdateVmRequest {
        request_id: "6ba7b810-9dad-41d1-80b4-00c04fd430c8".into(),
        ..request(&uuid, json!({"alias": "x"}))
    };
    let first = clients.vms.update_vm(request.clone()).await.unwrap().into_inner();
    update(&mut clients, &uuid, json!({"alias": "y"})).await.unwrap();
    agent.stop().await;
    agent.resume().await;
    let mut clients = agent.clients().await;
    assert_eq!(clients.vms.update_vm(request).await.unwrap().into_inner(), first);
    assert_eq!(get(&mut clients, &uuid).await["alias"], "y");
}

#[tokio::test]
async fn what_is_indestructible_is_not_deleted() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(v1::VmSpec { indestructible_zoneroot: Some(true), ..machine() }).await;
    let status = clients.delete(&uuid).await.unwrap_err();
    assert_eq!(status.message(), "indestructible_zoneroot is set, cannot delete");
    update(&mut clients, &uuid, json!({"indestructible_zoneroot": false})).await.unwrap();
    clients.delete(&uuid).await.unwrap();
}

#[tokio::test]
async fn signals_interrupts_and_pausing() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let kill =
        |signal: &str| v1::KillVmRequest { uuid: uuid.clone(), signal: signal.into(), ..Default::default() };
    let status = clients.vms.kill_vm(kill("")).await.unwrap_err();
    assert_eq!(status.message(), format!("Cannot find running init PID for VM {uuid}"));
    clients.start(&uuid).await.unwrap();
    assert_eq!(clients.vms.kill_vm(kill("0")).await.unwrap().into_inner().signal, "0");
    assert_eq!(fields(&clients.vms.kill_vm(kill("FOO")).await.unwrap_err()), ["signal"]);
    let sysrq = |kind: v1::send_sysrq_request::Type| v1::SendSysrqRequest {
        uuid: uuid.clone(),
        r#type: kind.into(),
        ..Default::default()
    };
    clients.vms.send_sysrq(sysrq(v1::send_sysrq_request::Type::Nmi)).await.unwrap();
    let stale = v1::SendSysrqRequest { etag: "g0".into(), ..sysrq(v1::send_sysrq_request::Type::Nmi) };
    assert_eq!(reason(&clients.vms.send_sysrq(stale).await.unwrap_err()), "ETAG_MISMATCH");
    clients.vms.send_sysrq(sysrq(v1::send_sysrq_request::Type::Screenshot)).await.unwrap();
    assert!(agent.zonepath(&uuid).join("root/tmp/vm.ppm").exists());
    let status = clients.vms.send_sysrq(sysrq(v1::send_sysrq_request::Type::Unspecified)).await.unwrap_err();
    assert_eq!(fields(&status), ["type"]);
    assert_eq!(agent.hypervisor.done(uuid.parse().unwrap()), ["nmi", "wake"]);

    let pause = v1::PauseVmRequest { uuid: uuid.clone(), ..Default::default() };
    let resume = v1::ResumeVmRequest { uuid: uuid.clone(), ..Default::default() };
    assert_eq!(reason(&clients.vms.resume_vm(resume.clone()).await.unwrap_err()), "VM_STATE");
    let vm = clients.vms.pause_vm(pause.clone()).await.unwrap().into_inner().vm.unwrap();
    assert_eq!(vm.status.unwrap().state(), v1::VmState::Paused);
    assert_eq!(reason(&clients.vms.pause_vm(pause).await.unwrap_err()), "VM_STATE");
    let vm = clients.vms.resume_vm(resume).await.unwrap().into_inner().vm.unwrap();
    assert_eq!(vm.status.unwrap().state(), v1::VmState::Running);
    clients.vms.kill_vm(kill("KILL")).await.unwrap();
    super::support::eventually("stopped", || {
        let (mut clients, uuid) = (clients.clone(), uuid.clone());
        async move {
            let status = clients.get(&uuid).await.unwrap().status.unwrap();
            (status.state() == v1::VmState::Stopped).then_some(())
        }
    })
    .await;
    let exit = clients.get(&uuid).await.unwrap().status.unwrap().exit.unwrap();
    assert_eq!((exit.reason(), exit.status), (v1::ExitReason::Operator, 137));
}

#[tokio::test]
async fn media_are_changed() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let cd = v1::DiskSpec {
        media: Some("cdrom".into()),
        path: Some("/a.iso".into()),
        model: Some("ide".into()),
        ..Default::default()
    };
    let uuid = clients.create(v1::VmSpec { disks: vec![disk(1), cd], ..machine() }).await;
    let root = agent.zonepath(&uuid).join("root");
    for name in ["a.iso", "b.iso"] {
        std::fs::write(root.join(name), name).unwrap();
    }
    let media = |drive: &str, path: &str| v1::ChangeMediaRequest {
        uuid: uuid.clone(),
        drive: drive.into(),
        path: path.into(),
        ..Default::default()
    };
    // A stopped VM finds another medium at its next boot.
    clients.vms.change_media(media("", "/b.iso")).await.unwrap();
    assert_eq!(get(&mut clients, &uuid).await["disks"][1]["path"], "/b.iso");
    assert_eq!(reason(&clients.vms.change_media(media("", "")).await.unwrap_err()), "VM_STATE");
    clients.start(&uuid).await.unwrap();
    clients.vms.change_media(media("/b.iso", "/a.iso")).await.unwrap();
    clients.vms.change_media(media("", "")).await.unwrap();
    assert_eq!(get(&mut clients, &uuid).await["disks"][1].get("path"), None, "out for good");
    assert_eq!(agent.hypervisor.done(uuid.parse().unwrap()), ["insert drive1", "eject drive1"]);
    // An empty drive still has its name.
    clients.vms.change_media(media("drive1", "/b.iso")).await.unwrap();
    clients.vms.change_media(media("drive1", "")).await.unwrap();
    for (drive, path, reason_) in [
        ("/x.iso", "/a.iso", "FILE_NOT_FOUND"),
        ("", "/none.iso", "FILE_NOT_FOUND"),
        ("", "x", "INVALID_MACHINE"),
    ] {
        assert_eq!(
            reason(&clients.vms.change_media(media(drive, path)).await.unwrap_err()),
            reason_,
            "{drive} {path}"
        );
    }
}

/// A machine says everything, whatever was taken from it.
#[tokio::test]
async fn what_is_unset_has_its_default_again() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let fresh = clients.create(machine()).await;
    let fresh = get(&mut clients, &fresh).await;
    let named = v1::VmSpec {
        ram: Some(512),
        vcpus: Some(2),
        hostname: Some("h".into()),
        boot: Some("dc".into()),
        cpu_shares: Some(7),
        ..machine()
    };
    let uuid = clients.create(named).await;
    let names = ["ram", "vcpus", "hostname", "boot", "cpu_shares", "bootrom", "vga", "on_panic", "alias"];
    let payload = names.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
    update(&mut clients, &uuid, Value::Object(payload)).await.unwrap();
    let now = get(&mut clients, &uuid).await;
    for name in names {
        let own_name = json!(uuid);
        let default = if name == "hostname" { Some(&own_name) } else { fresh.get(name) };
        assert_eq!(now.get(name), default, "{name}");
    }
    let filters = vec!["ram=256".to_owned()];
    let list = v1::ListVmsRequest { filters, ..Default::default() };
    assert!(clients.vms.list_vms(list).await.unwrap().into_inner().vms.iter().any(|vm| vm.uuid == uuid));
}

#[tokio::test]
async fn validation_of_updates() {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let validate = |update: v1::UpdateVmRequest, brand: &str| v1::ValidateVmRequest {
        update: Some(Box::new(update)),
        brand: brand.into(),
        vm: None,
        ..Default::default()
    };
    let of =
        |answer: v1::ValidateVmResponse| answer.violations.into_iter().map(|v| v.field).collect::<Vec<_>>();
    let bad = v1::UpdateVmRequest {
        vm: Some(Box::new(v1::VmSpec {
            ram: Some(-5),
            uuid: Some("doogle".into()),
            alias: Some("x".into()),
            ..Default::default()
        })),
        ..Default::default()
    };
    let answer = clients.vms.validate_vm(validate(bad, "kvm")).await.unwrap().into_inner();
    assert_eq!(of(answer), ["uuid", "ram"]);
    let missing = request(&uuid, json!({"remove_disks": ["/x"]}));
    let answer = clients.vms.validate_vm(validate(missing, "")).await.unwrap().into_inner();
    assert_eq!(of(answer), ["remove_disks.0"]);
    let nobodys = v1::UpdateVmRequest::default();
    assert_eq!(fields(&clients.vms.validate_vm(validate(nobodys, "")).await.unwrap_err()), ["brand"]);
    let schema =
        clients.vms.get_vm_schema(v1::GetVmSchemaRequest {}).await.unwrap().into_inner().schema.unwrap();
    assert!(schema.fields.contains_key("properties") && schema.fields.contains_key("$defs"));
}
