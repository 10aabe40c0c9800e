//! Nic tags: what is on this host, and what can't be.

use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use zoneward::{
    internals::{
        config::Config,
        network::{Tag, TagKind},
    },
    proto::v1::{self, nic_tag::Kind},
};

use super::{
    support::{Clients, fields, machine, simulated::Simulated},
    update::update,
};

fn tags(config: &mut Config) {
    for (name, kind, link, mtu) in [
        ("lan", TagKind::Bridge, "br0", 1500),
        ("stub", TagKind::Etherstub, "", 1500),
        ("wan", TagKind::Uplink, "eth1", 9000),
        ("shared", TagKind::Macvtap, "eth2", 1500),
        ("none", TagKind::Isolated, "", 1500),
    ] {
        config.network.tags.insert(name.to_owned(), Tag { kind, link: link.to_owned(), mtu });
    }
}

fn on(nics: &[(&str, Option<i32>)]) -> v1::VmSpec {
    let nic = |(tag, mtu): &(&str, Option<i32>)| v1::NicSpec {
        nic_tag: Some((*tag).to_owned()),
        model: Some("virtio".into()),
        mtu: *mtu,
        ..Default::default()
    };
    v1::VmSpec { nics: nics.iter().map(nic).collect(), ..machine() }
}

async fn page(clients: &mut Clients, page_size: i32, page_token: &str) -> v1::ListNicTagsResponse {
    let request = v1::ListNicTagsRequest { page_size, page_token: page_token.to_owned() };
    clients.host.list_nic_tags(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn tags_are_listed() {
    let agent = Simulated::start_with(tags).await;
    let mut clients = agent.clients().await;
    let all = page(&mut clients, 0, "").await;
    let seen: Vec<_> = all
        .nic_tags
        .iter()
        .map(|tag| (tag.name.as_str(), tag.kind(), tag.device.as_str(), tag.uplink.as_str(), tag.mtu))
        .collect();
    assert_eq!(
        seen,
        [
            ("lan", Kind::Bridge, "br0", "", 1500),
            ("none", Kind::Isolated, "", "", 1500),
            ("shared", Kind::Macvtap, "eth2", "", 1500),
            ("stub", Kind::Etherstub, "", "", 1500),
            ("wan", Kind::Uplink, "eth1", "eth1", 9000),
        ]
    );
    assert_eq!(all.next_page_token, "");
    let first = page(&mut clients, 2, "").await;
    assert_eq!((first.nic_tags.len(), first.next_page_token.as_str()), (2, "none"));
    let last = page(&mut clients, 3, "none").await;
    assert_eq!((last.nic_tags[0].name.as_str(), last.next_page_token.as_str()), ("shared", ""));
    let negative = v1::ListNicTagsRequest { page_size: -1, ..Default::default() };
    assert_eq!(clients.host.list_nic_tags(negative).await.unwrap_err().code(), Code::InvalidArgument);
}

fn why(status: &Status) -> String {
    let details = status.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    violations.iter().map(|violation| violation.description.as_str()).collect::<Vec<_>>().join("; ")
}

#[tokio::test]
async fn mtus_and_tags() {
    let agent = Simulated::start_with(tags).await;
    let mut clients = agent.clients().await;
    let mut create = async |nics: &[(&str, Option<i32>)]| {
        let request = v1::CreateVmRequest { vm: Some(on(nics)), ..Default::default() };
        let asked = v1::ValidateVmRequest { vm: Some(Box::new(on(nics))), ..Default::default() };
        let validated = clients.vms.validate_vm(asked).await.unwrap().into_inner();
        let created = clients.vms.create_vm(request).await;
        assert_eq!(created.is_ok(), validated.violations.is_empty(), "{created:?}");
        created.map(|_| ()).map_err(|status| (fields(&status), why(&status)))
    };
    create(&[("lan", None), ("lan", Some(1500)), ("stub", Some(1000)), ("wan", Some(9000))]).await.unwrap();
    let (fields, message) = create(&[("lan", None), ("lan", Some(1499))]).await.unwrap_err();
    assert_eq!(fields, ["nics.1.mtu"]);
    assert!(message.contains("MTU is below the supported MTU (1500) of nic tag \"lan\""), "{message}");
    let (fields, _) = create(&[("lan", Some(1501))]).await.unwrap_err();
    assert_eq!(fields, ["nics.0.mtu"]);
    let (fields, message) = create(&[("lam", None)]).await.unwrap_err();
    assert_eq!(fields, ["nics.0.nic_tag"]);
    let known = "Invalid nic tag \"lam\"; this host has: lan, none, shared, stub, wan";
    assert!(message.contains(known), "{message}");
}

#[tokio::test]
async fn a_tag_that_went_away() {
    let mut agent = Simulated::start_with(tags).await;
    let mut clients = agent.clients().await;
    let (running, stopped) =
        (clients.create(on(&[("lan", None)])).await, clients.create(on(&[("lan", None)])).await);
    clients.start(&running).await.unwrap();
    agent.stop().await;
    agent.config.network.tags.remove("lan");
    agent.resume().await;
    let mut clients = agent.clients().await;
    let refused = clients.start(&stopped).await.unwrap_err();
    assert!(refused.message().contains("Invalid nic tag \"lan\""), "{}", refused.message());
    assert_eq!(clients.state(&stopped).await, v1::VmState::Stopped);
    // The guest goes on: a reboot would end it.
    let reboot = v1::RebootVmRequest { uuid: running.clone(), ..Default::default() };
    let refused = clients.vms.reboot_vm(reboot).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("Cannot reboot vm: Invalid nic tag \"lan\""), "{}", refused.message());
    assert_eq!(clients.state(&running).await, v1::VmState::Running);
    // What has nothing to do with it can be changed, and so can the tag itself.
    update(&mut clients, &running, json!({"alias": "b"})).await.unwrap();
    let refused =
        update(&mut clients, &running, json!({"add_nics": [{"nic_tag": "lan"}]})).await.unwrap_err();
    assert_eq!(fields(&refused), ["nics.0.nic_tag", "nics.1.nic_tag"]);
    let mac = clients.get(&stopped).await.unwrap().spec.unwrap().nics[0].mac.clone().unwrap();
    update(&mut clients, &stopped, json!({"update_nics": [{"mac": mac, "nic_tag": "stub"}]})).await.unwrap();
    clients.start(&stopped).await.unwrap();
}

#[tokio::test]
async fn what_waits_and_what_does_not() {
    let agent = Simulated::start_with(tags).await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(on(&[("lan", None)])).await;
    clients.start(&uuid).await.unwrap();
    let mac = clients.get(&uuid).await.unwrap().spec.unwrap().nics[0].mac.clone().unwrap();
    let mut waits = async |change: serde_json::Value| {
        let mut change = change;
        change["mac"] = json!(mac);
        update(&mut clients, &uuid, json!({"update_nics": [change]})).await.unwrap().next_boot
    };
    for live in [
        json!({"allow_mac_spoofing": true}),
        json!({"allow_ip_spoofing": true}),
        json!({"allow_dhcp_spoofing": true}),
        json!({"allow_restricted_traffic": true}),
        json!({"allow_unfiltered_promisc": true}),
        json!({"dhcp_server": true}),
        json!({"answer_dhcp": false}),
        json!({"allowed_ips": ["10.1.0.0/16"]}),
        json!({"allowed_dhcp_cids": ["0x01ff"]}),
        json!({"blocked_outgoing_ports": [25]}),
    ] {
        assert!(waits(live.clone()).await.is_empty(), "{live}");
    }
    for later in
        [json!({"ip": "10.0.0.1", "netmask": "255.0.0.0"}), json!({"model": "e1000"}), json!({"vlan_id": 2})]
    {
        assert_eq!(waits(later.clone()).await, ["nics"], "{later}");
    }
    assert!(
        update(&mut clients, &uuid, json!({"firewall_enabled": true})).await.unwrap().next_boot.is_empty()
    );
}
