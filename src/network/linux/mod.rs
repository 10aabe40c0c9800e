//! Links on Linux: taps on bridges, macvtaps, rules of nftables, packet sockets.
//!
//! ```text
//!   plug:  bridge of the tag ─▶ tap (down) ─▶ chains and rules ─▶ port of the bridge ─▶ up ─▶ descriptor
//!              │ removed with its last port      │ removed by name      │ gone with the descriptor
//! ```
//!
//! A bridge that the agent creates is for guests alone: the host has no address on it, and a rule drops
//! packets to the host. Killed at any instruction, the agent leaves at most rules and an empty bridge; the
//! next one finds both by their names.

mod bridge;
mod netlink;
mod nft;
mod port;
mod stray;

use std::{
    fs::{File, OpenOptions},
    path::PathBuf,
};

use async_trait::async_trait;
use bridge::without_ipv6;
use futures_util::future::join_all;
use netlink::{Link, Netlink};
use nft::Nft;
use port::{Port, Relay};
use tokio::sync::{Mutex, OnceCell, mpsc};
use uuid::Uuid;

use super::{
    Assigned, Lease, LinkError, Links, Plug, Remains, TagReport, Tags, Wiring, checked,
    dhcp::Responder,
    guard::{self, Guarded, Side},
    name,
    settings::{Settings, Tag, TagKind},
};
use crate::{
    crash,
    layout::Layout,
    spec::{Mac, NicSpec},
    sys::{self, PacketSocket},
};

/// Links of this host.
#[derive(Debug)]
pub struct LinuxLinks {
    tags: Tags,
    prefix: String,
    /// Distinguishes the agent's bridges from another's.
    home: PathBuf,
    nft: Nft,
    netlink: OnceCell<Netlink>,
    /// Held while links come and go.
    changing: Mutex<()>,
}

/// An interface at its place.
struct Place {
    /// As in the kernel, where the configuration no longer has it.
    tag: Tag,
    link: String,
    mac: Mac,
}

impl LinuxLinks {
    /// Links as configured.
    #[must_use]
    pub fn new(settings: &Settings, layout: &Layout) -> Self {
        Self {
            tags: Tags::new(settings, rustix::process::geteuid().is_root()),
            prefix: settings.prefix.clone(),
            home: layout.state().to_owned(),
            nft: Nft::new(settings.nft.clone(), settings.prefix.clone()),
            netlink: OnceCell::new(),
            changing: Mutex::new(()),
        }
    }

    async fn netlink(&self) -> Result<&Netlink, LinkError> {
        let connect =
            || async { Netlink::connect().map_err(LinkError::at("talking to the kernel about links")) };
        self.netlink.get_or_try_init(connect).await
    }

    /// Returns the place of an interface; `None` if it is isolated.
    fn place(&self, uuid: Uuid, nic: &NicSpec) -> Result<Option<Place>, LinkError> {
        let tag = checked(&self.tags, nic)?;
        let mac = nic.mac.ok_or_else(|| LinkError::Tag("an interface has no MAC address".to_owned()))?;
        let link = name::tap(&self.prefix, uuid, mac);
        Ok((tag.kind != TagKind::Isolated).then_some(Place { tag, link, mac }))
    }

    /// Lists VMs' links in the kernel; a macvtap stays after its holder is gone.
    async fn own_links(&self) -> Result<Vec<(Uuid, Link)>, LinkError> {
        Ok(self.owned(self.netlink().await?.all().await?))
    }

    /// Selects the links of this agent's VMs.
    fn owned(&self, links: Vec<Link>) -> Vec<(Uuid, Link)> {
        let home = self.of_home();
        let own = |link: Link| {
            let uuid = Uuid::try_parse(link.alias.strip_prefix("vm ")?.get(..36)?).ok()?;
            link.alias.ends_with(&home).then_some((uuid, link))
        };
        links.into_iter().filter_map(own).collect()
    }

    /// Returns the rules of a VM's interfaces whose links exist. The chains are created again each time,
    /// which repairs the old ones.
    fn script(&self, wiring: &Wiring, links: &[Link]) -> String {
        let mut script = String::new();
        for (index, nic) in wiring.nics.iter().enumerate() {
            let Some(place) = self.standing(wiring.uuid, nic, links) else { continue };
            let lease = self.lease(wiring, index, &place);
            let shared = place.tag.kind == TagKind::Macvtap;
            let guarded = Guarded {
                uuid: wiring.uuid,
                mac: place.mac,
                nic,
                lease: lease.as_ref(),
                firewall: wiring.spec.firewall_enabled == Some(true),
                link: &place.link,
                side: if shared { Side::Shared } else { Side::Tap },
                table: self.nft.table(),
            };
            if let Some(bridge) = self.own_bridge(nic, &place.tag) {
                script += &guard::closed_to_host(self.nft.table(), &bridge);
            }
            script += &guarded.script();
        }
        script
    }

    /// Returns the rules for the present links; `None` when there are none.
    async fn rules(&self, wiring: &Wiring) -> Result<Option<String>, LinkError> {
        if self.tags.are_isolated() {
            return Ok(None);
        }
        let script = self.script(wiring, &self.netlink().await?.all().await?);
        Ok(Some(script).filter(|script| !script.is_empty()))
    }

    /// Returns the place of a plugged interface, whatever the configuration now says of its tag.
    fn standing(&self, uuid: Uuid, nic: &NicSpec, links: &[Link]) -> Option<Place> {
        let mac = nic.mac?;
        let name = name::tap(&self.prefix, uuid, mac);
        let link = links.iter().find(|link| link.name == name)?;
        let bridge = links.iter().find(|other| link.controller == Some(other.index));
        let kind = if link.is_macvtap() { TagKind::Macvtap } else { TagKind::Bridge };
        let mtu = i32::try_from(link.mtu).unwrap_or(i32::MAX);
        let found = Tag { kind, link: bridge.map(|bridge| bridge.name.clone()).unwrap_or_default(), mtu };
        let configured = self.tags.of(nic).filter(|tag| {
            // As it was when the link was created.
            let own = self.own_bridge(nic, tag);
            (tag.kind == TagKind::Macvtap) == (kind == TagKind::Macvtap)
                && own.is_none_or(|own| bridge.is_some_and(|bridge| bridge.name == own))
        });
        Some(Place { tag: configured.unwrap_or(found), link: name, mac })
    }

    fn lease(&self, wiring: &Wiring, index: usize, place: &Place) -> Option<Lease> {
        // The agent can't reach a guest through a macvtap.
        if place.tag.kind == TagKind::Macvtap {
            return None;
        }
        let mtu = wiring.nics.get(index)?.mtu.unwrap_or(place.tag.mtu);
        Lease::of(&wiring.nics, index, &wiring.spec, &wiring.uuid.to_string(), mtu)
    }

    async fn make_tap(&self, wiring: &Wiring, nic: &NicSpec, place: &Place) -> Result<Plug, LinkError> {
        let netlink = self.netlink().await?;
        let (name, mtu) = (&place.link, nic.mtu.unwrap_or(place.tag.mtu));
        let bridge = self.bridge(nic, &place.tag).await?;
        let tap =
            sys::open_tap(name, wiring.owner).map_err(LinkError::at(format!("making the tap {name}")))?;
        without_ipv6(name);
        crash::point("link.tap");
        netlink.set_alias(name, &self.alias(wiring.uuid, nic)).await?;
        let link = netlink.find(name).await?.ok_or_else(|| missing(name))?;
        self.join(nic, place, &link, &bridge).await?;
        Ok(Plug::Tap { tap, vhost: open_vhost(), mtu })
    }

    /// Attaches a link that is down to its bridge, in its VLAN.
    async fn join(&self, nic: &NicSpec, place: &Place, link: &Link, bridge: &Link) -> Result<(), LinkError> {
        let netlink = self.netlink().await?;
        netlink.attach(link, bridge, nic.mtu.unwrap_or(place.tag.mtu)).await?;
        if let Some(vlan @ 1..) = nic.vlan_id.and_then(|vlan| u16::try_from(vlan).ok())
            && place.tag.kind == TagKind::Bridge
        {
            netlink.set_port_vlan(link, vlan).await?;
        }
        Ok(())
    }

    async fn make_macvtap(&self, wiring: &Wiring, nic: &NicSpec, place: &Place) -> Result<Plug, LinkError> {
        let netlink = self.netlink().await?;
        let (name, mtu) = (&place.link, nic.mtu.unwrap_or(place.tag.mtu));
        let under = self.host_link(nic.nic_tag.as_deref().unwrap_or_default(), &place.tag).await?;
        if let Some(left) = netlink.find(name).await? {
            netlink.delete(&left).await?;
        }
        netlink.add_macvtap(name, under.index, place.mac).await?;
        without_ipv6(name);
        netlink.set_alias(name, &self.alias(wiring.uuid, nic)).await?;
        let link = netlink.find(name).await?.ok_or_else(|| missing(name))?;
        netlink.set_mtu(&link, mtu).await?;
        let device = PathBuf::from(format!("/dev/tap{}", link.index));
        let tap = sys::open_macvtap(&device, name).map_err(LinkError::at(device.display().to_string()))?;
        Ok(Plug::Tap { tap, vhost: open_vhost(), mtu })
    }

    /// Returns the alias of a VM's link.
    fn alias(&self, uuid: Uuid, nic: &NicSpec) -> String {
        format!("vm {uuid} {}{}", nic.interface.as_deref().unwrap_or("net"), self.of_home())
    }

    /// Returns the suffix by which this agent's aliases differ from other agents'.
    fn of_home(&self) -> String {
        format!(" of {}", self.home.display())
    }

    /// Opens the ports at a VM's links.
    async fn ports(&self, wiring: &Wiring) -> Result<Vec<Port>, LinkError> {
        if self.tags.are_isolated() {
            return Ok(Vec::new());
        }
        let links = self.netlink().await?.all().await?;
        let open = |(index, nic)| self.open_port(wiring, index, nic, &links).transpose();
        wiring.nics.iter().enumerate().filter_map(open).collect()
    }

    fn open_port(
        &self,
        wiring: &Wiring,
        index: usize,
        nic: &NicSpec,
        links: &[Link],
    ) -> Result<Option<Port>, LinkError> {
        let Some(place) = self.standing(wiring.uuid, nic, links) else { return Ok(None) };
        let link = links.iter().find(|link| link.name == place.link);
        let Some(link) = link.filter(|_| place.tag.kind != TagKind::Macvtap) else { return Ok(None) };
        let lease = self.lease(wiring, index, &place);
        let open = |index, outgoing| {
            PacketSocket::open(index, outgoing).map_err(LinkError::at(format!("hearing {}", place.link)))
        };
        let relay = match link.controller.filter(|_| guard::relays(nic, lease.as_ref())) {
            Some(bridge) => {
                let clients =
                    nic.allowed_dhcp_cids.iter().filter_map(|cid| super::lease::bytes(cid)).collect();
                Some(Relay { bridge: open(bridge, false)?, clients })
            }
            None => None,
        };
        Ok(Some(Port {
            mac: place.mac,
            socket: open(link.index, nic.is_dynamic())?,
            responder: lease.map(Responder::new),
            relay,
        }))
    }
}

#[async_trait]
impl Links for LinuxLinks {
    fn known(&self) -> &Tags {
        &self.tags
    }

    async fn tags(&self) -> Vec<TagReport> {
        let links = match self.netlink().await {
            Ok(netlink) => netlink.all().await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let report = |(name, tag): (&String, &Tag)| {
            let device = match tag.kind {
                TagKind::Isolated => None,
                TagKind::Etherstub | TagKind::Uplink => Some(name::bridge(&self.prefix, name, 0)),
                TagKind::Bridge | TagKind::Macvtap => Some(tag.link.clone()),
            };
            let problem = bridge::host_link(tag, &links).err().filter(|_| tag.kind.needs_link());
            TagReport { name: name.clone(), tag: tag.clone(), device, problem }
        };
        self.tags.iter().map(report).collect()
    }

    async fn plug(&self, wiring: &Wiring) -> Result<Vec<Plug>, LinkError> {
        let mut plugs = Vec::new();
        let _changing = self.changing.lock().await;
        for nic in &wiring.nics {
            plugs.push(match self.place(wiring.uuid, nic)? {
                None => Plug::Isolated,
                Some(place) if place.tag.kind == TagKind::Macvtap => {
                    self.make_macvtap(wiring, nic, &place).await?
                }
                Some(place) => self.make_tap(wiring, nic, &place).await?,
            });
        }
        Ok(plugs)
    }

    async fn enable(&self, wiring: &Wiring) -> Result<(), LinkError> {
        if self.tags.are_isolated() {
            return Ok(());
        }
        let netlink = self.netlink().await?;
        let links = netlink.all().await?;
        let script = self.script(wiring, &links);
        if !script.is_empty() {
            crash::point("link.rules");
            self.nft.apply(&script).await?;
            crash::point("link.up");
        }
        for nic in &wiring.nics {
            let Some(place) = self.place(wiring.uuid, nic)? else { continue };
            for name in self.own_bridge(nic, &place.tag).iter().chain([&place.link]) {
                let link = links.iter().find(|link| link.name == *name).ok_or_else(|| missing(name))?;
                netlink.up(link).await?;
            }
        }
        Ok(())
    }

    async fn check(&self, wiring: &Wiring) -> Result<(), LinkError> {
        match self.rules(wiring).await? {
            Some(script) => self.nft.check(&script).await,
            None => Ok(()),
        }
    }

    async fn guard(&self, wiring: &Wiring) -> Result<(), LinkError> {
        match self.rules(wiring).await? {
            Some(script) => self.nft.apply(&script).await,
            None => Ok(()),
        }
    }

    async fn astray(&self) -> Result<Vec<Uuid>, LinkError> {
        if self.tags.are_isolated() { Ok(Vec::new()) } else { self.strays().await }
    }

    async fn rejoin(&self, wiring: &Wiring) -> Result<bool, LinkError> {
        if self.tags.are_isolated() { Ok(false) } else { self.put_back(wiring).await }
    }

    async fn attend(&self, wiring: &Wiring, told: mpsc::Sender<Assigned>) {
        match self.ports(wiring).await {
            Ok(ports) => drop(join_all(ports.into_iter().map(|port| port.serve(told.clone()))).await),
            Err(error) => {
                tracing::error!(vm = %wiring.uuid, %error, "the guest's requests for an address are not answered");
            }
        }
    }

    async fn unplug(&self, uuid: Uuid) -> Result<(), LinkError> {
        let _changing = self.changing.lock().await;
        if self.tags.are_isolated() {
            return Ok(());
        }
        for (_, link) in self.own_links().await?.iter().filter(|(owner, _)| *owner == uuid) {
            self.netlink().await?.delete(link).await?;
        }
        let chains = self.remove_unused_bridges().await?;
        let prefix = guard::name(uuid);
        self.nft.remove(move |name| name.starts_with(&prefix) || chains.contains(name)).await
    }

    async fn sweep(&self) -> Result<(), LinkError> {
        if self.tags.are_isolated() {
            return Ok(());
        }
        let _changing = self.changing.lock().await;
        let chains = self.remove_unused_bridges().await?;
        if chains.is_empty() { Ok(()) } else { self.nft.remove(move |name| chains.contains(name)).await }
    }

    async fn remains(&self) -> Result<Vec<Remains>, LinkError> {
        if self.tags.are_isolated() {
            return Ok(Vec::new());
        }
        let links = self.own_links().await?;
        let links = links.into_iter().map(|(uuid, link)| Remains { uuid, name: link.name });
        let chains = self.nft.chains().await?;
        let chains = chains.into_iter().filter_map(|name| Some(Remains { uuid: guard::owner(&name)?, name }));
        Ok(links.chain(chains).collect())
    }
}

fn missing(link: &str) -> LinkError {
    LinkError::at(format!("the link {link}"))(std::io::Error::from(std::io::ErrorKind::NotFound))
}

/// Opens the kernel's shortcut from a tap to KVM, for a hypervisor that has KVM.
fn open_vhost() -> Option<File> {
    OpenOptions::new().read(true).write(true).open("/dev/vhost-net").ok()
}
