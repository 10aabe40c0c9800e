//! Questions and answers.

mod bent;
mod dhcpv4;
mod dhcpv6;
mod relayed;

use dhcproto::{
    Decodable as _, Decoder, Encodable as _, v4 as four,
    v6::{self as six, OptionCode as Code6},
};
use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use proptest::prelude::*;

use super::*;

const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn lease() -> Lease {
    Lease {
        mac: "02:00:00:00:00:01".parse().unwrap(),
        v4: Some("10.0.0.5/24".parse().unwrap()),
        v6: vec!["fd00::5/64".parse().unwrap()],
        router: Some("10.0.0.1".parse().unwrap()),
        hostname: Some("web1".to_owned()),
        resolvers: ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.6", "10.0.0.7", "fd00::2"]
            .map(|ip| ip.parse().unwrap())
            .to_vec(),
        routes: vec![("10.9.0.0/16".parse().unwrap(), "10.0.0.9".parse().unwrap())],
        mtu: Some(1400),
        clients: Vec::new(),
    }
}

fn request(kind: Option<four::MessageType>) -> four::Message {
    let zero = Ipv4Addr::UNSPECIFIED;
    let mut message = four::Message::new_with_id(7, zero, zero, zero, zero, &GUEST);
    if let Some(kind) = kind {
        message.opts_mut().insert(four::DhcpOption::MessageType(kind));
    }
    message
}

fn framed(message: &four::Message) -> Vec<u8> {
    let payload = message.to_vec().unwrap();
    let builder = PacketBuilder::ethernet2(GUEST, [0xff; 6])
        .ipv4([0; 4], [255; 4], 64)
        .udp(v4::CLIENT_PORT, v4::SERVER_PORT);
    let mut frame = Vec::new();
    builder.write(&mut frame, &payload).unwrap();
    frame
}

fn udp(frame: &[u8]) -> (NetSlice<'_>, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("{packet:?}") };
    assert_ne!(udp.to_header().checksum, 0);
    (packet.net.unwrap(), udp.payload().to_vec())
}

fn four(answer: &Answer) -> four::Message {
    let (net, payload) = udp(&answer.frame);
    let NetSlice::Ipv4(ip) = net else { panic!("{net:?}") };
    assert_eq!(ip.header().source_addr(), SERVER_IP);
    assert_eq!((&answer.frame[..6], &answer.frame[6..12]), (&GUEST[..], &SERVER_MAC[..]));
    assert!(payload.len() >= 300);
    four::Message::decode(&mut Decoder::new(&payload)).unwrap()
}

fn framed6(message: &six::Message) -> Vec<u8> {
    let mut frame = Vec::new();
    let from = lease().mac.link_local().octets();
    let to = "ff02::1:2".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let builder = PacketBuilder::ethernet2(GUEST, [0x33, 0x33, 0, 1, 0, 2])
        .ipv6(from, to, 1)
        .udp(v6::CLIENT_PORT, v6::SERVER_PORT);
    builder.write(&mut frame, &message.to_vec().unwrap()).unwrap();
    frame
}

fn request6(kind: six::MessageType) -> six::Message {
    let mut message = six::Message::new_with_id(kind, [1, 2, 3]);
    message.opts_mut().insert(six::DhcpOption::ClientId(vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 1]));
    let ia = six::IANA { id: 9, t1: 0, t2: 0, opts: six::DhcpOptions::new() };
    message.opts_mut().insert(six::DhcpOption::IANA(ia));
    message
}
