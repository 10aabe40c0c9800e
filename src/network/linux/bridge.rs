//! Bridges: those that the agent creates, and existing ones.

use std::{collections::BTreeSet, path::Path};

use sha2::{Digest as _, Sha256};

use super::{
    super::settings::{Tag, TagKind},
    LinuxLinks,
    netlink::Link,
};
use crate::{
    crash,
    network::{LinkError, guard, name},
    spec::{Mac, NicSpec},
};

impl LinuxLinks {
    /// Returns the name of the agent's bridge for an interface, if any.
    pub(super) fn own_bridge(&self, nic: &NicSpec, tag: &Tag) -> Option<String> {
        let own = matches!(tag.kind, TagKind::Etherstub | TagKind::Uplink);
        own.then(|| {
            name::bridge(&self.prefix, nic.nic_tag.as_deref().unwrap_or_default(), nic.vlan_id.unwrap_or(0))
        })
    }

    /// Finds or creates the bridge of a tag and a VLAN.
    pub(super) async fn bridge(&self, nic: &NicSpec, tag: &Tag) -> Result<Link, LinkError> {
        let netlink = self.netlink().await?;
        let tag_name = nic.nic_tag.as_deref().unwrap_or_default();
        let host = |what: String| LinkError::Host { tag: tag_name.to_owned(), what };
        let vlan = u16::try_from(nic.vlan_id.unwrap_or(0)).unwrap_or(0);
        if tag.kind == TagKind::Bridge {
            let bridge = self.host_link(tag_name, tag).await?;
            if vlan != 0 && !bridge.filters_vlans {
                let link = &bridge.name;
                return Err(host(format!(
                    "the bridge {link} does not filter VLANs, and the interface has vlan_id {vlan}"
                )));
            }
            return Ok(bridge);
        }
        let Some(name) = self.own_bridge(nic, tag) else { return Err(host("it has no bridge".to_owned())) };
        let alias = self.tag_alias(tag_name);
        let bridge = match netlink.find(&name).await? {
            Some(bridge) if bridge.alias == alias && bridge.is_bridge() => bridge,
            // An agent was killed before naming it.
            Some(bridge) if self.is_unnamed(&bridge) => {
                netlink.set_alias(&name, &alias).await?;
                bridge
            }
            Some(_) => {
                let other = format!("{name} is not this agent's bridge; give network.prefix another value");
                return Err(host(other));
            }
            None => {
                crash::point("link.bridge");
                let mtu = tag.mtu;
                netlink.add_bridge(&name, mtu, self.bridge_mac(&name)).await?;
                crash::point("link.bridge.made");
                netlink.set_alias(&name, &alias).await?;
                netlink.find(&name).await?.ok_or_else(|| host(format!("{name} was removed meanwhile")))?
            }
        };
        without_ipv6(&name);
        if tag.kind == TagKind::Uplink {
            self.uplink(tag_name, tag, vlan, &bridge).await?;
        }
        Ok(bridge)
    }

    /// Finds the host's link of a tag.
    pub(super) async fn host_link(&self, tag_name: &str, tag: &Tag) -> Result<Link, LinkError> {
        let found = self.netlink().await?.find(&tag.link).await?;
        let checked = host_link(tag, found.as_slice()).cloned();
        checked.map_err(|what| LinkError::Host { tag: tag_name.to_owned(), what })
    }

    /// Returns the alias of the agent's links of a tag.
    pub(super) fn tag_alias(&self, tag_name: &str) -> String {
        format!("{} nic tag {tag_name}", self.home.display())
    }

    /// Whether an agent created this bridge but did not name it: the MAC derives from the name.
    fn is_unnamed(&self, link: &Link) -> bool {
        link.is_bridge() && link.alias.is_empty() && link.mac == self.bridge_mac(&link.name).octets()
    }

    fn bridge_mac(&self, name: &str) -> Mac {
        let home = self.home.as_os_str().as_encoded_bytes();
        let digest = Sha256::new().chain_update(home).chain_update(name).finalize();
        let mut octets = [0; 6];
        octets.iter_mut().zip(digest.iter()).for_each(|(to, from)| *to = *from);
        Mac::local(octets)
    }

    /// Attaches a bridge's uplink.
    async fn uplink(&self, tag_name: &str, tag: &Tag, vlan: u16, bridge: &Link) -> Result<(), LinkError> {
        let netlink = self.netlink().await?;
        let host = |what: String| LinkError::Host { tag: tag_name.to_owned(), what };
        let mut way = self.host_link(tag_name, tag).await?;
        if vlan != 0 {
            let name = name::vlan(&self.prefix, &tag.link, vlan.into());
            if netlink.find(&name).await?.is_none() {
                netlink.add_vlan(&name, way.index, vlan, &self.tag_alias(tag_name)).await?;
            }
            netlink.up(&way).await?;
            way = netlink.find(&name).await?.ok_or_else(|| host(format!("{name} was removed meanwhile")))?;
        }
        match way.controller {
            Some(controller) if controller == bridge.index => return netlink.up(&way).await,
            Some(_) => return Err(host(format!("{} is a port of another bridge", way.name))),
            None => {}
        }
        if netlink.has_addresses(&way).await? {
            let name = &way.name;
            return Err(host(format!(
                "{name} has an address of the host, which would be lost; make a bridge with it, and use kind = \"bridge\""
            )));
        }
        netlink.attach(&way, bridge, tag.mtu).await?;
        netlink.up(&way).await
    }

    /// Removes the agent's bridges without guests. Returns the names of their chains.
    pub(super) async fn remove_unused_bridges(&self) -> Result<BTreeSet<String>, LinkError> {
        let netlink = self.netlink().await?;
        let links = netlink.all().await?;
        let home = self.tag_alias("");
        let ours = |link: &&Link| link.alias.starts_with(&home) || self.is_unnamed(link);
        let mut gone = BTreeSet::new();
        for bridge in links.iter().filter(ours).filter(|link| link.is_bridge()) {
            let ports: Vec<&Link> =
                links.iter().filter(|link| link.controller == Some(bridge.index)).collect();
            if ports.iter().any(|port| port.alias.starts_with("vm ")) {
                continue;
            }
            netlink.delete(bridge).await?;
            for vlan in ports.into_iter().filter(ours) {
                netlink.delete(vlan).await?;
            }
            gone.insert(guard::host_chain(&bridge.name));
        }
        Ok(gone)
    }
}

/// Finds a tag's link among `links`; or returns what is wrong with it.
pub(super) fn host_link<'l>(tag: &Tag, links: &'l [Link]) -> Result<&'l Link, String> {
    let name = &tag.link;
    let wanted = if tag.kind == TagKind::Bridge { "bridge" } else { "interface" };
    match links.iter().find(|link| link.name == *name) {
        None => Err(format!("the {wanted} {name} is not there")),
        Some(link) if tag.kind == TagKind::Bridge && !link.is_bridge() => Err(format!("{name} is no bridge")),
        Some(link) => Ok(link),
    }
}

/// Stops the kernel from assigning IPv6 addresses to a link. A kernel without IPv6 has no such file.
pub(super) fn without_ipv6(link: &str) {
    let setting = Path::new("/proc/sys/net/ipv6/conf").join(link).join("disable_ipv6");
    let _ = std::fs::write(setting, "1");
}
