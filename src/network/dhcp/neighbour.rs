//! Replies on the link itself: ARP for the server, and neighbour discovery (RFC 4861).
//!
//! The advertisement says that addresses are managed (they come by DHCPv6) and which networks are on the link.
//! It does not offer a router: the router lifetime is 0, and the guest's default route comes from its
//! network.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, ArpPacketSlice, EtherType, Icmpv6Slice, PacketBuilder,
};
use ipnet::{Ipv4Net, Ipv6Net};

use super::{Answer, LEASE_TIME, SERVER_IP, SERVER_MAC};
use crate::{network::Lease, spec::Mac};

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Most prefixes advertised: with the rest they fit into the smallest packet.
const MOST_PREFIXES: usize = 20;

/// The server's address on the link.
pub(super) fn server() -> Ipv6Addr {
    Mac::new(SERVER_MAC).link_local()
}

pub(super) fn arp(own: Ipv4Net, request: &ArpPacketSlice<'_>) -> Option<Answer> {
    let asks = request.operation() == ArpOperation::REQUEST
        && request.hw_addr_type() == ArpHardwareId::ETHERNET
        && request.proto_addr_type() == EtherType::IPV4;
    // The guest's own address, or none while it probes whether one is free.
    let from: [u8; 4] = request.sender_protocol_addr().try_into().ok()?;
    let known = from == own.addr().octets() || from == [0; 4];
    if !asks || !known || request.target_protocol_addr() != SERVER_IP.octets() {
        return None;
    }
    let guest: [u8; 6] = request.sender_hw_addr().try_into().ok()?;
    let reply = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REPLY,
        &SERVER_MAC,
        &SERVER_IP.octets(),
        &guest,
        &from,
    )
    .ok()?;
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(SERVER_MAC, guest).arp(reply).write(&mut frame).ok()?;
    Some(Answer::new(frame))
}

pub(super) fn icmp(lease: &Lease, from: Ipv6Addr, asked: &Icmpv6Slice<'_>) -> Option<Answer> {
    if lease.v6.is_empty() || asked.code_u8() != 0 {
        return None;
    }
    let to = if from.is_unspecified() { Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1) } else { from };
    let (kind, word, body) = match asked.type_u8() {
        // 64 hops; managed addresses and other settings; no default router.
        ROUTER_SOLICITATION => (ROUTER_ADVERTISEMENT, [64, 0xc0, 0, 0], advertisement(lease)),
        NEIGHBOUR_SOLICITATION if asked.slice().get(8..24)? == server().octets() => {
            // Flags: solicited and override.
            (
                NEIGHBOUR_ADVERTISEMENT,
                [0x60, 0, 0, 0],
                [&server().octets()[..], &[2, 1], &SERVER_MAC].concat(),
            )
        }
        _ => return None,
    };
    let builder = PacketBuilder::ethernet2(SERVER_MAC, lease.mac.octets())
        .ipv6(server().octets(), to.octets(), 255)
        .icmpv6_raw(kind, 0, word);
    let mut frame = Vec::with_capacity(builder.size(body.len()));
    builder.write(&mut frame, &body).ok()?;
    Some(Answer::new(frame))
}

/// Builds the body of an advertisement after its first two words.
fn advertisement(lease: &Lease) -> Vec<u8> {
    // Reachable time and retransmission timer are left to the guest.
    let mut body = vec![0; 8];
    body.extend([1, 1]);
    body.extend(SERVER_MAC);
    if let Some(mtu) = lease.mtu {
        body.extend([5, 1, 0, 0]);
        body.extend(u32::from(mtu).to_be_bytes());
    }
    let networks: BTreeSet<Ipv6Net> = lease.v6.iter().map(Ipv6Net::trunc).collect();
    for network in networks.iter().take(MOST_PREFIXES) {
        // On-link; not for autoconfigured addresses.
        body.extend([3, 4, network.prefix_len(), 0x80]);
        body.extend(LEASE_TIME.to_be_bytes());
        body.extend(LEASE_TIME.to_be_bytes());
        body.extend([0; 4]);
        body.extend(network.network().octets());
    }
    let resolvers = lease.resolvers(|ip| match ip {
        IpAddr::V6(ip) => Some(*ip),
        IpAddr::V4(_) => None,
    });
    if let Ok(count @ 1..) = u8::try_from(resolvers.len()) {
        body.extend([25, 1 + 2 * count, 0, 0]);
        body.extend(LEASE_TIME.to_be_bytes());
        resolvers.iter().for_each(|ip| body.extend(ip.octets()));
    }
    body
}
