//! DHCP over IPv4, and ARP.

use super::*;

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
