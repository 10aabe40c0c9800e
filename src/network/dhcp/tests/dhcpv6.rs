//! DHCPv6 and router advertisements.

use super::*;

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
