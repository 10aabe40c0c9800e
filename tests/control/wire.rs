//! What the agent says on a guest's link, as a network analyser reads it.

use std::{net::Ipv6Addr, process::Command};

use dhcproto::{Encodable as _, v4, v6};
use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use zoneward::internals::network::{Lease, dhcp::Responder};

const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 5];

fn lease() -> Lease {
    Lease {
        mac: "02:00:00:00:00:05".parse().unwrap(),
        v4: Some("10.0.0.5/24".parse().unwrap()),
        v6: vec!["fd00::5/64".parse().unwrap(), "fd01::5/48".parse().unwrap()],
        router: Some("10.0.0.1".parse().unwrap()),
        hostname: Some("web1.example".to_owned()),
        resolvers: ["10.0.0.2", "10.0.0.3", "fd00::2"].map(|ip| ip.parse().unwrap()).to_vec(),
        routes: vec![("10.9.0.0/17".parse().unwrap(), "10.0.0.9".parse().unwrap())],
        mtu: Some(1400),
        clients: Vec::new(),
    }
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = Vec::new();
    write(&mut frame);
    frame
}

fn dhcp(kind: v4::MessageType) -> Vec<u8> {
    let zero = std::net::Ipv4Addr::UNSPECIFIED;
    let mut message = v4::Message::new_with_id(7, zero, zero, zero, zero, &GUEST);
    message.opts_mut().insert(v4::DhcpOption::MessageType(kind));
    let payload = message.to_vec().unwrap();
    let builder = PacketBuilder::ethernet2(GUEST, [0xff; 6]).ipv4([0; 4], [255; 4], 64).udp(68, 67);
    written(|frame| builder.write(frame, &payload).unwrap())
}

fn dhcp6(kind: v6::MessageType) -> Vec<u8> {
    let mut message = v6::Message::new_with_id(kind, [1, 2, 3]);
    message.opts_mut().insert(v6::DhcpOption::ClientId([&[0, 3, 0, 1][..], &GUEST].concat()));
    let ia = v6::IANA { id: 9, t1: 0, t2: 0, opts: v6::DhcpOptions::new() };
    message.opts_mut().insert(v6::DhcpOption::IANA(ia));
    let payload = message.to_vec().unwrap();
    let builder = PacketBuilder::ethernet2(GUEST, [0x33, 0x33, 0, 1, 0, 2])
        .ipv6(lease().mac.link_local().octets(), six("ff02::1:2"), 1)
        .udp(546, 547);
    written(|frame| builder.write(frame, &payload).unwrap())
}

fn six(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

fn solicitation(kind: u8, body: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(GUEST, [0x33, 0x33, 0, 0, 0, 2])
        .ipv6(lease().mac.link_local().octets(), six("ff02::2"), 255)
        .icmpv6_raw(kind, 0, [0; 4]);
    written(|frame| builder.write(frame, body).unwrap())
}

fn arp() -> Vec<u8> {
    let (ethernet, ip) = (ArpHardwareId::ETHERNET, EtherType::IPV4);
    let ask = ArpOperation::REQUEST;
    let packet = ArpPacket::new(ethernet, ip, ask, &GUEST, &[10, 0, 0, 5], &[0; 6], &[169, 254, 169, 254]);
    let builder = PacketBuilder::ethernet2(GUEST, [0xff; 6]).arp(packet.unwrap());
    written(|frame| builder.write(frame).unwrap())
}

/// The frames in the form that analysers read.
fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
    // Magic number, version 2.4, no offset, any length, Ethernet.
    let mut file: Vec<u8> =
        [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 1].iter().flat_map(|word| word.to_ne_bytes()).collect();
    for frame in frames {
        let length = u32::try_from(frame.len()).unwrap();
        file.extend([1, 0, length, length].iter().flat_map(|word| word.to_ne_bytes()));
        file.extend(frame);
    }
    file
}

#[test]
fn an_analyser_finds_nothing_wrong() {
    let responder = Responder::new(lease());
    let asked = [
        dhcp(v4::MessageType::Discover),
        dhcp(v4::MessageType::Request),
        dhcp6(v6::MessageType::Solicit),
        dhcp6(v6::MessageType::Request),
        dhcp6(v6::MessageType::InformationRequest),
        dhcp6(v6::MessageType::Confirm),
        solicitation(133, &[&[1, 1][..], &GUEST].concat()),
        solicitation(135, &[&six("fe80::5055:55ff:fe55:5555")[..], &[1, 1], &GUEST].concat()),
        arp(),
    ];
    let frames: Vec<Vec<u8>> = asked.iter().map(|frame| responder.answer(frame).unwrap().frame).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("answers.pcap");
    std::fs::write(&path, capture(&frames)).unwrap();
    let tshark = |words: &[&str]| {
        let mut command = Command::new("tshark");
        command.arg("-r").arg(&path).args([
            "-n",
            "-o",
            "ip.check_checksum:TRUE",
            "-o",
            "udp.check_checksum:TRUE",
        ]);
        let output =
            command.args(words).env("HOME", dir.path()).output().expect("tshark; `make test` installs it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // Warnings, errors and what can't be taken apart.
    let wrong = tshark(&["-Y", "_ws.malformed || _ws.expert.severity >= 0x600000", "-V"]);
    assert_eq!(wrong, "");
    let info = tshark(&["-T", "fields", "-e", "_ws.col.Protocol", "-e", "_ws.col.Info"]);
    let expected = [
        "DHCP\tDHCP Offer",
        "DHCP\tDHCP ACK",
        "DHCPv6\tAdvertise XID: 0x010203 CID: 00030001020000000005 IAA: fd00::5 IAA: fd01::5",
        "DHCPv6\tReply XID: 0x010203 CID: 00030001020000000005 IAA: fd00::5 IAA: fd01::5",
        "DHCPv6\tReply XID: 0x010203 CID: 00030001020000000005",
        "DHCPv6\tReply XID: 0x010203 CID: 00030001020000000005",
        "ICMPv6\tRouter Advertisement from 52:55:55:55:55:55",
        "ICMPv6\tNeighbor Advertisement fe80::5055:55ff:fe55:5555 (sol, ovr) is at 52:55:55:55:55:55",
        "ARP\t169.254.169.254 is at 52:55:55:55:55:55",
    ];
    for (line, expected) in info.lines().zip(expected) {
        assert!(line.starts_with(expected), "{line} is not {expected}");
    }
    assert_eq!(info.lines().count(), expected.len());
    let fields = [
        "dhcp.option.hostname",
        "dhcp.option.router",
        "dhcp.option.interface_mtu",
        "dhcp.option.domain_name_server",
        "dhcp.option.classless_static_route",
        "dhcp.option.dhcp_server_id",
        "dhcp.option.ip_address_lease_time",
    ];
    let words: Vec<&str> = fields.iter().flat_map(|field| ["-e", field]).collect();
    let offer = tshark(&[&["-Y", "dhcp.option.dhcp == 2", "-T", "fields"], &words[..]].concat());
    let expected = "web1.example\t10.0.0.1\t1400\t10.0.0.2,10.0.0.3\t110a09000a000009,000a000001\t169.254.169.254\t86400";
    assert_eq!(offer.trim_end(), expected);
    let prefixes = tshark(&[
        "-Y",
        "icmpv6.type == 134",
        "-T",
        "fields",
        "-e",
        "icmpv6.opt.prefix",
        "-e",
        "icmpv6.opt.mtu",
        "-e",
        "icmpv6.opt.rdnss",
        "-e",
        "icmpv6.nd.ra.router_lifetime",
        "-e",
        "icmpv6.nd.ra.flag.m",
    ]);
    assert_eq!(prefixes.trim_end(), "fd00::,fd01::\t1400\tfd00::2\t0\t1");
}
