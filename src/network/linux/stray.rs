//! Links of running guests that lost their bridges: a restarted host network recreates its bridges, and a
//! removed interface comes back. They are reattached as they were plugged: down, until their rules are in
//! force.

use uuid::Uuid;

use super::{super::settings::TagKind, LinuxLinks, Place, netlink::Link};
use crate::{
    crash,
    network::{LinkError, Links as _, Wiring},
    spec::NicSpec,
};

impl LinuxLinks {
    /// Returns the VMs with links off their bridges.
    pub(super) async fn strays(&self) -> Result<Vec<Uuid>, LinkError> {
        let links = self.netlink().await?.all().await?;
        let mut vms: Vec<Uuid> = self
            .owned(links.clone())
            .into_iter()
            .filter(|(_, link)| self.is_stray(link, &links))
            .map(|(uuid, _)| uuid)
            .collect();
        vms.sort_unstable();
        vms.dedup();
        Ok(vms)
    }

    /// A macvtap is gone with the interface that it shared, and can't come back.
    fn is_stray(&self, link: &Link, links: &[Link]) -> bool {
        let bridge = links.iter().find(|other| link.controller == Some(other.index));
        !link.is_macvtap() && (!link.up || bridge.is_none_or(|bridge| self.leads_nowhere(bridge, links)))
    }

    /// Whether it is the agent's bridge of an uplink, with only guests on it.
    fn leads_nowhere(&self, bridge: &Link, links: &[Link]) -> bool {
        let tag = bridge.alias.strip_prefix(&self.tag_alias("")).and_then(|name| self.tags.get(name));
        let way_out = |link: &Link| link.controller == Some(bridge.index) && !link.alias.starts_with("vm ");
        tag.is_some_and(|tag| tag.kind == TagKind::Uplink) && !links.iter().any(way_out)
    }

    /// Reattaches a VM's links to the bridges that exist again; returns whether any was.
    pub(super) async fn put_back(&self, wiring: &Wiring) -> Result<bool, LinkError> {
        let netlink = self.netlink().await?;
        let links = netlink.all().await?;
        let mut back = Vec::new();
        for nic in &wiring.nics {
            let Ok(Some(place)) = self.place(wiring.uuid, nic) else { continue };
            let link = links.iter().find(|link| link.name == place.link);
            let Some(link) = link.filter(|link| self.is_stray(link, &links)) else { continue };
            match self.put_one_back(nic, &place, link).await {
                Ok(()) => back.extend(self.own_bridge(nic, &place.tag).into_iter().chain([place.link])),
                Err(error) => tracing::debug!(vm = %wiring.uuid, %error, "not yet"),
            }
        }
        if back.is_empty() {
            return Ok(false);
        }
        // These links carry traffic again once their rules are in force, whatever else the VM lacks.
        self.guard(wiring).await?;
        for link in netlink.all().await?.iter().filter(|link| back.contains(&link.name)) {
            netlink.up(link).await?;
        }
        Ok(true)
    }

    async fn put_one_back(&self, nic: &NicSpec, place: &Place, link: &Link) -> Result<(), LinkError> {
        let _changing = self.changing.lock().await;
        let bridge = self.bridge(nic, &place.tag).await?;
        if !link.up || link.controller.is_none() {
            self.netlink().await?.down(link).await?;
            crash::point("link.down");
            self.join(nic, place, link, &bridge).await?;
        }
        Ok(())
    }
}
