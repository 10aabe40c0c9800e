//! The agent's answers to a guest that asks for its network: DHCP, DHCPv6, router solicitations, and ARP for the
//! server. Pure: a frame in, a frame out.
//!
//! What a guest sends is hostile: a frame that lies about itself is not answered, and nothing is kept of one.

mod neighbour;
mod question;
#[cfg(test)]
mod tests;
mod v4;
mod v6;

use std::net::{IpAddr, Ipv4Addr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::Lease;
use crate::spec::Mac;
pub use v4::relayed;

/// Who answers, as far as the guest can tell: on the link,
pub const SERVER_MAC: [u8; 6] = [0x52, 0x55, 0x55, 0x55, 0x55, 0x55];
/// and in its own words.
pub const SERVER_IP: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Seconds.
const LEASE_TIME: u32 = 86400;

/// What is said to a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// A whole Ethernet frame.
    pub frame: Vec<u8>,
    /// The addresses that are the guest's now.
    pub assigned: Vec<IpAddr>,
}

impl Answer {
    fn new(frame: Vec<u8>) -> Self {
        Self { frame, assigned: Vec::new() }
    }
}

/// Answers one interface.
#[derive(Clone, Debug)]
pub struct Responder {
    lease: Lease,
}

impl Responder {
    /// One that gives that.
    #[must_use]
    pub fn new(lease: Lease) -> Self {
        Self { lease }
    }

    /// The answer to a frame, if it asks for one.
    #[must_use]
    pub fn answer(&self, frame: &[u8]) -> Option<Answer> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        if !packet.link_exts.is_empty() {
            return None;
        }
        match (packet.net?, packet.transport) {
            (NetSlice::Arp(arp), _) => neighbour::arp(self.lease.v4?, &arp),
            (NetSlice::Ipv4(ip), Some(TransportSlice::Udp(udp)))
                if udp.destination_port() == v4::SERVER_PORT =>
            {
                let whole = !ip.header().is_fragmenting_payload();
                v4::answer(&self.lease, udp.payload()).filter(|_| whole)
            }
            (NetSlice::Ipv6(ip), Some(TransportSlice::Udp(udp)))
                if udp.destination_port() == v6::SERVER_PORT =>
            {
                v6::answer(&self.lease, ip.header().source_addr(), udp.payload())
            }
            (NetSlice::Ipv6(ip), Some(TransportSlice::Icmpv6(icmp))) => {
                neighbour::icmp(&self.lease, ip.header().source_addr(), &icmp)
            }
            _ => None,
        }
    }
}

/// The address that a server of the network acknowledges to that interface by this frame.
#[must_use]
pub fn acknowledged(frame: &[u8], mac: Mac) -> Option<IpAddr> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    match packet.transport? {
        TransportSlice::Udp(udp) if udp.source_port() == v4::SERVER_PORT => {
            v4::acknowledged(udp.payload(), mac).map(IpAddr::V4)
        }
        _ => None,
    }
}
