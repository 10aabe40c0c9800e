//! The addresses that the agent may connect to for its callers.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;
use serde::{Deserialize, de::Error as _};

use super::error::SourceError;

/// Networks that are nobody's on the public internet: the host's own, a site's, a cloud's metadata.
const NOT_PUBLIC: [&str; 29] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/96",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

/// An entry of the list: `public`, an address, or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Every address of the public internet.
    Public,
    /// A network.
    Net(IpNet),
}

impl Allowed {
    fn has(self, address: IpAddr) -> bool {
        match self {
            Self::Public => is_public(address),
            Self::Net(net) => net.contains(&address),
        }
    }
}

/// An IPv4 address in the clothes of IPv6 is what it is.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(six) => six.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

fn is_public(address: IpAddr) -> bool {
    let is_in = |net: &&str| net.parse::<IpNet>().is_ok_and(|net| net.contains(&address));
    !NOT_PUBLIC.iter().any(is_in) && address != IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

/// Fails if the agent may not connect to an address.
pub(super) fn check(allowed: &[Allowed], address: IpAddr, name: &str) -> Result<(), SourceError> {
    let address = plain(address);
    if allowed.iter().any(|allowed| allowed.has(address)) {
        return Ok(());
    }
    let is = if name == address.to_string() { String::new() } else { format!(" ({name})") };
    Err(SourceError::Refused(format!(
        "{address}{is} is not an address that images may come from; add it to images.allow in the configuration if it should be"
    )))
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "public" {
            return Ok(Self::Public);
        }
        let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        net.map(Self::Net)
            .ok_or_else(|| format!("{text:?} is no network like 10.0.0.0/8, and not \"public\""))
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str("public"),
            Self::Net(net) => net.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Allowed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clouds_metadata_and_the_hosts_own_are_not_public() {
        let public = [Allowed::Public];
        for address in [
            "169.254.169.254",
            "127.0.0.1",
            "10.1.2.3",
            "192.168.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "::",
            "fd00:ec2::254",
            "fe80::1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "224.0.0.1",
        ] {
            let refused = check(&public, address.parse().unwrap(), "x").unwrap_err();
            assert!(matches!(refused, SourceError::Refused(_)), "{address}");
        }
        for address in ["1.1.1.1", "185.199.108.133", "2606:4700::1111", "::ffff:1.1.1.1"] {
            check(&public, address.parse().unwrap(), "x").unwrap();
        }
        let site = ["10.0.0.0/8".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        check(&site, "10.9.9.9".parse().unwrap(), "x").unwrap();
        check(&site, "::ffff:127.0.0.1".parse().unwrap(), "x").unwrap();
        check(&site, "127.0.0.2".parse().unwrap(), "x").unwrap_err();
        check(&site, "1.1.1.1".parse().unwrap(), "x").unwrap_err();
        assert!("everywhere".parse::<Allowed>().is_err());
    }
}
