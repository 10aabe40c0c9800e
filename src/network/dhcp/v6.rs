//! DHCPv6 (RFC 8415), as far as a server of one guest's addresses needs it.

use std::net::{IpAddr, Ipv6Addr};

use dhcproto::{
    Encodable as _,
    v6::{DhcpOption, DhcpOptions, IAAddr, IANA, Message, MessageType, OptionCode, Status, StatusCode},
};
use etherparse::PacketBuilder;

use super::{Answer, LEASE_TIME, SERVER_MAC, neighbour, question::Message6};
use crate::network::Lease;

pub(super) const SERVER_PORT: u16 = 547;
pub(super) const CLIENT_PORT: u16 = 546;
/// Associations that one request may name.
const MOST_ASSOCIATIONS: usize = 4;
/// Bytes of a client's identity (RFC 8415, section 11.1).
const MOST_IDENTITY: usize = 130;

/// The server's identity: its link-layer address (type 3, Ethernet).
fn server_id() -> Vec<u8> {
    [&[0, 3, 0, 1][..], &SERVER_MAC].concat()
}

pub(super) fn answer(lease: &Lease, from: Ipv6Addr, payload: &[u8]) -> Option<Answer> {
    use MessageType::{
        Advertise, Confirm, Decline, InformationRequest, Rebind, Release, Renew, Reply, Request, Solicit,
    };
    let request = Message6::read(payload)?;
    if lease.v6.is_empty() || !is_for_us(&request) {
        return None;
    }
    let rapid = request.option(OptionCode::RapidCommit).is_some();
    let kind = if request.kind == Solicit && !rapid { Advertise } else { Reply };
    let mut reply = Message::new_with_id(kind, request.id);
    let client = request.option(OptionCode::ClientId).filter(|id| id.len() <= MOST_IDENTITY);
    let client = client.map(|id| DhcpOption::ClientId(id.to_vec()));
    reply.opts_mut().insert(DhcpOption::ServerId(server_id()));
    match request.kind {
        Solicit | Request | Renew | Rebind => {
            // A request for addresses names its client.
            reply.opts_mut().insert(client?);
            let asked = request.options(OptionCode::IANA).filter_map(|association| association.first_chunk());
            for id in asked.take(MOST_ASSOCIATIONS) {
                reply.opts_mut().insert(addresses(lease, u32::from_be_bytes(*id)));
            }
            if rapid && request.kind == Solicit {
                reply.opts_mut().insert(DhcpOption::RapidCommit);
            }
            inform(lease, &mut reply);
        }
        InformationRequest => {
            if let Some(client) = client {
                reply.opts_mut().insert(client);
            }
            inform(lease, &mut reply);
        }
        Confirm | Release | Decline => {
            reply.opts_mut().insert(client?);
            let fine = StatusCode { status: Status::Success, msg: String::new() };
            reply.opts_mut().insert(DhcpOption::StatusCode(fine));
        }
        _ => return None,
    }
    let gives = kind == Reply && reply.opts().get(OptionCode::IANA).is_some();
    let payload = reply.to_vec().ok()?;
    let builder = PacketBuilder::ethernet2(SERVER_MAC, lease.mac.octets())
        .ipv6(neighbour::server().octets(), from.octets(), 64)
        .udp(SERVER_PORT, CLIENT_PORT);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, &payload).ok()?;
    let assigned = lease.v6.iter().filter(|_| gives).map(|net| IpAddr::V6(net.addr()));
    Some(Answer { frame, assigned: assigned.collect() })
}

/// Whether a request names no other server.
fn is_for_us(request: &Message6<'_>) -> bool {
    request.option(OptionCode::ServerId).is_none_or(|id| id == server_id())
}

fn addresses(lease: &Lease, id: u32) -> DhcpOption {
    let address = |net: &ipnet::Ipv6Net| {
        DhcpOption::IAAddr(IAAddr {
            addr: net.addr(),
            preferred_life: LEASE_TIME,
            valid_life: LEASE_TIME,
            opts: DhcpOptions::new(),
        })
    };
    let opts = lease.v6.iter().map(address).collect();
    DhcpOption::IANA(IANA { id, t1: LEASE_TIME / 2, t2: LEASE_TIME / 5 * 4, opts })
}

fn inform(lease: &Lease, reply: &mut Message) {
    let resolvers = lease.resolvers(|ip| match ip {
        IpAddr::V6(ip) => Some(*ip),
        IpAddr::V4(_) => None,
    });
    if !resolvers.is_empty() {
        reply.opts_mut().insert(DhcpOption::DomainNameServers(resolvers));
    }
}
