//! DHCP (RFC 2131), as far as a server of one address needs it.

use std::net::{IpAddr, Ipv4Addr};

use dhcproto::{
    Encodable as _,
    v4::{DhcpOption, Message, MessageType, Opcode, OptionCode},
};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use ipnet::Ipv4Net;

use super::{Answer, LEASE_TIME, SERVER_IP, SERVER_MAC, question::Message4};
use crate::{network::Lease, spec::Mac};

pub(super) const SERVER_PORT: u16 = 67;
pub(super) const CLIENT_PORT: u16 = 68;
/// Old clients accept nothing shorter.
const LEAST_MESSAGE: usize = 300;
/// The packet size that every client accepts, headers included.
const USUAL_PACKET: u16 = 576;
const LARGEST_PACKET: u16 = 1500;
const HEADERS: usize = 28;

pub(super) fn answer(lease: &Lease, payload: &[u8]) -> Option<Answer> {
    let request = Message4::read(payload)?;
    let own = lease.v4?;
    if !is_request_of(&request, lease.mac) || !is_listed(lease, &request) {
        return None;
    }
    let verdict = verdict(&request, own.addr())?;
    let payload = reply(lease, own, &request, verdict)?;
    let to = match request.client() {
        _ if verdict == Verdict::Refuse => Ipv4Addr::BROADCAST,
        ip if ip.is_unspecified() => Ipv4Addr::BROADCAST,
        ip => ip,
    };
    let builder = PacketBuilder::ethernet2(SERVER_MAC, lease.mac.octets())
        .ipv4(SERVER_IP.octets(), to.octets(), 64)
        .udp(SERVER_PORT, CLIENT_PORT);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, &payload).ok()?;
    let assigned = if verdict == Verdict::Assign { vec![IpAddr::V4(own.addr())] } else { Vec::new() };
    Some(Answer { frame, assigned })
}

/// A message's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Offer,
    Assign,
    /// All but an address.
    Inform,
    Refuse,
}

impl Verdict {
    fn kind(self) -> MessageType {
        match self {
            Self::Offer => MessageType::Offer,
            Self::Assign | Self::Inform => MessageType::Ack,
            Self::Refuse => MessageType::Nak,
        }
    }
}

/// RFC 2131, section 4.3: one address exists, and no other server gives it.
fn verdict(request: &Message4<'_>, own: Ipv4Addr) -> Option<Verdict> {
    match request.kind() {
        Some(MessageType::Discover) => return Some(Verdict::Offer),
        Some(MessageType::Inform) => return Some(Verdict::Inform),
        // Without a type it is BOOTP.
        None => return Some(Verdict::Assign),
        Some(MessageType::Request) => {}
        Some(_) => return None,
    }
    let address =
        |code| request.option(code).map(|bytes| <[u8; 4]>::try_from(bytes).map(Ipv4Addr::from).ok());
    match address(OptionCode::ServerIdentifier) {
        // The client took another's offer.
        Some(server) if server != Some(SERVER_IP) => return None,
        _ => {}
    }
    let wanted = match address(OptionCode::RequestedIpAddress) {
        Some(asked) => asked,
        None if request.client().is_unspecified() => Some(own),
        None => Some(request.client()),
    };
    Some(if wanted == Some(own) { Verdict::Assign } else { Verdict::Refuse })
}

fn is_request_of(message: &Message4<'_>, mac: Mac) -> bool {
    message.is_request() && message.mac == mac
}

fn is_listed(lease: &Lease, request: &Message4<'_>) -> bool {
    lease.clients.is_empty() || is_one_of(&lease.clients, request)
}

/// Whether a client identifies itself as one of these.
fn is_one_of(clients: &[Vec<u8>], request: &Message4<'_>) -> bool {
    request.option(OptionCode::ClientIdentifier).is_some_and(|cid| clients.iter().any(|client| client == cid))
}

fn reply(lease: &Lease, own: Ipv4Net, request: &Message4<'_>, verdict: Verdict) -> Option<Vec<u8>> {
    let zero = Ipv4Addr::UNSPECIFIED;
    let mac = lease.mac.octets();
    let (client, yours, server) = match verdict {
        Verdict::Offer | Verdict::Assign => (request.client(), own.addr(), SERVER_IP),
        Verdict::Inform => (request.client(), zero, SERVER_IP),
        Verdict::Refuse => (zero, zero, zero),
    };
    let mut message = Message::new_with_id(request.id(), client, yours, server, zero, &mac);
    message.set_opcode(Opcode::BootReply).set_flags(request.flags().into());
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(verdict.kind()));
    options.insert(DhcpOption::ServerIdentifier(SERVER_IP));
    if verdict == Verdict::Refuse {
        return padded(&message);
    }
    if verdict != Verdict::Inform {
        options.insert(DhcpOption::AddressLeaseTime(LEASE_TIME));
    }
    options.insert(DhcpOption::SubnetMask(own.netmask()));
    if let Some(router) = lease.router {
        options.insert(DhcpOption::Router(vec![router]));
    }
    let resolvers = lease.resolvers(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });
    if !resolvers.is_empty() {
        options.insert(DhcpOption::DomainNameServer(resolvers));
    }
    if let Some(mtu) = lease.mtu {
        options.insert(DhcpOption::InterfaceMtu(mtu));
    }
    if let Some(hostname) = &lease.hostname {
        options.insert(DhcpOption::Hostname(hostname.clone()));
    }
    if !lease.routes.is_empty() {
        // A client that takes these ignores the router option (RFC 3442).
        let default = lease.router.map(|router| (Ipv4Net::default(), router));
        options
            .insert(DhcpOption::ClasslessStaticRoute(lease.routes.iter().copied().chain(default).collect()));
    }
    let takes = request
        .option(OptionCode::MaxMessageSize)
        .and_then(|bytes| Some(u16::from_be_bytes(bytes.try_into().ok()?)));
    let most = takes.map_or(USUAL_PACKET, |most| most.clamp(USUAL_PACKET, LARGEST_PACKET));
    let most = usize::from(most) - HEADERS;
    // Dispensable options, longest first.
    for spare in [None, Some(OptionCode::ClasslessStaticRoute), Some(OptionCode::Hostname)] {
        if let Some(spare) = spare {
            message.opts_mut().remove(spare);
        }
        if message.to_vec().ok()?.len() <= most {
            return padded(&message);
        }
    }
    None
}

fn padded(message: &Message) -> Option<Vec<u8>> {
    let mut bytes = message.to_vec().ok()?;
    bytes.resize(bytes.len().max(LEAST_MESSAGE), 0);
    Some(bytes)
}

pub(super) fn acknowledged(payload: &[u8], mac: Mac) -> Option<Ipv4Addr> {
    let message = Message4::read(payload)?;
    let ack = message.is_reply() && message.kind() == Some(MessageType::Ack);
    let given = Some(message.yours()).filter(|address| !address.is_unspecified());
    given.filter(|_| ack && message.mac == mac)
}

/// Returns the request in a frame, ready for servers of the network: only of that interface and of a listed
/// client, and with the headers of a client that has no address.
#[must_use]
pub fn relayed(frame: &[u8], mac: Mac, clients: &[Vec<u8>]) -> Option<Vec<u8>> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let TransportSlice::Udp(udp) = packet.transport? else { return None };
    let request = Message4::read(udp.payload())?;
    let asks = udp.destination_port() == SERVER_PORT && is_request_of(&request, mac);
    if !asks || !request.relay().is_unspecified() || !is_one_of(clients, &request) {
        return None;
    }
    let builder = PacketBuilder::ethernet2(mac.octets(), [0xff; 6])
        .ipv4([0; 4], Ipv4Addr::BROADCAST.octets(), 64)
        .udp(CLIENT_PORT, SERVER_PORT);
    let mut frame = Vec::with_capacity(builder.size(udp.payload().len()));
    builder.write(&mut frame, udp.payload()).ok()?;
    Some(frame)
}
