//! Network interfaces.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Place;

/// One entry of `nics`. `other` holds what the agent only keeps.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NicSpec {
    /// Generated when absent.
    pub mac: Option<Mac>,
    /// `net0` and so on.
    pub interface: Option<String>,
    /// The network that it is on; required.
    pub nic_tag: Option<String>,
    /// How the guest sees it; required.
    pub model: Option<NicModel>,
    /// 0 is none.
    pub vlan_id: Option<i32>,
    /// Static or by DHCP.
    pub ip: Option<NicAddress>,
    /// Required with a static address.
    pub netmask: Option<Ipv4Addr>,
    /// All addresses, with their prefix lengths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// Default router.
    pub gateway: Option<Ipv4Addr>,
    /// Default routers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<Ipv4Addr>,
    /// Carries the default route.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub primary: bool,
    /// Largest packet, in bytes.
    pub mtu: Option<i32>,
    /// Whether the agent answers its DHCP requests with its static addresses.
    pub answer_dhcp: Option<bool>,
    /// It may serve DHCP.
    pub dhcp_server: Option<bool>,
    /// It may send as a DHCP server or a router.
    pub allow_dhcp_spoofing: Option<bool>,
    /// It may send from any IP address.
    pub allow_ip_spoofing: Option<bool>,
    /// It may send from any MAC address.
    pub allow_mac_spoofing: Option<bool>,
    /// It may send what is neither IP nor ARP.
    pub allow_restricted_traffic: Option<bool>,
    /// It may see packets for others.
    pub allow_unfiltered_promisc: Option<bool>,
    /// TCP ports that it can't connect to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocked_outgoing_ports: Vec<u16>,
    /// Further networks that it may send from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_ips: Vec<String>,
    /// DHCP client identifiers that it may use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_dhcp_cids: Vec<String>,
    /// VRRP group.
    pub vrrp_vrid: Option<i32>,
    /// Source address of VRRP.
    pub vrrp_primary_ip: Option<Ipv4Addr>,
    /// Where the guest finds it, for life.
    pub place: Option<Place>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl NicSpec {
    /// The address of a VRRP group.
    #[must_use]
    pub fn vrrp_mac(&self) -> Option<Mac> {
        self.vrrp_vrid.and_then(|id| u8::try_from(id).ok()).map(|id| Mac([0, 0, 0x5e, 0, 1, id]))
    }

    /// Every static address.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.networks().map(|net| net.addr())
    }

    /// Every static address with its prefix; `ip` with its netmask comes first.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> + '_ {
        let of_ip = match self.ip {
            Some(NicAddress::Static(ip)) => {
                let prefix = self.netmask.and_then(|mask| ipnet::ip_mask_to_prefix(IpAddr::V4(mask)).ok());
                let of_ips = || self.static_ips().find(|net| net.addr() == IpAddr::V4(ip));
                let net = prefix.and_then(|prefix| IpNet::new(IpAddr::V4(ip), prefix).ok()).or_else(of_ips);
                Some(net.unwrap_or_else(|| IpNet::from(IpAddr::V4(ip))))
            }
            _ => None,
        };
        let first = of_ip.map(|net| net.addr());
        of_ip.into_iter().chain(self.static_ips().filter(move |net| Some(net.addr()) != first))
    }

    fn static_ips(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.ips.iter().filter_map(|text| text.parse().ok())
    }

    /// Whether it gets an IPv4 address from a DHCP server of its network. An interface without addresses may,
    /// too.
    #[must_use]
    pub fn is_dynamic(&self) -> bool {
        let says_nothing = self.ip.is_none() && self.ips.is_empty();
        says_nothing || self.ip == Some(NicAddress::Dhcp) || self.ips.iter().any(|ip| ip == "dhcp")
    }

    /// Whether it derives its IPv6 addresses from router advertisements.
    #[must_use]
    pub fn is_autoconfigured(&self) -> bool {
        let says_nothing = self.ip.is_none() && self.ips.is_empty();
        says_nothing || self.ips.iter().any(|ip| ip == "addrconf")
    }

    /// Its default router; none of a guest that is the router itself.
    #[must_use]
    pub fn router(&self) -> Option<Ipv4Addr> {
        let gateway = self.gateway.or_else(|| self.gateways.first().copied())?;
        let is_own = self.addresses().any(|address| address == gateway);
        (!is_own).then_some(gateway)
    }
}

/// Returns the index of the default route's interface: the primary one, or the first.
#[must_use]
pub fn primary(nics: &[NicSpec]) -> Option<usize> {
    nics.iter().position(|nic| nic.primary).or((!nics.is_empty()).then_some(0))
}

/// A device model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NicModel {
    /// Virtio network device.
    Virtio,
    /// Intel 82540EM.
    E1000,
    /// Realtek 8139.
    Rtl8139,
}

impl NicModel {
    /// All models of the kvm brand, by name.
    pub const NAMES: &[(&str, Self)] =
        &[("virtio", Self::Virtio), ("e1000", Self::E1000), ("rtl8139", Self::Rtl8139)];

    /// Its name in a machine JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::E1000 => "e1000",
            Self::Rtl8139 => "rtl8139",
        }
    }
}

/// Where an interface's IPv4 address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum NicAddress {
    /// From a DHCP server of the network.
    Dhcp,
    /// This one.
    Static(Ipv4Addr),
}

impl FromStr for NicAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "dhcp" {
            return Ok(Self::Dhcp);
        }
        text.parse()
            .map(Self::Static)
            .map_err(|_| format!("\"{text}\" is neither an IPv4 address (like 10.88.88.51) nor \"dhcp\""))
    }
}

impl TryFrom<String> for NicAddress {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<NicAddress> for String {
    fn from(address: NicAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for NicAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dhcp => f.write_str("dhcp"),
            Self::Static(ip) => ip.fmt(f),
        }
    }
}

/// A unicast Ethernet address, written with two lower-case digits an octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// A locally administered unicast address from random bytes: the second digit is 2.
    #[must_use]
    pub fn local(mut octets: [u8; 6]) -> Self {
        octets[0] = (octets[0] & 0xf0) | 0x02;
        Self(octets)
    }

    /// Wraps six octets, unchanged.
    #[must_use]
    pub fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// Its six octets.
    #[must_use]
    pub fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Returns its hex digits, unseparated.
    #[must_use]
    pub fn hex(self) -> String {
        self.to_string().replace(':', "")
    }

    /// Returns the link-local IPv6 address derived from it (RFC 4291, appendix A).
    #[must_use]
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0.map(u16::from);
        Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
    }
}

impl FromStr for Mac {
    type Err = String;

    /// Leading zeros may be left out, as vmadm allows.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("\"{text}\" is not a MAC address: six octets like 90:b8:d0:01:02:03 are needed");
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(bad)?;
            if part.is_empty() || part.len() > 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            return Err(bad());
        }
        if octets[0] & 1 == 1 {
            return Err(format!("\"{text}\" is a group address; an interface needs an even first octet"));
        }
        if octets == [0; 6] {
            return Err(format!("\"{text}\" can't be an interface's address"));
        }
        Ok(Self(octets))
    }
}

impl TryFrom<String> for Mac {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_forms() {
        assert_eq!("2:8:20:1:2:a".parse::<Mac>().unwrap().to_string(), "02:08:20:01:02:0a");
        for bad in ["", "aa:bb:cc:dd:ee:ff:12", "aa:bb", "01:00:5e:00:00:01", "0:0:0:0:0:0", "+1:2:3:4:5:6"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
        assert_eq!(&Mac::local([0xff; 6]).to_string()[..2], "f2");
        let mac: Mac = "52:55:55:55:55:55".parse().unwrap();
        assert_eq!(mac.link_local().to_string(), "fe80::5055:55ff:fe55:5555");
    }

    #[test]
    fn address_forms() {
        assert_eq!("dhcp".parse(), Ok(NicAddress::Dhcp));
        assert!("1.2.3.4,5.6.7.8".parse::<NicAddress>().is_err());
    }
}
