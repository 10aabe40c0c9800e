//! Links: what a guest's interface is plugged into, what it may send, and what it is told.
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
//! The seam is [`Links`]. On Linux a tap is made by the agent and lives as long as the hypervisor holds its
//! descriptor: nothing has to be removed when the hypervisor dies. Rules are in force before the tap is up, and
//! are replaced for all interfaces of a VM in one transaction. The packet socket sees what a guest sends before
//! the rules do, so that what the agent answers never reaches the bridge.
//!
//! What may fail: a link of the host that is gone, a kernel without VLANs, `nft` that is not installed. Then the
//! VM does not start, and the error says which nic tag and what to do.

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

/// The interfaces of a VM as they are to be.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// Whose.
    pub uuid: Uuid,
    /// The user who may use its links.
    pub owner: u32,
    /// As they were when it was booted, with what may change meanwhile as it is now.
    pub nics: Vec<NicSpec>,
    /// Names, resolvers, routes and the firewall are taken from it.
    pub spec: VmSpec,
}

impl Wiring {
    /// The wiring of a VM that runs with the interfaces `booted`, or is about to.
    #[must_use]
    pub fn new(uuid: Uuid, owner: u32, booted: &[NicSpec], spec: &VmSpec) -> Self {
        let now = |nic: &NicSpec| match spec.nics.iter().find(|other| other.mac == nic.mac) {
            // What is no part of the hypervisor's machine is as it is now.
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
    /// A tap, which is gone when the last holder of the descriptor is.
    Tap {
        /// Its descriptor.
        tap: OwnedFd,
        /// The kernel's shortcut to it, where there is one.
        vhost: Option<File>,
        /// Largest packet.
        mtu: i32,
    },
}

/// An address that a guest was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Assigned {
    /// Its interface.
    pub mac: Mac,
    /// Which.
    pub address: IpAddr,
}

/// What is left of a VM's links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// Whose.
    pub uuid: Uuid,
    /// A link or an object of the table of rules.
    pub name: String,
}

/// Makes links.
#[async_trait]
pub trait Links: Send + Sync + fmt::Debug {
    /// The nic tags of this host.
    fn known(&self) -> &Tags;
    /// The same, and what can be said of each now.
    async fn tags(&self) -> Vec<TagReport>;
    /// Makes the links of all interfaces of a VM, in their order. They carry nothing yet.
    async fn plug(&self, wiring: &Wiring) -> Result<Vec<Plug>, LinkError>;
    /// Puts in force what a VM may send, and then lets its links carry it.
    async fn enable(&self, wiring: &Wiring) -> Result<(), LinkError>;
    /// Whether what a VM may send could be put in force.
    async fn check(&self, wiring: &Wiring) -> Result<(), LinkError>;
    /// Puts in force what a VM may send, as a whole, on links that are up.
    async fn guard(&self, wiring: &Wiring) -> Result<(), LinkError>;
    /// The VMs with links that were taken off their bridges, which may be there again.
    async fn astray(&self) -> Result<Vec<Uuid>, LinkError>;
    /// Puts a VM's links back on the bridges that are there; whether one was.
    async fn rejoin(&self, wiring: &Wiring) -> Result<bool, LinkError>;
    /// Answers a guest, until its links are gone.
    async fn attend(&self, wiring: &Wiring, told: mpsc::Sender<Assigned>);
    /// Removes what is left of a VM's links, once its hypervisor is gone.
    async fn unplug(&self, uuid: Uuid) -> Result<(), LinkError>;
    /// Removes what an agent that was killed left of its own: bridges that no guest is on.
    async fn sweep(&self) -> Result<(), LinkError>;
    /// What exists with the name of a VM.
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
        /// What was being done.
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

/// The tag of an interface, if it fits.
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
