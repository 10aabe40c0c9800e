//! A guest asks for its address, and the agent answers: nobody else hears it.

use serde_json::json;
use zoneward::proto::v1::boot_phase::Phase;

use super::support::net::{Guest, Net};

#[tokio::test]
async fn a_guest_is_given_its_network_and_nobody_hears_it_ask() {
    let Some(net) = Net::new().await else { return };
    let mut agent = net.agent(&[]).await;
    let nic = |ip: &str, mac: &str| {
        json!({"nic_tag": "lan", "model": "virtio", "mac": mac, "ip": ip, "netmask": "255.255.255.0",
            "gateway": "10.0.0.1", "mtu": 1400})
    };
    let machine = |number: u8| {
        let mac = format!("02:00:00:00:00:0{number}");
        json!({"hostname": format!("guest{number}"), "resolvers": ["10.0.0.2", "10.0.0.3"],
            "routes": {"10.7.0.0/16": "10.0.0.9"}, "nics": [nic(&format!("10.0.0.{number}"), &mac)]})
    };
    let (mut asking, mut hearing) =
        tokio::join!(Guest::boot(&agent, machine(5)), Guest::boot(&agent, machine(6)));
    hearing.run(&agent, "ip link set eth0 up; wire hear eth0 &", "HEARING").await;
    // A change before that is no reason to be told nothing of it, and one after it none to be told twice.
    asking.update(&agent, &json!({"resolvers": ["10.0.0.2", "10.0.0.3", "fd00::2"]}));
    let told = asking.run(&agent, "lease", "time=86400").await;
    let expected = "10.0.0.5/24 router=10.0.0.1 dns=10.0.0.2 10.0.0.3 hostname=guest5 mtu=1400 \
        routes=10.7.0.0/16 10.0.0.9 0.0.0.0/0 10.0.0.1 server=169.254.169.254 time=86400";
    assert!(told.contains(expected), "{told}");
    // What was said before this came before it, if at all: what the one says is heard by the other in order.
    asking.type_line(&agent, "wire send eth0 ffffffffffff020000000005080600010800060400010200000000050a0000050000000000000a0000065a4f4e45574152442068656c6c6f2e");
    let heard = hearing.until("HEARD ZONEWARD hello").await;
    assert!(!heard.contains("a request for an address"), "{heard}");
    hearing.run(&agent, "kill %1; lease", "LEASE: 10.0.0.6").await;
    asking.run(&agent, "ping -c 1 10.0.0.6", "1 packets received").await;
    asking.update(&agent, &json!({"resolvers": ["10.0.0.2"]}));
    asking.run(&agent, "ip addr flush dev eth0; lease", "dns=10.0.0.2 hostname").await;
    let phases = asking.phases(&agent).await;
    let addresses: Vec<_> = phases.iter().filter(|phase| phase.phase() == Phase::GuestAddress).collect();
    assert_eq!(addresses.len(), 1, "{phases:?}");
    assert_eq!((addresses[0].address.as_str(), addresses[0].mac.as_str()), ("10.0.0.5", "02:00:00:00:00:05"));

    let (told, _) = agent.vmadm_ok(&["events", "--from-start", "--no-follow"]);
    assert!(
        told.lines().any(
            |line| line.contains("boot GUEST_ADDRESS") && line.ends_with("10.0.0.5 on 02:00:00:00:00:05")
        ),
        "{told}"
    );

    // The next agent answers too; and so it does after a change, with what is true then.
    agent.kill();
    agent.resume().await;
    asking.reconnect(&agent).await;
    asking.run(&agent, "ip addr flush dev eth0; lease", "LEASE: 10.0.0.5").await;
    asking.update(&agent, &json!({"hostname": "renamed", "resolvers": ["10.0.0.4"]}));
    asking.run(&agent, "ip addr flush dev eth0; lease", "dns=10.0.0.4 hostname=renamed").await;
    let mac = "02:00:00:00:00:05";
    asking.update(&agent, &json!({"update_nics": [{"mac": mac, "answer_dhcp": false}]}));
    asking.run(&agent, "lease", "no lease, failing").await;
}
