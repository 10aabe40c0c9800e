//! The lease that the agent gives to a guest on request.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::spec::{
    Mac, NicSpec, VmSpec,
    addressing::{Interface, Route, host_name, interfaces},
};

/// Name servers that are passed on.
const MOST_RESOLVERS: usize = 4;
/// Routes that are passed on: they all have to fit into one packet.
const MOST_ROUTES: usize = 24;

/// The lease of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its MAC.
    pub mac: Mac,
    /// Its IPv4 address with its network.
    pub v4: Option<Ipv4Net>,
    /// Its IPv6 addresses with their networks.
    pub v6: Vec<Ipv6Net>,
    /// Of the primary interface.
    pub router: Option<Ipv4Addr>,
    /// Of the primary interface.
    pub hostname: Option<String>,
    /// Of the primary interface.
    pub resolvers: Vec<IpAddr>,
    /// Destination and gateway; the unspecified address where the destination is on the link.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// Largest packet, where it is not the usual one.
    pub mtu: Option<u16>,
    /// Client identifiers that are answered; empty: all.
    pub clients: Vec<Vec<u8>>,
}

impl Lease {
    /// Builds the lease of interface `index`; `mtu` is its link's. `None` when there is nothing to give.
    #[must_use]
    pub fn of(nics: &[NicSpec], index: usize, spec: &VmSpec, name: &str, mtu: i32) -> Option<Self> {
        let interface = interfaces(spec, nics).into_iter().nth(index)?;
        let nic = interface.nic;
        if nic.answer_dhcp == Some(false) {
            return None;
        }
        let mut v4 = interface.networks.iter().filter_map(|net| match net {
            IpNet::V4(net) => Some(*net),
            IpNet::V6(_) => None,
        });
        let v6 = interface.networks.iter().filter_map(|net| match net {
            IpNet::V6(net) => Some(*net),
            IpNet::V4(_) => None,
        });
        let (v4, v6) = (v4.next(), v6.collect::<Vec<_>>());
        if v4.is_none() && v6.is_empty() {
            return None;
        }
        let routes = if v4.is_some() { routes(&interface) } else { Vec::new() };
        Some(Self {
            mac: nic.mac?,
            router: interface.router,
            hostname: interface.primary.then(|| host_name(spec, name)),
            resolvers: interface.resolvers,
            routes,
            mtu: u16::try_from(mtu).ok().filter(|mtu| *mtu != 1500),
            clients: nic.allowed_dhcp_cids.iter().filter_map(|cid| bytes(cid)).collect(),
            v4,
            v6,
        })
    }

    /// Returns the name servers of one address family.
    pub(super) fn resolvers<T>(&self, kind: impl Fn(&IpAddr) -> Option<T>) -> Vec<T> {
        self.resolvers.iter().filter_map(kind).take(MOST_RESOLVERS).collect()
    }
}

/// Returns the IPv4 routes; the route to an off-network default router comes first.
fn routes(interface: &Interface<'_>) -> Vec<(Ipv4Net, Ipv4Addr)> {
    let route = |route: &Route| match (route.destination, route.gateway) {
        (IpNet::V4(destination), Some(IpAddr::V4(gateway))) => Some((destination, gateway)),
        (IpNet::V4(destination), None) => Some((destination, Ipv4Addr::UNSPECIFIED)),
        _ => None,
    };
    let router = interface.router_off_net().map(|router| (Ipv4Net::from(router), Ipv4Addr::UNSPECIFIED));
    router.into_iter().chain(interface.routes.iter().filter_map(route)).take(MOST_ROUTES).collect()
}

/// `0x01ff` as bytes.
pub(super) fn bytes(cid: &str) -> Option<Vec<u8>> {
    let digits = cid.strip_prefix("0x")?.as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lease(index: usize, spec: serde_json::Value, mtu: i32) -> Option<Lease> {
        let spec: VmSpec = serde_json::from_value(spec).unwrap();
        Lease::of(&spec.nics, index, &spec, "f00", mtu)
    }

    #[test]
    fn the_primary_interface_is_told_more() {
        let spec = json!({"resolvers": ["10.0.0.2", "fd00::2"], "hostname": "x".repeat(300),
            "routes": {"10.2.0.0/16": "10.0.0.9", "10.3.0.1": "nics[1]", "10.4.0.0/16": "10.1.0.9"},
            "nics": [
                {"mac": "02:00:00:00:00:01", "ip": "10.0.0.5", "netmask": "255.255.255.0", "gateway": "10.0.0.1"},
                {"mac": "02:00:00:00:00:02", "ips": ["10.1.0.5/16", "fd00::5/64"], "gateways": ["10.1.0.1"]}]});
        let first = lease(0, spec.clone(), 1500).unwrap();
        assert_eq!(first.v4, Some("10.0.0.5/24".parse().unwrap()));
        assert_eq!(first.router, Some("10.0.0.1".parse().unwrap()));
        assert_eq!((first.hostname.unwrap().len(), first.resolvers.len(), first.mtu), (63, 2, None));
        assert_eq!(first.routes, [("10.2.0.0/16".parse().unwrap(), "10.0.0.9".parse().unwrap())]);

        let second = lease(1, spec, 9000).unwrap();
        assert_eq!((second.router, second.hostname, second.resolvers.len()), (None, None, 0));
        assert_eq!((second.v6.len(), second.mtu), (1, Some(9000)));
        let routes = [("10.3.0.1/32", "0.0.0.0"), ("10.4.0.0/16", "10.1.0.9")];
        assert_eq!(second.routes, routes.map(|(to, by)| (to.parse().unwrap(), by.parse().unwrap())));
    }

    #[test]
    fn without_an_address_or_against_its_will_none_is_given() {
        let with = |nic: serde_json::Value| lease(0, json!({"nics": [nic]}), 1500);
        let mac = "02:00:00:00:00:01";
        assert_eq!(with(json!({"mac": mac, "ip": "dhcp"})), None);
        assert_eq!(with(json!({"mac": mac})), None);
        assert_eq!(with(json!({"mac": mac, "ips": ["10.0.0.1/8"], "answer_dhcp": false})), None);
        assert_eq!(
            with(json!({"mac": mac, "ips": ["10.0.0.1/8"]})).unwrap().hostname.as_deref(),
            Some("f00")
        );
        let listed = with(json!({"mac": mac, "ips": ["10.0.0.1/8"], "allowed_dhcp_cids": ["0x01ff"]}));
        assert_eq!(listed.unwrap().clients, [vec![1, 0xff]]);
    }
}
