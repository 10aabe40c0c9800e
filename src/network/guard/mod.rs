//! nftables rules for the packets that an interface sends and receives.
//!
//! Each interface has two chains in the agent's `netdev` table, at its own link: `…-in` for packets from the
//! guest, before the bridge sees them, and `…-out` for packets to it. A frame passes unless a rule drops it.
//!
//! | protection | drops | opened by |
//! |---|---|---|
//! | restricted | what is not IPv4, IPv6 or ARP, VLAN tags too | `allow_restricted_traffic` |
//! | mac-nospoof | another's MAC address, also inside ARP and neighbour discovery | `allow_mac_spoofing` |
//! | dhcp-nospoof | what only DHCP servers and routers say; requests for another's MAC address | `allow_dhcp_spoofing`, `dhcp_server` |
//! | ip-nospoof | another's address as sender, in ARP, or in neighbour discovery | `allow_ip_spoofing`, `allow_dhcp_spoofing`, `dhcp_server` |
//! | promiscuity | what is meant for another MAC address, on its way in | `allow_unfiltered_promisc`, `allow_mac_spoofing` |
//! | `blocked_outgoing_ports` | TCP to these ports | |
//! | `firewall_enabled` | what comes in and nothing from inside asked for | |
//!
//! A rule learns the addresses that a network's server leases from its acknowledgements; this needs no agent.

mod addresses;
mod firewall;

use firewall::{FLOWS, OTHER_FLOW};
use uuid::Uuid;

use super::Lease;
use crate::spec::{Mac, NicSpec};

/// An interface at its link.
#[derive(Clone, Debug)]
pub(super) struct Guarded<'a> {
    pub(super) uuid: Uuid,
    pub(super) mac: Mac,
    pub(super) nic: &'a NicSpec,
    /// The lease with which the agent answers it.
    pub(super) lease: Option<&'a Lease>,
    pub(super) firewall: bool,
    pub(super) link: &'a str,
    pub(super) side: Side,
    /// The table.
    pub(super) table: &'a str,
}

/// The guest's side of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The guest's frames come in by it: a tap.
    Tap,
    /// They go out by it: a macvtap.
    Shared,
}

/// Returns the prefix of the names of a VM's objects.
pub(super) fn name(uuid: Uuid) -> String {
    format!("vm-{uuid}-")
}

/// Returns the VM of an object.
pub(super) fn owner(name: &str) -> Option<Uuid> {
    Uuid::try_parse(name.strip_prefix("vm-")?.get(..36)?).ok()
}

/// Leases that are remembered for one interface, and for how long after their last acknowledgement.
const LEASES: usize = 64;
const LEASE: &str = "7d";

/// Keeps packets on an agent's bridge from the host, whatever it listens on.
pub(super) fn closed_to_host(table: &str, bridge: &str) -> String {
    new_chain(table, &host_chain(bridge), "ingress", bridge, "drop")
}

/// Of a bridge.
pub(super) fn host_chain(bridge: &str) -> String {
    format!("host-{bridge}")
}

/// Creates an empty chain at a link; an old one of its name may belong to a link that is gone.
fn new_chain(table: &str, chain: &str, hook: &str, link: &str, policy: &str) -> String {
    format!(
        "add chain netdev {table} {chain}\n\
         flush chain netdev {table} {chain}\n\
         delete chain netdev {table} {chain}\n\
         add chain netdev {table} {chain} {{ type filter hook {hook} device \"{link}\" priority 0; policy {policy}; }}\n"
    )
}

/// Removes chains, and the objects created with those of interfaces.
pub(super) fn removal(table: &str, chains: &[&str]) -> String {
    let mut script = String::new();
    for chain in chains {
        script += &format!("flush chain netdev {table} {chain}\ndelete chain netdev {table} {chain}\n");
    }
    for base in
        chains.iter().filter_map(|chain| chain.strip_suffix("in")).filter(|base| owner(base).is_some())
    {
        for (kind, name, definition) in objects(base) {
            // The object exists, unless somebody else removed it.
            script += &format!(
                "add {kind} netdev {table} {name} {definition}\ndelete {kind} netdev {table} {name}\n"
            );
        }
    }
    script
}

/// Lists the objects of an interface's chains: kind, name, and definition.
fn objects(base: &str) -> Vec<(&'static str, String, String)> {
    let mut objects = vec![
        ("counter", format!("{base}dropped"), "{ }".to_owned()),
        (
            "set",
            format!("{base}leases"),
            format!("{{ typeof @th,192,32; flags dynamic,timeout; size {LEASES}; timeout {LEASE}; }}"),
        ),
    ];
    for (set, keys) in firewall::sets() {
        let definition =
            format!("{{ typeof {keys}; flags dynamic,timeout; size {FLOWS}; timeout {OTHER_FLOW}; }}");
        objects.push(("set", format!("{base}{set}"), definition));
    }
    objects
}

impl Guarded<'_> {
    /// Replaces its chains. The sets stay: their entries are still valid.
    pub(super) fn script(&self) -> String {
        let (table, base) = (self.table, self.object(""));
        let (from, to) = match self.side {
            Side::Tap => ("ingress", "egress"),
            Side::Shared => ("egress", "ingress"),
        };
        let mut script = String::new();
        for (kind, name, definition) in objects(&base) {
            script += &format!("add {kind} netdev {table} {name} {definition}\n");
        }
        for (chain, hook, rules) in [("in", from, self.sends()), ("out", to, self.is_sent())] {
            let chain = self.object(chain);
            script += &new_chain(table, &chain, hook, self.link, "accept");
            for rule in rules {
                script += &format!("add rule netdev {table} {chain} {rule}\n");
            }
        }
        script
    }

    fn object(&self, what: &str) -> String {
        format!("{}{}-{what}", name(self.uuid), self.mac.hex())
    }

    /// Counts and drops.
    fn refuse(&self) -> String {
        format!("counter name {} drop", self.object("dropped"))
    }

    fn sends(&self) -> Vec<String> {
        let (nic, mac, drop) = (self.nic, self.mac, self.refuse());
        let hex = format!("0x{}", mac.hex());
        let is = |flag: Option<bool>| flag == Some(true);
        let may_serve = is(nic.dhcp_server) || is(nic.allow_dhcp_spoofing);
        let any_ip = may_serve || is(nic.allow_ip_spoofing);
        let mut rules = Vec::new();
        if !is(nic.allow_restricted_traffic) {
            rules.push(format!("ether type != {{ ip, arp, ip6 }} {drop}"));
        }
        if !is(nic.allow_mac_spoofing) || !any_ip {
            // ARP of other kinds, or cut short, would escape the checks.
            let shortest = if self.side == Side::Tap { 28 } else { 42 };
            rules.push(format!("meta protocol arp meta length < {shortest} {drop}"));
            for field in ["htype != 1", "hlen != 6", "plen != 4"] {
                rules.push(format!("arp {field} {drop}"));
            }
        }
        if !is(nic.allow_mac_spoofing) {
            rules.push(format!("ether saddr != {mac} {drop}"));
            rules.push(format!("arp saddr ether != {mac} {drop}"));
            // The option with the link-layer address comes first; a probe has a nonce instead.
            for (kind, option, at) in [
                ("icmpv6 type nd-router-solicit", "0x0101", 64),
                ("ip6 saddr != :: icmpv6 type nd-neighbor-solicit", "0x0101", 192),
                ("icmpv6 type nd-neighbor-advert", "0x0201", 192),
            ] {
                let value = at + 16;
                rules.push(format!("{kind} @th,{at},16 != {option} {drop}"));
                rules.push(format!("{kind} @th,{value},48 != {hex} {drop}"));
            }
            rules.push(format!("ip6 saddr :: icmpv6 type nd-neighbor-solicit @th,192,16 != 0x0e01 {drop}"));
        }
        if !may_serve {
            // Fragments could not be checked.
            rules.push(format!("ip frag-off & 0x2000 != 0 udp dport {{ 67, 68 }} {drop}"));
            rules.push(format!("exthdr frag exists udp dport {{ 546, 547 }} {drop}"));
        }
        // Requests that the agent answers go no further; it forwards those that it must check first.
        let answers = |wanted: fn(&Lease) -> bool| self.lease.is_some_and(wanted);
        if answers(|lease| lease.v4.is_some()) || relays(nic, self.lease) {
            // A relay or server of other clients sends other messages, too.
            let own = if may_serve { format!(" @th,288,48 {hex} @th,256,32 0") } else { String::new() };
            rules.push(format!("meta protocol ip udp dport 67{own} drop"));
        } else if !may_serve {
            rules.push(format!("meta protocol ip udp dport 67 @th,288,48 != {hex} {drop}"));
        }
        if answers(|lease| !lease.v6.is_empty()) {
            rules.push("meta protocol ip6 udp dport 547 drop".to_owned());
        }
        if !may_serve {
            rules.push(format!("meta protocol ip udp sport 67 {drop}"));
            rules.push(format!("meta protocol ip udp dport 68 {drop}"));
            rules.push(format!("meta protocol ip6 udp sport 547 {drop}"));
            rules.push(format!("meta protocol ip6 udp dport 546 {drop}"));
            rules.push(format!("icmpv6 type {{ nd-router-advert, nd-redirect }} {drop}"));
        }
        if !any_ip {
            rules.extend(self.own_addresses());
        }
        if !nic.blocked_outgoing_ports.is_empty() {
            let ports = listed(&nic.blocked_outgoing_ports);
            rules.push(format!("tcp dport {ports} {drop}"));
        }
        if self.firewall {
            rules.extend(self.remember());
        }
        if !(may_serve && is(nic.allow_mac_spoofing)) {
            // Neighbour discovery is never fragmented (RFC 6980), and unreadable packets escaped the checks.
            rules.push(format!("exthdr frag exists meta l4proto ipv6-icmp {drop}"));
            rules.push("meta protocol ip6 meta l4proto 0-254 accept".to_owned());
            rules.push(format!("meta protocol ip6 {drop}"));
        }
        rules
    }

    fn is_sent(&self) -> Vec<String> {
        let (nic, mac) = (self.nic, self.mac);
        let mut rules = Vec::new();
        if nic.allow_restricted_traffic != Some(true) {
            // An uplink may carry other networks.
            rules.push("ether type { 8021q, 8021ad } drop".to_owned());
        }
        if nic.allow_unfiltered_promisc != Some(true) && nic.allow_mac_spoofing != Some(true) {
            rules.push(format!(
                "ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 ether daddr != {mac} drop"
            ));
        }
        if nic.is_dynamic() {
            // An acknowledgement of a server (option 53 comes first), for this interface.
            rules.push(format!(
                "meta protocol ip udp sport 67 udp dport 68 @th,1984,24 0x350105 @th,288,48 0x{} @th,192,32 != 0 update @{} {{ @th,192,32 }}",
                mac.hex(),
                self.object("leases")
            ));
        }
        if self.firewall {
            rules.extend(self.lets_in());
        }
        rules
    }
}

/// Whether the agent checks the client identifiers of requests, which no rule can read, before it forwards
/// them.
pub(super) fn relays(nic: &NicSpec, lease: Option<&Lease>) -> bool {
    nic.is_dynamic() && !nic.allowed_dhcp_cids.is_empty() && lease.is_none_or(|lease| lease.v4.is_none())
}

fn listed<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", items.join(", "))
}
