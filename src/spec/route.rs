//! Where the packets of a route go.

use std::net::IpAddr;

use super::{Mac, NicSpec};

/// The gateway of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// A router.
    Address(IpAddr),
    /// The link of the interface with that index, if there is one.
    Nic(Option<usize>),
}

impl Gateway {
    /// `10.0.0.1`, `nics[0]`, or the MAC address of one of the interfaces.
    #[must_use]
    pub fn parse(text: &str, nics: &[NicSpec]) -> Option<Self> {
        if let Ok(address) = text.parse() {
            return Some(Self::Address(address));
        }
        if let Some(index) = text.strip_prefix("nics[").and_then(|rest| rest.strip_suffix(']')?.parse().ok())
        {
            return Some(Self::Nic(Some(index).filter(|index| *index < nics.len())));
        }
        let mac: Mac = text.parse().ok()?;
        Some(Self::Nic(nics.iter().position(|nic| nic.mac == Some(mac))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_have_three_forms() {
        let mac: Mac = "02:00:00:00:00:01".parse().unwrap();
        let nics = [NicSpec::default(), NicSpec { mac: Some(mac), ..NicSpec::default() }];
        let parse = |text| Gateway::parse(text, &nics);
        assert_eq!(parse("10.0.0.1"), Some(Gateway::Address([10, 0, 0, 1].into())));
        assert_eq!(parse("nics[1]"), Some(Gateway::Nic(Some(1))));
        assert_eq!(parse("nics[2]"), Some(Gateway::Nic(None)));
        assert_eq!(parse("2:0:0:0:0:1"), Some(Gateway::Nic(Some(1))));
        assert_eq!(parse("2:0:0:0:0:2"), Some(Gateway::Nic(None)));
        for bad in ["", "nics[]", "nics[x]", "nics[0", "10.0.0", "eth0"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
