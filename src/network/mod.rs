//! Links: what a guest's interface is plugged into, the rules for its packets, and the replies to it.
//!
//! ```text
//!   guest ─ virtio ─ hypervisor ─ descriptor ─▶ tap ──ingress rules──▶ bridge of the nic tag ─▶ others
//!                                                │ ▲                        │
//!                        packet socket ◀─────────┘ └─────── egress rules ◀──┘
//!                             │ DHCP, router solicitations, ARP for the server
//!                             ▼
//!                         responder (the agent), answers into the tap
//! ```
//!
//! The seam is [`Links`]. On Linux the agent creates a tap, which lives as long as the hypervisor holds its
//! descriptor: nothing has to be removed when the hypervisor dies. Rules are in force before the tap is up,
//! and are replaced for all interfaces of a VM in one transaction. The packet socket sees a guest's frames
//! before the rules do, so that requests which the agent answers never reach the bridge.
//!
//! A VM does not start when a link of the host is gone, the kernel has no VLANs, or `nft` is not installed.
//! The error names the nic tag and the remedy.

pub mod dhcp;
mod guard;
mod lease;
pub mod linux;
mod name;
mod settings;
pub mod simulated;
mod tag;

use std::{fmt, fs::File, net::IpAddr, os::fd::OwnedFd};

use async_trait::async_trait;
pub use lease::Lease;
pub(crate) use settings::Settings;
pub use settings::{Tag, TagKind};
pub(crate) use tag::{TagReport, Tags};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::spec::{Mac, NicSpec, VmSpec};

/// The desired interfaces of a VM.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// Whose.
    pub uuid: Uuid,
    /// The user who may use its links.
    pub owner: u32,
    /// As at boot, with the current values of what may change while it runs.
    pub nics: Vec<NicSpec>,
    /// Names, resolvers, routes and the firewall are taken from it.
    pub spec: VmSpec,
}

impl Wiring {
    /// Builds the wiring of a VM that runs, or will run, with the interfaces `booted`.
    #[must_use]
    pub fn new(uuid: Uuid, owner: u32, booted: &[NicSpec], spec: &VmSpec) -> Self {
        let now = |nic: &NicSpec| match spec.nics.iter().find(|other| other.mac == nic.mac) {
            // Settings outside the hypervisor's machine have their current values.
            Some(now) => NicSpec {
                answer_dhcp: now.answer_dhcp,
                dhcp_server: now.dhcp_server,
                allow_dhcp_spoofing: now.allow_dhcp_spoofing,
                allow_ip_spoofing: now.allow_ip_spoofing,
                allow_mac_spoofing: now.allow_mac_spoofing,
                allow_restricted_traffic: now.allow_restricted_traffic,
                allow_unfiltered_promisc: now.allow_unfiltered_promisc,
                blocked_outgoing_ports: now.blocked_outgoing_ports.clone(),
                allowed_ips: now.allowed_ips.clone(),
                allowed_dhcp_cids: now.allowed_dhcp_cids.clone(),
                ..nic.clone()
            },
            None => nic.clone(),
        };
        Self { uuid, owner, nics: booted.iter().map(now).collect(), spec: spec.clone() }
    }
}

/// The agent's end of a plugged interface, for the hypervisor.
#[derive(Debug)]
pub enum Plug {
    /// A carrier and nothing else.
    Isolated,
    /// A tap, which disappears with the last holder of its descriptor.
    Tap {
        /// Its descriptor.
        tap: OwnedFd,
        /// The kernel's shortcut to it, where there is one.
        vhost: Option<File>,
        /// Largest packet.
        mtu: i32,
    },
}

/// An address assigned to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Assigned {
    /// Its interface.
    pub mac: Mac,
    /// Which.
    pub address: IpAddr,
}

/// A remnant of a VM's links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// Whose.
    pub uuid: Uuid,
    /// A link or an object of the table of rules.
    pub name: String,
}

/// Creates links.
#[async_trait]
pub trait Links: Send + Sync + fmt::Debug {
    /// The nic tags of this host.
    fn known(&self) -> &Tags;
    /// Returns the nic tags with their present state.
    async fn tags(&self) -> Vec<TagReport>;
    /// Creates the links of all of a VM's interfaces, in their order. They carry no traffic yet.
    async fn plug(&self, wiring: &Wiring) -> Result<Vec<Plug>, LinkError>;
    /// Enforces a VM's rules, then brings its links up.
    async fn enable(&self, wiring: &Wiring) -> Result<(), LinkError>;
    /// Checks whether a VM's rules could be enforced.
    async fn check(&self, wiring: &Wiring) -> Result<(), LinkError>;
    /// Enforces a VM's rules on links that are up, in one transaction.
    async fn guard(&self, wiring: &Wiring) -> Result<(), LinkError>;
    /// Returns the VMs with links off their bridges, which may exist again.
    async fn astray(&self) -> Result<Vec<Uuid>, LinkError>;
    /// Reattaches a VM's links to the existing bridges; returns whether any was.
    async fn rejoin(&self, wiring: &Wiring) -> Result<bool, LinkError>;
    /// Answers a guest, until its links are gone.
    async fn attend(&self, wiring: &Wiring, told: mpsc::Sender<Assigned>);
    /// Removes the remains of a VM's links, once its hypervisor is gone.
    async fn unplug(&self, uuid: Uuid) -> Result<(), LinkError>;
    /// Removes what a killed agent left: bridges without guests.
    async fn sweep(&self) -> Result<(), LinkError>;
    /// Lists objects named after a VM.
    async fn remains(&self) -> Result<Vec<Remains>, LinkError>;
}

/// Why an interface can't be plugged.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The nic tag does not fit.
    #[error("{0}")]
    Tag(String),
    /// A link of the host is not what the configuration says.
    #[error("nic tag \"{tag}\": {what}")]
    Host {
        /// Which nic tag.
        tag: String,
        /// What is wrong, and what to do.
        what: String,
    },
    /// The kernel refused.
    #[error("{what}: {source}")]
    System {
        /// The failed action.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Rules could not be installed.
    #[error("rules of packets: {0}")]
    Rules(String),
}

impl LinkError {
    fn at<E: Into<std::io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |error| Self::System { what, source: error.into() }
    }
}

/// Checks and returns an interface's tag.
fn checked(tags: &Tags, nic: &NicSpec) -> Result<Tag, LinkError> {
    tags.check(nic).map_err(|(_, why)| LinkError::Tag(why))
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::spec::property::{Effect, NIC};

    /// What takes effect at once is as it is now; what waits for the next boot is as it was.
    #[test]
    fn the_table_says_what_is_live() {
        let now = json!({"mac": "02:00:00:00:00:01", "interface": "net9", "nic_tag": "b", "model": "e1000",
            "vlan_id": 7, "ip": "10.0.0.9", "netmask": "255.0.0.0", "ips": ["10.0.0.9/8"], "gateway": "10.0.0.1",
            "gateways": ["10.0.0.1"], "primary": true, "mtu": 1400, "answer_dhcp": false, "network_uuid": "u",
            "dhcp_server": true, "allow_dhcp_spoofing": true, "allow_ip_spoofing": true, "allow_mac_spoofing": true,
            "allow_restricted_traffic": true, "allow_unfiltered_promisc": true, "allowed_ips": ["10.1.0.0/16"],
            "allowed_dhcp_cids": ["0x01"], "blocked_outgoing_ports": [25], "vrrp_vrid": 3, "vrrp_primary_ip": "10.0.0.9"});
        let nic: NicSpec = serde_json::from_value(now.clone()).unwrap();
        let booted = NicSpec { mac: nic.mac, ..NicSpec::default() };
        let spec = VmSpec { nics: vec![nic], ..VmSpec::default() };
        let wiring = Wiring::new(Uuid::nil(), 0, &[booted], &spec);
        let wired: Map<_, _> =
            serde_json::from_value(serde_json::to_value(&wiring.nics[0]).unwrap()).unwrap();
        for property in NIC.iter().filter(|property| property.name != "mac") {
            let expected = now.get(property.name);
            assert!(expected.is_some(), "{} is missing in the test", property.name);
            let live = property.effect == Effect::Live;
            assert_eq!(wired.get(property.name), expected.filter(|_| live), "{}", property.name);
        }
    }
}
