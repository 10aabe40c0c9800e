//! Questions and answers.

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

#[test]
fn a_discover_is_offered_and_a_request_acknowledged() {
    use four::{DhcpOption, MessageType, OptionCode};
    let responder = Responder::new(lease());
    let own: IpAddr = "10.0.0.5".parse().unwrap();
    for (asked, said, assigned) in [
        (Some(MessageType::Discover), MessageType::Offer, vec![]),
        (Some(MessageType::Request), MessageType::Ack, vec![own]),
        // BOOTP.
        (None, MessageType::Ack, vec![own]),
    ] {
        let answer = responder.answer(&framed(&request(asked))).unwrap();
        assert_eq!(answer, responder.answer(&framed(&request(asked))).unwrap(), "the same again");
        assert_eq!(answer.assigned, assigned);
        let message = four(&answer);
        assert_eq!((message.xid(), message.yiaddr()), (7, "10.0.0.5".parse().unwrap()));
        assert_eq!(message.opts().msg_type(), Some(said));
        let option = |code| message.opts().get(code).cloned().unwrap();
        let resolvers = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.6"].map(|ip| ip.parse().unwrap());
        let routes = [("10.9.0.0/16", "10.0.0.9"), ("0.0.0.0/0", "10.0.0.1")];
        let routes = routes.map(|(to, by)| (to.parse().unwrap(), by.parse().unwrap()));
        for (code, expected) in [
            (OptionCode::ServerIdentifier, DhcpOption::ServerIdentifier(SERVER_IP)),
            (OptionCode::AddressLeaseTime, DhcpOption::AddressLeaseTime(86400)),
            (OptionCode::SubnetMask, DhcpOption::SubnetMask("255.255.255.0".parse().unwrap())),
            (OptionCode::Router, DhcpOption::Router(vec!["10.0.0.1".parse().unwrap()])),
            (OptionCode::DomainNameServer, DhcpOption::DomainNameServer(resolvers.to_vec())),
            (OptionCode::Hostname, DhcpOption::Hostname("web1".to_owned())),
            (OptionCode::InterfaceMtu, DhcpOption::InterfaceMtu(1400)),
            (OptionCode::ClasslessStaticRoute, DhcpOption::ClasslessStaticRoute(routes.to_vec())),
        ] {
            assert_eq!(option(code), expected);
        }
    }
}

#[test]
fn what_is_not_asked_for_is_not_answered() {
    use four::MessageType::{Decline, Release};
    let responder = Responder::new(lease());
    for kind in [Release, Decline] {
        assert_eq!(responder.answer(&framed(&request(Some(kind)))), None);
    }
    let mut reply = request(Some(four::MessageType::Discover));
    reply.set_opcode(four::Opcode::BootReply);
    assert_eq!(responder.answer(&framed(&reply)), None);
    let mut other = request(Some(four::MessageType::Discover));
    other.set_chaddr(&[2, 0, 0, 0, 0, 2]);
    assert_eq!(responder.answer(&framed(&other)), None);
    let none = Responder::new(Lease { v4: None, ..lease() });
    assert_eq!(none.answer(&framed(&request(Some(four::MessageType::Discover)))), None);
}

/// RFC 2131, 4.3.2: another address is refused, another server's business is none of ours.
#[test]
fn a_request_for_another_address_is_refused_and_for_another_server_passed_over() {
    use four::{DhcpOption, MessageType};
    let responder = Responder::new(lease());
    let other = Ipv4Addr::new(10, 0, 0, 99);
    let asked = |edit: &dyn Fn(&mut four::Message)| {
        let mut message = request(Some(MessageType::Request));
        edit(&mut message);
        responder.answer(&framed(&message)).map(|answer| {
            let said = four(&answer);
            (said.opts().msg_type().unwrap(), said.yiaddr(), answer.assigned)
        })
    };
    let own: Ipv4Addr = "10.0.0.5".parse().unwrap();
    let yes = Some((MessageType::Ack, own, vec![IpAddr::V4(own)]));
    let no = Some((MessageType::Nak, Ipv4Addr::UNSPECIFIED, vec![]));
    let server = |ip| {
        move |message: &mut four::Message| drop(message.opts_mut().insert(DhcpOption::ServerIdentifier(ip)))
    };
    let wants = |ip| {
        move |message: &mut four::Message| drop(message.opts_mut().insert(DhcpOption::RequestedIpAddress(ip)))
    };
    // SELECTING, INIT-REBOOT, RENEWING.
    assert_eq!(
        asked(&|m| {
            server(SERVER_IP)(m);
            wants(own)(m)
        }),
        yes
    );
    assert_eq!(
        asked(&|m| {
            server(SERVER_IP)(m);
            wants(other)(m)
        }),
        no
    );
    assert_eq!(
        asked(&|m| {
            server(other)(m);
            wants(own)(m)
        }),
        None
    );
    assert_eq!(asked(&wants(own)), yes);
    assert_eq!(asked(&wants(other)), no);
    assert_eq!(
        asked(&|m| {
            m.set_ciaddr(own);
        }),
        yes
    );
    assert_eq!(
        asked(&|m| {
            m.set_ciaddr(other);
        }),
        no
    );
}

#[test]
fn who_has_an_address_is_told_the_rest() {
    use four::{MessageType, OptionCode};
    let mut message = request(Some(MessageType::Inform));
    message.set_ciaddr([10, 0, 0, 5]);
    let answer = Responder::new(lease()).answer(&framed(&message)).unwrap();
    let said = four(&answer);
    assert_eq!((said.opts().msg_type(), said.yiaddr()), (Some(MessageType::Ack), Ipv4Addr::UNSPECIFIED));
    assert!(answer.assigned.is_empty());
    let has = |code| said.opts().get(code).is_some();
    assert!(
        has(OptionCode::DomainNameServer) && has(OptionCode::Router) && !has(OptionCode::AddressLeaseTime)
    );
}

#[test]
fn an_address_that_the_guest_has_is_written_to() {
    let mut renewal = request(Some(four::MessageType::Request));
    renewal.set_ciaddr([10, 0, 0, 5]);
    for (message, to) in [(renewal, [10, 0, 0, 5]), (request(Some(four::MessageType::Request)), [255; 4])] {
        let answer = Responder::new(lease()).answer(&framed(&message)).unwrap();
        let (NetSlice::Ipv4(ip), _) = udp(&answer.frame) else { panic!() };
        assert_eq!(ip.header().destination(), to);
    }
}

#[test]
fn only_listed_clients_are_answered() {
    let responder = Responder::new(Lease { clients: vec![vec![1, 0xff]], ..lease() });
    let asked = |cid: Option<Vec<u8>>| {
        let mut message = request(Some(four::MessageType::Discover));
        if let Some(cid) = cid {
            message.opts_mut().insert(four::DhcpOption::ClientIdentifier(cid));
        }
        responder.answer(&framed(&message)).is_some()
    };
    assert!(asked(Some(vec![1, 0xff])));
    assert!(!asked(Some(vec![1, 0xfe])));
    assert!(!asked(None));
}

#[test]
fn what_is_too_long_for_the_client_is_left_out() {
    let long = Lease { hostname: Some("x".repeat(255)), routes: vec![lease().routes[0]; 24], ..lease() };
    let options = |most: Option<u16>| {
        let mut message = request(Some(four::MessageType::Discover));
        if let Some(most) = most {
            message.opts_mut().insert(four::DhcpOption::MaxMessageSize(most));
        }
        let answer = Responder::new(long.clone()).answer(&framed(&message)).unwrap();
        let options = four(&answer);
        let has = |code| options.opts().get(code).is_some();
        (
            has(four::OptionCode::Hostname),
            has(four::OptionCode::ClasslessStaticRoute),
            answer.frame.len() - 14,
        )
    };
    assert!(matches!(options(Some(1500)), (true, true, 577..=1500)));
    assert!(matches!(options(None), (_, false, ..=576)));
    assert!(matches!(options(Some(1)), (_, false, ..=576)));
}

#[test]
fn arp_is_answered_for_the_server_alone() {
    let ask = |target: Ipv4Addr| {
        let arp = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            ArpOperation::REQUEST,
            &GUEST,
            &[10, 0, 0, 5],
            &[0; 6],
            &target.octets(),
        );
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(GUEST, [0xff; 6]).arp(arp.unwrap()).write(&mut frame).unwrap();
        Responder::new(lease()).answer(&frame)
    };
    let answer = ask(SERVER_IP).unwrap();
    let packet = SlicedPacket::from_ethernet(&answer.frame).unwrap();
    let Some(NetSlice::Arp(arp)) = packet.net else { panic!("{packet:?}") };
    assert_eq!(arp.operation(), ArpOperation::REPLY);
    assert_eq!(
        (arp.sender_hw_addr(), arp.sender_protocol_addr()),
        (&SERVER_MAC[..], &SERVER_IP.octets()[..])
    );
    assert_eq!((arp.target_hw_addr(), arp.target_protocol_addr()), (&GUEST[..], &[10, 0, 0, 5][..]));
    assert_eq!(ask([10, 0, 0, 1].into()), None);
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

#[test]
fn dhcpv6_gives_every_address() {
    use six::MessageType::{
        Advertise, Confirm, InformationRequest, Rebind, Release, Reply, Request, Solicit,
    };
    let responder = Responder::new(lease());
    let six = |answer: &Answer| {
        let (_, payload) = udp(&answer.frame);
        six::Message::decode(&mut Decoder::new(&payload)).unwrap()
    };
    let advertise = six(&responder.answer(&framed6(&request6(Solicit))).unwrap());
    assert_eq!((advertise.msg_type(), advertise.xid()), (Advertise, [1, 2, 3]));
    let server = advertise.opts().get(Code6::ServerId).cloned().unwrap();
    for kind in [Request, Rebind] {
        let mut message = request6(kind);
        if kind == Request {
            message.opts_mut().insert(server.clone());
        }
        let answer = responder.answer(&framed6(&message)).unwrap();
        assert_eq!(answer.assigned, ["fd00::5".parse::<IpAddr>().unwrap()]);
        let reply = six(&answer);
        assert_eq!(reply.msg_type(), Reply);
        let Some(six::DhcpOption::IANA(ia)) = reply.opts().get(Code6::IANA) else { panic!() };
        let Some(six::DhcpOption::IAAddr(address)) = ia.opts.get(Code6::IAAddr) else { panic!() };
        assert_eq!((ia.id, address.addr), (9, "fd00::5".parse().unwrap()));
        let names = six::DhcpOption::DomainNameServers(vec!["fd00::2".parse().unwrap()]);
        assert_eq!(reply.opts().get(Code6::DomainNameServers), Some(&names));
    }
    let mut rapid = request6(Solicit);
    rapid.opts_mut().insert(six::DhcpOption::RapidCommit);
    let rapid = six(&responder.answer(&framed6(&rapid)).unwrap());
    assert_eq!((rapid.msg_type(), rapid.opts().get(Code6::RapidCommit).is_some()), (Reply, true));
    let informed = six(&responder.answer(&framed6(&request6(InformationRequest))).unwrap());
    assert!(informed.opts().get(Code6::IANA).is_none());
    for kind in [Release, Confirm] {
        assert!(responder.answer(&framed6(&request6(kind))).unwrap().assigned.is_empty());
    }
    let mut others = request6(Request);
    others.opts_mut().insert(six::DhcpOption::ServerId(vec![1, 2]));
    assert_eq!(responder.answer(&framed6(&others)), None);
    let none = Responder::new(Lease { v6: Vec::new(), ..lease() });
    assert_eq!(none.answer(&framed6(&request6(Solicit))), None);
}

#[test]
fn a_solicited_router_says_that_addresses_are_managed() {
    let solicit = |option: &[u8]| {
        let from = lease().mac.link_local().octets();
        let to = "ff02::2".parse::<std::net::Ipv6Addr>().unwrap().octets();
        let builder = PacketBuilder::ethernet2(GUEST, [0x33, 0x33, 0, 0, 0, 2]).ipv6(from, to, 255);
        let mut frame = Vec::new();
        builder.icmpv6_raw(133, 0, [0; 4]).write(&mut frame, option).unwrap();
        frame
    };
    let answer = Responder::new(lease()).answer(&solicit(&[1, 1, 2, 0, 0, 0, 0, 1])).unwrap();
    let packet = SlicedPacket::from_ethernet(&answer.frame).unwrap();
    let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) = (packet.net, packet.transport)
    else {
        panic!("no advertisement")
    };
    assert_eq!(ip.header().source_addr().to_string(), "fe80::5055:55ff:fe55:5555");
    assert_eq!((ip.header().hop_limit(), icmp.type_u8()), (255, 134));
    assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
    // Managed, other; no default router.
    assert_eq!(&icmp.slice()[4..8], [64, 0xc0, 0, 0]);
    let prefix: Vec<u8> = [&[3, 4, 64, 0x80][..]].concat();
    assert!(icmp.slice().windows(4).any(|window| window == prefix), "{:?}", icmp.slice());
    assert_eq!(Responder::new(Lease { v6: Vec::new(), ..lease() }).answer(&solicit(&[])), None);
}

#[test]
fn an_acknowledgement_of_another_server_is_read() {
    let mac = lease().mac;
    let ack = Responder::new(lease()).answer(&framed(&request(Some(four::MessageType::Request)))).unwrap();
    assert_eq!(acknowledged(&ack.frame, mac), Some("10.0.0.5".parse().unwrap()));
    assert_eq!(acknowledged(&ack.frame, "02:00:00:00:00:02".parse().unwrap()), None);
    let offer = Responder::new(lease()).answer(&framed(&request(Some(four::MessageType::Discover)))).unwrap();
    assert_eq!(acknowledged(&offer.frame, mac), None);
    assert_eq!(acknowledged(&framed(&request(Some(four::MessageType::Request))), mac), None);
}

#[test]
fn what_is_sent_on_is_as_a_client_says_it() {
    let client = vec![1, 2, 0, 0, 0, 0, 1];
    let mut message = request(Some(four::MessageType::Request));
    message.opts_mut().insert(four::DhcpOption::ClientIdentifier(client.clone()));
    let payload = message.to_vec().unwrap();
    // From another's addresses, with the checksum that a virtio interface leaves to others.
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 8]).ipv4(
        [10, 0, 0, 9],
        [10, 0, 0, 8],
        64,
    );
    let mut frame = Vec::new();
    builder.udp(4000, 67).write(&mut frame, &payload).unwrap();
    frame[40] ^= 0xff;
    let (mac, listed) = (lease().mac, vec![client]);
    let sent = relayed(&frame, mac, &listed).unwrap();
    let mut expected = Vec::new();
    let builder = PacketBuilder::ethernet2(GUEST, [0xff; 6]).ipv4([0; 4], [255; 4], 64);
    builder.udp(68, 67).write(&mut expected, &payload).unwrap();
    assert_eq!(sent, expected);
    assert_eq!(relayed(&frame, mac, &[vec![1]]), None);
    assert_eq!(relayed(&frame, "02:00:00:00:00:02".parse().unwrap(), &listed), None);
    let mut relay = message.clone();
    relay.set_giaddr([10, 0, 0, 9]);
    assert_eq!(relayed(&framed(&relay), mac, &listed), None);
    assert_eq!(relayed(&framed(&request(Some(four::MessageType::Request))), mac, &listed), None);
}

/// Options that are shorter than their kind, cut, endless, or lie about their length.
#[test]
fn options_that_lie_are_passed_over() {
    let responder = Responder::new(lease());
    let six = |options: &[u8]| {
        let payload = [&[1, 7, 7, 7][..], options].concat();
        let from = lease().mac.link_local().octets();
        let builder = PacketBuilder::ethernet2(GUEST, [0xff; 6]).ipv6(from, [0xff; 16], 1).udp(546, 547);
        let mut frame = Vec::new();
        builder.write(&mut frame, &payload).unwrap();
        responder.answer(&frame)
    };
    let client = [0, 1, 0, 10, 0, 3, 0, 1, 2, 0, 0, 0, 0, 1];
    for code in [3_u8, 4, 5, 8, 11, 13, 15, 16, 17, 24, 25, 26, 56, 61] {
        for length in 0..4 {
            let short = [&[0, code, 0, length][..], &vec![0xb4; length.into()]].concat();
            assert!(six(&[&short[..], &client].concat()).is_some(), "{code} with {length} bytes");
            assert_eq!(six(&[&[0, code, 0xff, 0xff][..], &client].concat()), None, "{code} cut");
        }
    }
    assert_eq!(six(&[0, 1, 0, 0xb4]), None);
    assert_eq!(six(&[0, 1, 0, 131].into_iter().chain([0; 131]).collect::<Vec<_>>()), None);

    let four = |options: &[u8]| {
        let mut payload = request(None).to_vec().unwrap();
        payload.truncate(236);
        payload.extend([0x63, 0x82, 0x53, 0x63]);
        payload.extend(options);
        let builder = PacketBuilder::ethernet2(GUEST, [0xff; 6]).ipv4([0; 4], [255; 4], 64).udp(68, 67);
        let mut frame = Vec::new();
        builder.write(&mut frame, &payload).unwrap();
        responder.answer(&frame).map(|answer| four(&answer).opts().msg_type().unwrap())
    };
    for code in 1..=254_u8 {
        for length in (0..4).filter(|_| ![53, 57, 61].contains(&code)) {
            let short = [&[code, length][..], &vec![33; length.into()], &[53, 1, 1, 255]].concat();
            assert_eq!(four(&short), Some(four::MessageType::Offer), "{code} with {length} bytes");
        }
    }
    assert_eq!(four(&[53, 1, 1]), Some(four::MessageType::Offer), "without an end");
    assert_eq!(four(&[0, 0, 0, 53, 1, 3]), Some(four::MessageType::Ack), "after what is skipped");
    // What can't be read to its kind has none, which is BOOTP.
    for bad in [&[][..], &[53], &[53, 1], &[53, 0], &[255, 53, 1, 1], &[12, 200, 53, 1, 1]] {
        assert_eq!(four(bad), Some(four::MessageType::Ack), "{bad:?}");
    }
    assert_eq!(four(&[57, 1, 9, 53, 1, 1, 255]), Some(four::MessageType::Offer));
}

/// Good frames to bend.
pub(crate) fn frames() -> Vec<Vec<u8>> {
    vec![
        framed(&request(Some(four::MessageType::Discover))),
        framed(&request(None)),
        framed6(&request6(six::MessageType::Solicit)),
    ]
}

proptest! {
    #[test]
    fn garbage_is_never_a_panic(frame in proptest::collection::vec(any::<u8>(), 0..1600)) {
        let _ = Responder::new(lease()).answer(&frame);
        let _ = acknowledged(&frame, lease().mac);
        let _ = relayed(&frame, lease().mac, &[]);
    }

    #[test]
    fn a_bent_frame_is_never_a_panic(which in 0..3usize, at in 0..400usize, value: u8, cut in 0..400usize) {
        let mut frame = frames()[which].clone();
        let at = at % frame.len();
        frame[at] = value;
        let _ = Responder::new(lease()).answer(&frame);
        frame.truncate(cut);
        let _ = Responder::new(lease()).answer(&frame);
        let _ = relayed(&frame, lease().mac, &[]);
    }
}
