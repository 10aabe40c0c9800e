//! `firewall_enabled`: only traffic requested by a packet from inside may enter. Sets in the kernel remember
//! the requests, and expire automatically.

use super::Guarded;

/// Flows that the firewall remembers, and for how long after their last packet from inside.
pub(super) const FLOWS: usize = 65536;
const TCP_FLOW: &str = "2h";
pub(super) const OTHER_FLOW: &str = "3m";
/// A flow that is unanswered, or that one side has ended.
const SHORT_FLOW: &str = "1m";

/// Returns the key of a flow, as its guest sends it.
fn flow(ip: &str) -> String {
    format!("{ip} saddr . {ip} daddr . meta l4proto . th sport . th dport")
}

/// Returns the sets and their keys: open flows, closed flows, and peers of protocols without ports.
pub(super) fn sets() -> impl Iterator<Item = (String, String)> {
    [("ip", 4), ("ip6", 6)].into_iter().flat_map(|(ip, number)| {
        [
            (format!("flows{number}"), flow(ip)),
            (format!("closed{number}"), flow(ip)),
            (format!("peers{number}"), format!("{ip} daddr . meta l4proto")),
        ]
    })
}

impl Guarded<'_> {
    /// Returns the rules that record flows.
    pub(super) fn remember(&self) -> Vec<String> {
        let mut rules = Vec::new();
        for (ip, number) in [("ip", 4), ("ip6", 6)] {
            let set = |name: &str| self.object(&format!("{name}{number}"));
            let (flows, closed, peers) = (set("flows"), set("closed"), set("peers"));
            let key = flow(ip);
            let tcp = format!("meta protocol {ip} meta l4proto tcp tcp flags &");
            rules.extend([
                // The last packets of an ended flow do not prolong it.
                format!("{tcp} (fin | rst) != 0 delete @{flows} {{ {key} }}"),
                format!("{tcp} (fin | rst) != 0 update @{closed} {{ {key} timeout {SHORT_FLOW} }}"),
                format!("{tcp} (fin | syn | rst) == syn update @{flows} {{ {key} timeout {SHORT_FLOW} }}"),
                format!("{tcp} (fin | syn | rst) == 0 {key} != @{closed} update @{flows} {{ {key} timeout {TCP_FLOW} }}"),
                format!("meta protocol {ip} meta l4proto udp update @{flows} {{ {key} timeout {OTHER_FLOW} }}"),
                format!(
                    "meta protocol {ip} meta l4proto != {{ tcp, udp }} update @{peers} {{ {ip} daddr . meta l4proto timeout {OTHER_FLOW} }}"
                ),
            ]);
        }
        rules
    }

    /// Drops unrequested traffic.
    pub(super) fn lets_in(&self) -> Vec<String> {
        let drop = self.refuse();
        let mut rules = vec![
            "ether type arp accept".to_owned(),
            "meta protocol ip udp sport 67 udp dport 68 accept".to_owned(),
            "meta protocol ip6 udp sport 547 udp dport 546 accept".to_owned(),
            "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, mld-listener-query, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept".to_owned(),
            "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept".to_owned(),
            // Useless without the first fragment.
            "ip frag-off & 0x1fff != 0 accept".to_owned(),
            "frag frag-off != 0 accept".to_owned(),
            // Never a reply, whatever its source.
            format!("icmp type echo-request {drop}"),
            format!("icmpv6 type echo-request {drop}"),
        ];
        for (ip, number) in [("ip", 4), ("ip6", 6)] {
            let set = |name: &str| self.object(&format!("{name}{number}"));
            let answer = format!("{ip} daddr . {ip} saddr . meta l4proto . th dport . th sport");
            for flows in [set("flows"), set("closed")] {
                rules
                    .push(format!("meta protocol {ip} meta l4proto {{ tcp, udp }} {answer} @{flows} accept"));
            }
            rules.push(format!(
                "meta protocol {ip} meta l4proto != {{ tcp, udp }} {ip} saddr . meta l4proto @{} accept",
                set("peers")
            ));
        }
        rules.push(drop);
        rules
    }
}
