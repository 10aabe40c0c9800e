//! Which addresses an interface may send from.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Guarded, listed};

impl Guarded<'_> {
    /// Drops packets from foreign addresses.
    pub(super) fn own_addresses(&self) -> Vec<String> {
        let (nic, drop) = (self.nic, self.refuse());
        let (mut v4, mut v6) = (Vec::new(), vec![Ipv6Net::from(self.mac.link_local())]);
        let further = nic.allowed_ips.iter().filter_map(|text| network(text));
        let vrrp = nic.vrrp_primary_ip.map(|ip| IpNet::from(IpAddr::V4(ip)));
        for net in nic.addresses().map(IpNet::from).chain(further).chain(vrrp) {
            match net {
                IpNet::V4(net) => v4.push(net),
                IpNet::V6(net) => v6.push(net),
            }
        }
        let (v4, v6) = (Ipv4Net::aggregate(&v4), Ipv6Net::aggregate(&v6));

        // Each matches addresses that are not the guest's.
        let [mut ip, mut arp, mut ip6, mut probed] = [const { String::new() }; 4];
        if nic.is_dynamic() {
            let leases = self.object("leases");
            let _ = write!(ip, " @nh,96,32 != @{leases}");
            let _ = write!(arp, " @nh,112,32 != @{leases}");
            let _ = write!(probed, " @nh,192,32 != @{leases}");
        }
        if !v4.is_empty() {
            let _ = write!(ip, " ip saddr != {}", listed(&v4));
            let _ = write!(probed, " arp daddr ip != {}", listed(&v4));
        }
        let probes = Ipv4Net::aggregate(&[v4, vec![Ipv4Net::from(Ipv4Addr::UNSPECIFIED)]].concat());
        let _ = write!(arp, " arp saddr ip != {}", listed(&probes));
        let _ = write!(ip6, " ip6 saddr != {}", listed(&v6));
        let targets: Vec<String> = v6.iter().map(range).collect();
        let mut target = format!(" @th,64,128 != {}", listed(&targets));
        if nic.is_autoconfigured() {
            let own = u128::from(self.mac.link_local());
            let low = Ipv6Addr::from(own & u128::from(u64::MAX));
            let _ = write!(ip6, " ip6 saddr & ::ffff:ffff:ffff:ffff != {low}");
            let _ = write!(target, " @th,128,64 != {:#018x}", own & u128::from(u64::MAX));
        }
        vec![
            "ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept".to_owned(),
            format!("meta protocol ip{} {drop}", ip),
            format!("meta protocol arp{} {drop}", arp),
            // A probe for a free address keeps others from using it.
            format!("arp saddr ip 0.0.0.0{probed} {drop}"),
            format!("icmpv6 type nd-neighbor-advert{target} {drop}"),
            format!("ip6 saddr :: icmpv6 type nd-neighbor-solicit{target} {drop}"),
            "ip6 saddr :: icmpv6 type { nd-neighbor-solicit, nd-router-solicit, mld-listener-report, mld-listener-done, mld2-listener-report } accept".to_owned(),
            format!("meta protocol ip6{} {drop}", ip6),
        ]
    }
}

/// An address or a network.
fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).map(|net| net.trunc())
}

/// Writes a network as numbers, for rules that know no networks.
fn range(net: &Ipv6Net) -> String {
    let (first, last) = (u128::from(net.network()), u128::from(net.broadcast()));
    if first == last { format!("{first:#034x}") } else { format!("{first:#034x}-{last:#034x}") }
}
