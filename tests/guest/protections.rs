//! What a guest can't send, by real frames out of a real guest that another one hears; and that each is let through
//! by its flag, live.

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder, VlanId};
use serde_json::{Value, json};

use super::support::{
    net::{Guest, Net},
    real::Real,
};

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 5];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const ALL: [u8; 6] = [0xff; 6];
const OWN_IP: [u8; 4] = [10, 0, 0, 5];
const OTHER_IP: [u8; 4] = [10, 0, 0, 9];

fn six(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().unwrap().octets()
}

/// The link-local address that goes with [`OWN`].
fn own6() -> [u8; 16] {
    six("fe80::ff:fe00:5")
}

fn word(name: &str) -> Vec<u8> {
    format!("ZONEWARD {name}.").into_bytes()
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = Vec::new();
    write(&mut frame);
    frame
}

fn udp(from: [u8; 6], ip: [u8; 4], ports: (u16, u16), name: &str) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from, ALL).ipv4(ip, [255; 4], 64).udp(ports.0, ports.1);
    written(|frame| builder.write(frame, &word(name)).unwrap())
}

fn udp6(from: [u8; 16], ports: (u16, u16), name: &str) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(OWN, ALL).ipv6(from, six("ff02::1"), 64).udp(ports.0, ports.1);
    written(|frame| builder.write(frame, &word(name)).unwrap())
}

fn arp(hardware: [u8; 6], ip: [u8; 4], name: &str) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REPLY,
        &hardware,
        &ip,
        &ALL,
        &[10, 0, 0, 6],
    );
    let builder = PacketBuilder::ethernet2(OWN, ALL).arp(packet.unwrap());
    written(|frame| {
        builder.write(frame).unwrap();
        frame.extend(word(name));
    })
}

/// A message of neighbour discovery; its word is in an option that nobody knows.
fn discovery(from: [u8; 16], kind: u8, target: &[u8], options: &[u8], name: &str) -> Vec<u8> {
    let mut option = word(name);
    option.resize(46, 0);
    let body = [target, options, &[253, 6], &option].concat();
    let builder =
        PacketBuilder::ethernet2(OWN, ALL).ipv6(from, six("ff02::1"), 255).icmpv6_raw(kind, 0, [0; 4]);
    written(|frame| builder.write(frame, &body).unwrap())
}

fn tcp(port: u16, name: &str) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(OWN, ALL).ipv4(OWN_IP, [10, 0, 0, 6], 64).tcp(4000, port, 1, 1000).syn();
    written(|frame| builder.write(frame, &word(name)).unwrap())
}

fn tagged(name: &str) -> Vec<u8> {
    let vlan = VlanId::try_new(7).unwrap();
    let builder =
        PacketBuilder::ethernet2(OWN, ALL).single_vlan(vlan).ipv4(OWN_IP, [255; 4], 64).udp(4000, 4000);
    written(|frame| builder.write(frame, &word(name)).unwrap())
}

fn of_type(kind: u16, name: &str) -> Vec<u8> {
    [&ALL[..], &OWN, &kind.to_be_bytes(), &word(name), &[0; 40]].concat()
}

/// The option that says whose link-layer address it is: 1 of who asks, 2 of who answers.
fn own_option(kind: u8) -> [u8; 8] {
    let [a, b, c, d, e, f] = OWN;
    [kind, 1, a, b, c, d, e, f]
}

/// What a probe has in its place.
const NONCE: [u8; 8] = [14, 1, 9, 9, 9, 9, 9, 9];

fn arp_probe(target: [u8; 4], name: &str) -> Vec<u8> {
    let mut frame = arp(OWN, [0; 4], name);
    frame[38..42].copy_from_slice(&target);
    frame
}

/// The first piece of a packet.
fn piece(mut frame: Vec<u8>) -> Vec<u8> {
    frame[20] |= 0x20;
    // The header's sum, with what was added to it.
    let (sum, carry) = (!u16::from_be_bytes([frame[24], frame[25]])).overflowing_add(0x2000);
    frame[24..26].copy_from_slice(&(!(sum + u16::from(carry))).to_be_bytes());
    frame
}

/// A discovery in two pieces, the first without a word of what it is.
fn in_pieces(name: &str) -> Vec<u8> {
    let own = own6();
    // An IPv6 header; a fragment header that says ICMPv6 and more to come; the beginning of an advertisement.
    let fragment =
        [&[58, 0, 0, 1, 0, 0, 0, 1][..], &[134, 0, 0, 0, 64, 0, 0, 0], &word(name), &[0; 8]].concat();
    let length = u16::try_from(fragment.len()).unwrap().to_be_bytes();
    let header = [&[0x60, 0, 0, 0][..], &length, &[44, 255], &own, &six("ff02::1")].concat();
    [&ALL[..], &OWN, &[0x86, 0xdd], &header, &fragment].concat()
}

struct Case {
    name: &'static str,
    frame: Vec<u8>,
    /// What lets it through.
    opened_by: Value,
}

fn case(name: &'static str, frame: fn(&str) -> Vec<u8>, opened_by: &Value) -> Case {
    Case { name, frame: frame(name), opened_by: opened_by.clone() }
}

fn cases() -> Vec<Case> {
    let mac = json!({"allow_mac_spoofing": true});
    let ip = json!({"allow_ip_spoofing": true});
    let dhcp = json!({"allow_dhcp_spoofing": true});
    let restricted = json!({"allow_restricted_traffic": true});
    vec![
        case("mac", |name| udp(OTHER, OWN_IP, (4000, 4000), name), &mac),
        case("mac in arp", |name| arp(OTHER, OWN_IP, name), &mac),
        case(
            "mac in an advertisement",
            |name| discovery(own6(), 136, &own6(), &[&[2, 1][..], &OTHER].concat(), name),
            &mac,
        ),
        case(
            "mac in a later option",
            |name| discovery(own6(), 136, &own6(), &[&NONCE[..], &[2, 1], &OTHER].concat(), name),
            &mac,
        ),
        case(
            "arp of another kind",
            |name| {
                let mut frame = arp(OWN, OWN_IP, name);
                frame[15] = 6;
                frame
            },
            &json!({"allow_mac_spoofing": true, "allow_ip_spoofing": true}),
        ),
        case("ip", |name| udp(OWN, OTHER_IP, (4000, 4000), name), &ip),
        case("probed ip", |name| arp_probe(OTHER_IP, name), &ip),
        case(
            "ip by a network",
            |name| udp(OWN, OTHER_IP, (4000, 4000), name),
            &json!({"allowed_ips": ["10.0.0.8/30"]}),
        ),
        case("ip by a server", |name| udp(OWN, OTHER_IP, (4000, 4000), name), &dhcp),
        case("ip in arp", |name| arp(OWN, OTHER_IP, name), &ip),
        case("ip6", |name| udp6(six("fd00::9"), (4000, 4000), name), &ip),
        case(
            "ip6 by a network",
            |name| udp6(six("fd00::9"), (4000, 4000), name),
            &json!({"allowed_ips": ["fd00::/64"]}),
        ),
        case("link-local", |name| udp6(six("fe80::1"), (4000, 4000), name), &ip),
        case("advertised address", |name| discovery(own6(), 136, &six("fd00::9"), &own_option(2), name), &ip),
        case("probed address", |name| discovery([0; 16], 135, &six("fd00::9"), &NONCE, name), &ip),
        case("dhcp offer", |name| udp(OWN, OWN_IP, (67, 68), name), &dhcp),
        case(
            "dhcp offer by a server",
            |name| udp(OWN, OWN_IP, (67, 68), name),
            &json!({"dhcp_server": true}),
        ),
        case("dhcp offer from elsewhere", |name| udp(OWN, OWN_IP, (4000, 68), name), &dhcp),
        case("dhcp in pieces", |name| piece(udp(OWN, OWN_IP, (4000, 68), name)), &dhcp),
        case("dhcpv6 reply", |name| udp6(own6(), (547, 546), name), &dhcp),
        case("router advertisement", |name| discovery(own6(), 134, &[0; 8], &[], name), &dhcp),
        case("redirect", |name| discovery(own6(), 137, &[0; 32], &[], name), &dhcp),
        case(
            "advertisement in pieces",
            in_pieces,
            &json!({"allow_mac_spoofing": true, "allow_ip_spoofing": true, "allow_dhcp_spoofing": true}),
        ),
        case("lldp", |name| of_type(0x88cc, name), &restricted),
        case("a length for a type", |name| of_type(60, name), &restricted),
        case("vlan", tagged, &restricted),
        case("blocked port", |name| tcp(25, name), &json!({"blocked_outgoing_ports": []})),
    ]
}

/// Sends a frame and then some that always pass; whether the first was heard.
async fn is_heard(
    agent: &Real,
    sender: &mut Guest,
    hearer: &mut Guest,
    frame: &[u8],
    case: &str,
    round: &str,
) -> bool {
    let hex = |frame: &[u8]| frame.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut heard = String::new();
    let mut next = Some(hex(frame));
    // Frames of one burst may overtake each other, those of two don't.
    for burst in ["first", "second"] {
        let after = format!("{round} {burst}");
        let frames =
            format!("{} {}", next.take().unwrap_or_default(), hex(&udp(OWN, OWN_IP, (4000, 4000), &after)));
        sender.run(agent, &format!("wire send eth0 {frames}"), "SENT\r").await;
        sender.until("/ # ").await;
        heard += &hearer.until(&format!("HEARD ZONEWARD {after}\r")).await;
    }
    heard.contains(&format!("HEARD ZONEWARD {case}\r"))
}

fn dropped(net: &Net, uuid: &str) -> u64 {
    let listed: Value = serde_json::from_str(&net.ok(&["nft", "-j", "list", "counters"])).unwrap();
    let counters = listed["nftables"].as_array().unwrap().iter().filter_map(|item| item.get("counter"));
    let own =
        counters.filter(|counter| counter["name"].as_str().unwrap().starts_with(&format!("vm-{uuid}-")));
    own.map(|counter| counter["packets"].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn nothing_false_is_sent_and_each_flag_lets_its_own_through() {
    let Some(net) = Net::new().await else { return };
    let agent = net.agent(&[]).await;
    let nic = json!({"nic_tag": "lan", "model": "virtio", "mac": "02:00:00:00:00:05", "ips": ["10.0.0.5/24"],
        "blocked_outgoing_ports": [25, 465]});
    let ear = json!({"nic_tag": "lan", "model": "virtio", "ips": ["10.0.0.6/24"], "allow_unfiltered_promisc": true, "allow_restricted_traffic": true});
    let (mut sender, mut hearer) = tokio::join!(
        Guest::boot(&agent, json!({"nics": [nic]})),
        Guest::boot(&agent, json!({"nics": [ear]}))
    );
    sender.run(&agent, "ip link set eth0 up; echo up", "up\r").await;
    hearer.run(&agent, "ip link set eth0 up; wire hear eth0 &", "HEARING").await;
    // What it may say.
    for (round, (name, frame)) in [
        ("own udp", udp(OWN, OWN_IP, (4000, 4000), "own udp")),
        ("own arp", arp(OWN, OWN_IP, "own arp")),
        ("own udp6", udp6(own6(), (4000, 4000), "own udp6")),
        (
            "own advertisement",
            discovery(own6(), 136, &own6(), &[&[2, 1][..], &OWN].concat(), "own advertisement"),
        ),
        ("own probe", discovery([0; 16], 135, &own6(), &NONCE, "own probe")),
        ("own question", discovery(own6(), 135, &six("fe80::1"), &own_option(1), "own question")),
        ("own arp probe", arp_probe(OWN_IP, "own arp probe")),
        ("own tcp", tcp(80, "own tcp")),
    ]
    .into_iter()
    .enumerate()
    {
        let after = format!("own{round}");
        assert!(is_heard(&agent, &mut sender, &mut hearer, &frame, name, &after).await, "{name}");
    }
    let change = |sender: &Guest, mut change: Value| {
        change["mac"] = json!("02:00:00:00:00:05");
        sender.update(&agent, &json!({"update_nics": [change]}));
    };
    for (index, Case { name, frame, opened_by }) in cases().into_iter().enumerate() {
        let before = dropped(&net, &sender.uuid);
        let shut = is_heard(&agent, &mut sender, &mut hearer, &frame, name, &format!("shut{index}")).await;
        assert!(!shut, "{name} was heard");
        assert!(dropped(&net, &sender.uuid) > before, "{name} was not counted");
        change(&sender, opened_by.clone());
        let open = is_heard(&agent, &mut sender, &mut hearer, &frame, name, &format!("open{index}")).await;
        assert!(open, "{name} was not heard, with {opened_by}");
        let back = opened_by.as_object().unwrap().keys().map(|key| {
            let usual = if key == "blocked_outgoing_ports" { json!([25, 465]) } else { Value::Null };
            (key.clone(), usual)
        });
        change(&sender, back.collect::<serde_json::Map<_, _>>().into());
    }
}

/// An interface by DHCP is heard by servers of its network, and may use what they lease.
#[tokio::test]
async fn a_server_of_the_network_is_heard() {
    let Some(net) = Net::new().await else { return };
    let mut agent = net.agent(&[]).await;
    let client =
        json!({"nics": [{"nic_tag": "lan", "model": "virtio", "mac": "02:00:00:00:00:05", "ip": "dhcp"}]});
    let server = json!({"nics": [{"nic_tag": "lan", "model": "virtio", "mac": "02:00:00:00:00:06",
        "ips": ["10.0.0.6/24"], "dhcp_server": true, "answer_dhcp": false}]});
    let (mut client, mut server) = tokio::join!(Guest::boot(&agent, client), Guest::boot(&agent, server));
    let serve = "ip addr add 10.0.0.6/24 dev eth0; ip link set eth0 up; touch /l; \
        printf 'start 10.0.0.70\\nend 10.0.0.70\\ninterface eth0\\nlease_file /l\\noption subnet 255.255.255.0\\n' >/c; \
        udhcpd -f /c & wire hear eth0 &";
    server.run(&agent, serve, "HEARING").await;
    // It takes what it likes to no avail.
    client
        .run(
            &agent,
            "ip addr add 10.0.0.70/24 dev eth0; ip link set eth0 up; ping -c 2 -W 1 10.0.0.6",
            "100% packet loss",
        )
        .await;
    client.run(&agent, "ip addr flush dev eth0; lease", "LEASE: 10.0.0.70").await;
    server.until("HEARD a request for an address").await;
    client.run(&agent, "ping -c 1 10.0.0.6", "1 packets received").await;
    let phases = client.phases(&agent).await;
    let addresses: Vec<&str> =
        phases.iter().map(|phase| phase.address.as_str()).filter(|address| !address.is_empty()).collect();
    assert_eq!(addresses, ["10.0.0.70"]);
    // What was learned outlives agents and changes.
    agent.kill();
    agent.resume().await;
    client.reconnect(&agent).await;
    server.reconnect(&agent).await;
    client
        .update(&agent, &json!({"update_nics": [{"mac": "02:00:00:00:00:05", "allow_mac_spoofing": true}]}));
    client.run(&agent, "ping -c 1 10.0.0.6; echo after", "1 packets received").await;
    // A listed client alone may ask.
    let listed =
        |cid: &str| json!({"update_nics": [{"mac": "02:00:00:00:00:05", "allowed_dhcp_cids": [cid]}]});
    client.update(&agent, &listed("0x01ffffffffffff"));
    client
        .run(&agent, "ip addr flush dev eth0; udhcpc -i eth0 -n -q -f -s /bin/true -t 2 -T 1", "no lease")
        .await;
    client.update(&agent, &listed("0x01020000000005"));
    client.run(&agent, "lease", "LEASE: 10.0.0.70").await;
}

#[tokio::test]
async fn the_firewall_lets_in_what_was_asked_for() {
    let Some(net) = Net::new().await else { return };
    let mut agent = net.agent(&[]).await;
    let nic = |number: u8| {
        json!({"nic_tag": "lan", "model": "virtio", "mac": format!("02:00:00:00:00:0{number}"),
            "ips": [format!("10.0.0.{number}/24")]})
    };
    let (mut behind, mut outside) = tokio::join!(
        Guest::boot(&agent, json!({"firewall_enabled": true, "nics": [nic(5)]})),
        Guest::boot(&agent, json!({"nics": [nic(6)]}))
    );
    let serve = "lease; (while :; do echo ser''ved | nc -l -p 80; done) 2>/dev/null & until grep -q ':0050 .* 0A ' /proc/net/tcp*; do :; done; echo se''t";
    tokio::join!(behind.run(&agent, serve, "set\r"), outside.run(&agent, serve, "set\r"));
    let fetch = |from: u8| format!("nc -w 5 10.0.0.{from} 80 </dev/null || echo fetched noth''ing");
    behind.run(&agent, &fetch(6), "served\r").await;
    outside.run(&agent, &fetch(5), "fetched nothing\r").await;
    behind.run(&agent, "ping -c 1 -W 3 10.0.0.6", "1 packets received").await;
    outside.run(&agent, "ping -c 1 -W 3 10.0.0.5", "0 packets received").await;
    // Off and on again, live.
    behind.update(&agent, &json!({"firewall_enabled": false}));
    outside.run(&agent, &fetch(5), "served\r").await;
    outside.run(&agent, "ping -c 1 -W 3 10.0.0.5", "1 packets received").await;
    behind.update(&agent, &json!({"firewall_enabled": true}));
    outside.run(&agent, &fetch(5), "fetched nothing\r").await;
    behind.run(&agent, &fetch(6), "served\r").await;
    // Somebody removed every rule of the host: the next agent puts them back.
    agent.kill();
    net.ok(&["nft", "flush", "ruleset"]);
    agent.resume().await;
    behind.reconnect(&agent).await;
    outside.reconnect(&agent).await;
    super::support::eventually("the rules are back", || {
        let chains = net.rules().matches("hook").count();
        async move { (chains == 5).then_some(()) }
    })
    .await;
    outside.run(&agent, &fetch(5), "fetched nothing\r").await;
    behind.run(&agent, &fetch(6), "served\r").await;
}
