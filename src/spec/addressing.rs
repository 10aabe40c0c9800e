//! The addresses, routers, routes and names of a machine's interfaces: one model for every channel to the
//! guest (DHCP, metadata, a NoCloud disk).

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::{Gateway, NicSpec, Scalar, VmSpec, primary};

/// Bytes of a label of a host name, and of all.
const LABEL: usize = 63;
const NAME: usize = 253;

/// One interface's addressing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface<'s> {
    /// Its place in the machine's list.
    pub index: usize,
    /// As the machine says it.
    pub nic: &'s NicSpec,
    /// It carries the default route.
    pub primary: bool,
    /// Its static addresses with their networks.
    pub networks: Vec<IpNet>,
    /// The default router; of the primary one.
    pub router: Option<Ipv4Addr>,
    /// Name servers; of the primary one.
    pub resolvers: Vec<IpAddr>,
    /// Routes that lead over it.
    pub routes: Vec<Route>,
}

/// A route of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads to.
    pub destination: IpNet,
    /// The gateway; `None` where the destination is on the link.
    pub gateway: Option<IpAddr>,
}

impl Route {
    /// Returns the destination in a machine's form: a network, or a host's address.
    #[must_use]
    pub fn shown(&self) -> String {
        match self.destination {
            host if host.prefix_len() == host.max_prefix_len() => host.addr().to_string(),
            network => network.to_string(),
        }
    }
}

impl Interface<'_> {
    /// Whether an address is in one of its networks.
    #[must_use]
    pub fn reaches(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|net| net.contains(&address))
    }

    /// Returns the default router if no network of the interface contains it: the guest must learn that it is
    /// on-link.
    #[must_use]
    pub fn router_off_net(&self) -> Option<Ipv4Addr> {
        self.router.filter(|router| !self.reaches(IpAddr::V4(*router)))
    }
}

/// Returns the interfaces of a machine. `nics` are the present ones, which may differ from those of `spec`.
#[must_use]
pub fn interfaces<'s>(spec: &VmSpec, nics: &'s [NicSpec]) -> Vec<Interface<'s>> {
    let main = primary(nics);
    let networks: Vec<Vec<IpNet>> = nics.iter().map(|nic| nic.networks().collect()).collect();
    let of = |(index, nic): (usize, &'s NicSpec)| {
        let is_main = main == Some(index);
        let resolvers = || spec.resolvers.iter().filter_map(|text| text.parse().ok()).collect();
        Interface {
            index,
            nic,
            primary: is_main,
            router: nic.router().filter(|_| is_main),
            resolvers: if is_main { resolvers() } else { Vec::new() },
            routes: routes(spec, nics)
                .filter(|(over, _)| leads_over(*over, index, &networks))
                .map(|(_, route)| route)
                .collect(),
            networks: networks[index].clone(),
        }
    };
    nics.iter().enumerate().map(of).collect()
}

/// How a route names its interface.
#[derive(Clone, Copy, Debug)]
enum Over {
    Nic(usize),
    Gateway(IpAddr),
}

fn leads_over(over: Over, index: usize, networks: &[Vec<IpNet>]) -> bool {
    match over {
        Over::Nic(nic) => nic == index,
        Over::Gateway(gateway) => networks[index].iter().any(|net| net.contains(&gateway)),
    }
}

fn routes<'s>(spec: &'s VmSpec, nics: &'s [NicSpec]) -> impl Iterator<Item = (Over, Route)> + 's {
    spec.routes.iter().filter_map(move |(destination, gateway)| {
        let host = || destination.parse::<IpAddr>().ok().map(IpNet::from);
        let destination = destination.parse::<IpNet>().ok().or_else(host)?.trunc();
        let Scalar::Text(gateway) = gateway else { return None };
        Some(match Gateway::parse(gateway, nics)? {
            Gateway::Address(gateway) => {
                (Over::Gateway(gateway), Route { destination, gateway: Some(gateway) })
            }
            Gateway::Nic(nic) => (Over::Nic(nic?), Route { destination, gateway: None }),
        })
    })
}

/// Returns the guest's host name in a form that every guest accepts; `usual` when the machine has no usable
/// one.
#[must_use]
pub fn host_name(spec: &VmSpec, usual: &str) -> String {
    let given = [spec.hostname.as_deref(), spec.alias.as_deref()];
    given.into_iter().flatten().map(valid).find(|name| !name.is_empty()).unwrap_or_else(|| valid(usual))
}

/// Labels of letters, digits and dashes (RFC 1123).
fn valid(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let label = |label: &str| {
        let text: String = label.chars().map(plain).collect();
        let text = text.trim_matches('-');
        text[..text.len().min(LABEL)].trim_end_matches('-').to_owned()
    };
    let mut whole = String::new();
    for label in name.split('.').map(label).filter(|label| !label.is_empty()) {
        if whole.len() + 1 + label.len() > NAME {
            break;
        }
        if !whole.is_empty() {
            whole.push('.');
        }
        whole.push_str(&label);
    }
    whole
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_host_name_is_one() {
        let name = |alias: &str| {
            host_name(&VmSpec { alias: Some(alias.to_owned()), ..VmSpec::default() }, "usual-1")
        };
        for (alias, wanted) in [
            ("web1", "web1"),
            ("my web server", "my-web-server"),
            ("web_1.example", "web-1.example"),
            ("-öö-", "usual-1"),
            ("", "usual-1"),
            ("a..b", "a.b"),
        ] {
            assert_eq!(name(alias), wanted);
        }
        assert_eq!(name(&"x".repeat(300)).len(), 63);
        assert!(name(&"abcdefgh.".repeat(100)).len() <= NAME);
    }

    #[test]
    fn a_route_leads_over_one_interface() {
        let spec: VmSpec = serde_json::from_value(json!({
            "routes": {"10.2.0.0/16": "10.0.0.9", "10.3.0.1": "nics[1]", "10.4.0.0/16": "10.1.0.9", "fd01::/64": "fd00::1"},
            "nics": [{"ips": ["10.0.0.5/24"], "gateways": ["192.168.0.1"]}, {"ips": ["10.1.0.5/16", "fd00::5/64"]}]}))
        .unwrap();
        let interfaces = interfaces(&spec, &spec.nics);
        let routes = |index: usize| {
            interfaces[index].routes.iter().map(|route| route.destination.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(routes(0), ["10.2.0.0/16"]);
        assert_eq!(routes(1), ["10.3.0.1/32", "10.4.0.0/16", "fd01::/64"]);
        assert_eq!(interfaces[0].router_off_net(), Some("192.168.0.1".parse().unwrap()));
        assert!(interfaces[0].primary && !interfaces[1].primary);
    }
}
