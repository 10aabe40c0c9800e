//! The agent's answers to a guest that asks for its network: DHCP, DHCPv6, router solicitations, and ARP for the
//! server. Pure: a frame in, a frame out.
//!
//! Guests are hostile: a malformed frame is not answered, and no state is kept of any.

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

/// The server's MAC address, as the guest sees it.
pub const SERVER_MAC: [u8; 6] = [0x52, 0x55, 0x55, 0x55, 0x55, 0x55];
/// The server's IP address.
pub const SERVER_IP: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Seconds.
const LEASE_TIME: u32 = 86400;

/// A reply to a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// A whole Ethernet frame.
    pub frame: Vec<u8>,
    /// The addresses now assigned to the guest.
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
    /// Answers with a lease.
    #[must_use]
    pub fn new(lease: Lease) -> Self {
        Self { lease }
    }

    /// Returns the reply to a frame, if it requests one.
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

/// Returns the address that a network's server acknowledges to that interface in this frame.
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
