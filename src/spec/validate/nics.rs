//! The rules of interfaces, and of the routes that name them.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

use crate::spec::{
    Brand, Gateway, Mac, NicAddress, NicModel, NicSpec, Note, VmSpec,
    violation::Violation,
    vm::{FlatObject, Scalar},
};

/// Addresses of one interface.
const MAX_IPS: usize = 20;
/// Further networks of one interface.
const MAX_ALLOWED_IPS: usize = 13;
/// Addresses and further networks of one interface together.
const MAX_ALL_IPS: usize = 32;
/// DHCP client identifiers of one interface, and their bytes together.
const MAX_CIDS: usize = 20;
const MAX_CID_BYTES: usize = 1024;

pub(super) fn check(out: &mut Vec<Violation>, spec: &VmSpec) {
    let nics = &spec.nics;
    let derivable = spec.nic_driver.is_some() || nics.iter().any(|nic| nic.model.is_some());
    let mut macs: HashSet<Mac> = HashSet::new();
    let mut ips: HashSet<(Option<&str>, i32, IpAddr)> = HashSet::new();
    let mut vrids = HashSet::new();
    let mut names = HashSet::new();
    for (index, nic) in nics.iter().enumerate() {
        let at = format!("nics.{index}");
        self::nic(out, &at, nic);
        if nic.model.is_some_and(|model| model != NicModel::Virtio) && spec.brand == Some(Brand::Bhyve) {
            out.push(Violation::value(format!("{at}.model"), "bhyve has virtio interfaces alone"));
        }
        if nic.model.is_none() && !derivable {
            out.push(Violation::missing(
                format!("{at}.model"),
                "missing .model option for NIC; one of: virtio, e1000, rtl8139",
            ));
        }
        vrrp(out, &at, nic, nics);
        if let Some(mac) = nic.mac
            && !macs.insert(mac)
        {
            out.push(Violation::value(
                format!("{at}.mac"),
                format!("Cannot add multiple NICs with the same MAC: {mac}"),
            ));
        }
        if let Some(name) = nic.interface.as_deref()
            && !names.insert(name)
        {
            let why = format!("another interface is called {name} already");
            out.push(Violation::value(format!("{at}.interface"), why));
        }
        let place = (nic.nic_tag.as_deref(), nic.vlan_id.unwrap_or(0));
        for ip in nic.addresses() {
            if !ips.insert((place.0, place.1, ip)) {
                out.push(Violation::value(
                    format!("{at}.ip"),
                    format!("Cannot add multiple NICs with the same IP: {ip}"),
                ));
            }
        }
        if let Some(vrid) = nic.vrrp_vrid
            && !vrids.insert((place, vrid))
        {
            out.push(Violation::value(
                format!("{at}.vrrp_vrid"),
                format!("Cannot add multiple NICs with the same VRID: {vrid}"),
            ));
        }
    }
    if !nics.is_empty() && nics.iter().all(|nic| nic.vrrp_vrid.is_some()) {
        out.push(Violation::value("nics", "VM cannot contain only VRRP nics"));
    }
    for (index, _) in nics.iter().enumerate().filter(|(_, nic)| nic.primary).skip(1) {
        out.push(Violation::value(
            format!("nics.{index}.primary"),
            "payload specifies more than 1 primary NIC",
        ));
    }
}

fn nic(out: &mut Vec<Violation>, at: &str, nic: &NicSpec) {
    if nic.nic_tag.is_none() {
        out.push(Violation::missing(format!("{at}.nic_tag"), "required: the network of the interface"));
    }
    match (nic.ip, nic.netmask) {
        (Some(NicAddress::Static(_)), None) if nic.ips.is_empty() => {
            out.push(Violation::missing(
                format!("{at}.netmask"),
                "Missing .netmask option for NIC: required with a static ip",
            ));
        }
        (None, Some(_)) if nic.ips.is_empty() => {
            out.push(Violation::property(format!("{at}.netmask"), "goes with an ip"));
        }
        _ => {}
    }
    if let Some(netmask) = nic.netmask
        && !is_netmask(netmask)
    {
        out.push(Violation::value(
            format!("{at}.netmask"),
            format!("Specified netmask value is invalid: {netmask}"),
        ));
    }
    for ip in nic.addresses() {
        if is_nobody(ip) || ip.is_loopback() {
            out.push(Violation::value(format!("{at}.ip"), format!("{ip} can't be an interface's address")));
        }
    }
    for net in nic.networks() {
        if let Some(why) = no_host_of(net) {
            out.push(Violation::value(format!("{at}.ip"), why));
        }
    }
    routers(out, at, nic);
    ip_and_ips(out, at, nic);
    counts(out, nic, at);
}

/// Returns why an address is not one of a host.
fn no_host_of(net: IpNet) -> Option<String> {
    let ip = net.addr();
    if ip == IpAddr::V4(AGENT) {
        return Some(format!("{ip} is the agent's own on every network: it answers DHCP from there"));
    }
    let IpNet::V4(net) = net else { return None };
    let plain = net.prefix_len() < 31;
    if plain && net.addr() == net.network() {
        return Some(format!("{ip} is the address of the network {net} itself"));
    }
    (plain && net.addr() == net.broadcast())
        .then(|| format!("{ip} is the broadcast address of {}", net.trunc()))
}

/// The agent's address for DHCP.
const AGENT: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

fn routers(out: &mut Vec<Violation>, at: &str, nic: &NicSpec) {
    let given = nic.gateway.iter().map(|gateway| (format!("{at}.gateway"), *gateway));
    let listed = nic.gateways.iter().enumerate();
    let listed = listed.filter(|(_, gateway)| nic.gateway != Some(**gateway));
    let listed = listed.map(|(index, gateway)| (format!("{at}.gateways.{index}"), *gateway));
    for (field, gateway) in given.chain(listed) {
        let broadcast = nic.networks().any(|net| matches!(net, IpNet::V4(net) if net.prefix_len() < 31 && [net.network(), net.broadcast()].contains(&gateway)));
        let why = if is_nobody(IpAddr::V4(gateway)) || broadcast {
            "can't be a router's address"
        } else if gateway == AGENT {
            "is the agent's own, and no router"
        } else {
            continue;
        };
        out.push(Violation::value(field, format!("{gateway} {why}")));
    }
}

/// An address that no host has.
pub(super) fn is_nobody(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    ip.is_unspecified() || ip.is_multicast() || broadcast
}

/// Notes routers outside their interface's networks; a host may be given one all the same.
pub(in crate::spec) fn notes(nics: &[NicSpec]) -> impl Iterator<Item = Note> {
    nics.iter().enumerate().filter_map(|(index, nic)| {
        let (gateway, nets) = (nic.router()?, nic.networks().collect::<Vec<_>>());
        let off = !nets.is_empty() && !nets.iter().any(|net| net.contains(&IpAddr::V4(gateway)));
        off.then(|| {
            let why = format!(
                "{gateway} is on none of the interface's networks; guests are told that it is on the link"
            );
            Note::new(format!("nics.{index}.gateway"), why)
        })
    })
}

/// Checks that `ip` and `netmask` equal the first IPv4 entry of `ips`.
fn ip_and_ips(out: &mut Vec<Violation>, at: &str, nic: &NicSpec) {
    let first = nic.ips.iter().find_map(|text| match text.parse::<IpNet>() {
        Ok(IpNet::V4(net)) => Some(net),
        _ => None,
    });
    let (Some(NicAddress::Static(ip)), Some(net)) = (nic.ip, first) else { return };
    if ip != net.addr() || nic.netmask.is_some_and(|mask| mask != net.netmask()) {
        out.push(Violation::value(
            format!("{at}.ips"),
            format!("{net} is not ip {ip} with its netmask; give one of the two"),
        ));
    }
}

fn counts(out: &mut Vec<Violation>, nic: &NicSpec, at: &str) {
    let (ips, allowed, cids) = (nic.ips.len(), nic.allowed_ips.len(), nic.allowed_dhcp_cids.len());
    if ips > MAX_IPS {
        let why = format!("nic.*.ips contains {ips} addresses, but is limited to {MAX_IPS}");
        out.push(Violation::value(format!("{at}.ips"), why));
    }
    if allowed > MAX_ALLOWED_IPS {
        let why = format!("Maximum of {MAX_ALLOWED_IPS} allowed_ips per nic");
        out.push(Violation::value(format!("{at}.allowed_ips"), why));
    }
    if ips + allowed > MAX_ALL_IPS {
        let why = format!("More than {MAX_ALL_IPS} IPs cannot be associated with a NIC");
        out.push(Violation::value(format!("{at}.allowed_ips"), why));
    }
    if cids > MAX_CIDS {
        let why = format!(
            "nics.*.allowed_dhcp_cids contains {cids} Client Identifiers, but is limited to {MAX_CIDS}"
        );
        out.push(Violation::value(format!("{at}.allowed_dhcp_cids"), why));
    } else if nic.allowed_dhcp_cids.join(",").len() >= MAX_CID_BYTES {
        let why = "nics.*.allowed_dhcp_cids contains too many long Client Identifiers";
        out.push(Violation::value(format!("{at}.allowed_dhcp_cids"), why));
    }
}

fn vrrp(out: &mut Vec<Violation>, at: &str, nic: &NicSpec, nics: &[NicSpec]) {
    if nic.vrrp_vrid.is_some() && nic.mac.is_some() && nic.mac != nic.vrrp_mac() {
        out.push(Violation::value(format!("{at}.mac"), "Cannot set both mac and vrrp_vrid"));
    }
    match (nic.vrrp_vrid, nic.vrrp_primary_ip) {
        (Some(_), None) => {
            out.push(Violation::missing(
                format!("{at}.vrrp_primary_ip"),
                "vrrp_vrid set but not vrrp_primary_ip",
            ));
        }
        (_, Some(primary)) => {
            let has = |nic: &NicSpec| nic.addresses().any(|ip| ip == IpAddr::V4(primary));
            let field = format!("{at}.vrrp_primary_ip");
            match nics.iter().find(|other| has(other)) {
                Some(other) if other.vrrp_vrid.is_some() => {
                    out.push(Violation::value(field, "Cannot set vrrp_primary_ip to the IP of a VRRP nic"));
                }
                Some(_) => {}
                None => out.push(Violation::value(field, "vrrp_primary_ip must belong to the same VM")),
            }
        }
        _ => {}
    }
}

fn is_netmask(mask: Ipv4Addr) -> bool {
    let bits = u32::from(mask);
    bits != 0 && bits.leading_ones() + bits.trailing_zeros() == 32
}

/// Destinations are addresses or networks; gateways are addresses, MACs or `nics[0]`.
pub(super) fn routes(out: &mut Vec<Violation>, routes: &FlatObject, nics: &[NicSpec]) {
    for (destination, gateway) in routes {
        if destination.parse::<IpAddr>().is_err() && destination.parse::<IpNet>().is_err() {
            let why = format!("Invalid route destination: \"{destination}\" (must be IP address or CIDR)");
            out.push(Violation::value(format!("routes.{destination}"), why));
        }
        let text = match gateway {
            Scalar::Text(text) => text.clone(),
            Scalar::Bool(_) | Scalar::Number(_) => String::new(),
        };
        let why = match Gateway::parse(&text, nics) {
            Some(Gateway::Address(_)) => continue,
            Some(Gateway::Nic(index)) => {
                let nic = index.and_then(|index| nics.get(index));
                if nic.is_some_and(|nic| nic.addresses().next().is_some()) {
                    continue;
                }
                format!("Route gateway: \"{text}\" refers to non-existent or DHCP nic")
            }
            None => format!("Invalid route gateway: \"{text}\" (must be IP address, MAC address, or nic)"),
        };
        out.push(Violation::value(format!("routes.{destination}"), why));
    }
}
