//! Links of the host, over netlink.

use std::io;

use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    AddressFamily,
    address::AddressScope,
    link::{
        AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, InfoBridge, InfoData, InfoKind, LinkAttribute,
        LinkFlags, LinkInfo, MacVtapMode,
    },
};
use rtnetlink::{Handle, LinkBridge, LinkBridgeVlan, LinkMacVtap, LinkMessageBuilder, LinkUnspec, LinkVlan};
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use crate::{network::LinkError, spec::Mac};

/// A connection to the kernel.
#[derive(Debug)]
pub(super) struct Netlink {
    handle: Handle,
    /// One socket can list one thing at a time.
    listing: Mutex<()>,
    _connection: AbortOnDropHandle<()>,
}

/// A link that exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// Alias, set by its creator.
    pub(super) alias: String,
    pub(super) mtu: u32,
    pub(super) mac: Vec<u8>,
    /// Whether it carries traffic.
    pub(super) up: bool,
    /// The bridge that it is a port of.
    pub(super) controller: Option<u32>,
    pub(super) kind: Option<InfoKind>,
    /// Of a bridge.
    pub(super) filters_vlans: bool,
}

impl Link {
    pub(super) fn is_bridge(&self) -> bool {
        self.kind == Some(InfoKind::Bridge)
    }

    pub(super) fn is_macvtap(&self) -> bool {
        self.kind == Some(InfoKind::MacVtap)
    }
}

impl Netlink {
    pub(super) fn connect() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self {
            handle,
            listing: Mutex::default(),
            _connection: AbortOnDropHandle::new(tokio::spawn(connection)),
        })
    }

    pub(super) async fn find(&self, name: &str) -> Result<Option<Link>, LinkError> {
        let mut found = self.handle.link().get().match_name(name).execute();
        match found.try_next().await {
            Ok(link) => Ok(link.as_ref().map(read)),
            Err(error) if number(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(failed(format!("looking for {name}"))(error)),
        }
    }

    pub(super) async fn all(&self) -> Result<Vec<Link>, LinkError> {
        let _alone = self.listing.lock().await;
        let links = self.handle.link().get().execute();
        links.map_ok(|link| read(&link)).try_collect().await.map_err(failed("listing links"))
    }

    /// Adds a bridge that learns and forwards at once, with a MAC address that does not depend on its ports.
    pub(super) async fn add_bridge(&self, name: &str, mtu: i32, mac: Mac) -> Result<(), LinkError> {
        let bridge = LinkBridge::new(name)
            .address(mac.octets().to_vec())
            .mtu(mtu.unsigned_abs())
            .forward_delay(0)
            .down();
        let made = self.handle.link().add(bridge.build()).execute().await;
        made.map_err(failed(format!("making the bridge {name}")))
    }

    pub(super) async fn add_vlan(
        &self,
        name: &str,
        under: u32,
        vlan: u16,
        alias: &str,
    ) -> Result<(), LinkError> {
        let made = self.handle.link().add(LinkVlan::new(name, under, vlan).up().build()).execute().await;
        made.map_err(failed(format!("making {name} (VLANs are the kernel's module 8021q)")))?;
        self.set_alias(name, alias).await
    }

    pub(super) async fn add_macvtap(&self, name: &str, under: u32, mac: Mac) -> Result<(), LinkError> {
        let link = LinkMacVtap::new(name, under, MacVtapMode::Bridge).address(mac.octets().to_vec());
        let made = self.handle.link().add(link.build()).execute().await;
        made.map_err(failed(format!("making the macvtap {name}")))
    }

    pub(super) async fn set_alias(&self, name: &str, alias: &str) -> Result<(), LinkError> {
        self.set(LinkUnspec::new_with_name(name).alias(alias), format!("naming {name}")).await
    }

    /// Attaches a link to a bridge, and sets its MTU; it stays down.
    pub(super) async fn attach(&self, port: &Link, bridge: &Link, mtu: i32) -> Result<(), LinkError> {
        let change = LinkUnspec::new_with_index(port.index).mtu(mtu.unsigned_abs()).controller(bridge.index);
        self.set(change, format!("making {} a port of {}", port.name, bridge.name)).await
    }

    pub(super) async fn set_mtu(&self, link: &Link, mtu: i32) -> Result<(), LinkError> {
        let change = LinkUnspec::new_with_index(link.index).mtu(mtu.unsigned_abs());
        self.set(change, format!("the MTU {mtu} of {}", link.name)).await
    }

    pub(super) async fn up(&self, link: &Link) -> Result<(), LinkError> {
        self.set(LinkUnspec::new_with_index(link.index).up(), format!("starting {}", link.name)).await
    }

    pub(super) async fn down(&self, link: &Link) -> Result<(), LinkError> {
        self.set(LinkUnspec::new_with_index(link.index).down(), format!("stopping {}", link.name)).await
    }

    async fn set(&self, change: LinkMessageBuilder<LinkUnspec>, what: String) -> Result<(), LinkError> {
        self.handle.link().set(change.build()).execute().await.map_err(failed(what))
    }

    /// Puts a port into a VLAN: untagged packets belong to it, and leave without a tag.
    pub(super) async fn set_port_vlan(&self, port: &Link, vlan: u16) -> Result<(), LinkError> {
        let what = || failed(format!("VLAN {vlan} of {}", port.name));
        let flags = BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged;
        let add = LinkBridgeVlan::new(port.index).vlan(vlan, flags);
        self.handle.link().set(add.build()).execute().await.map_err(what())?;
        if vlan == 1 {
            return Ok(());
        }
        // The default VLAN of every port.
        let first = BridgeVlanInfo { vid: 1, flags: BridgeVlanInfoFlags::empty() };
        let remove = LinkBridgeVlan::new(port.index).append_af_spec(AfSpecBridge::VlanInfo(first));
        match self.handle.link().del_with_message(remove.build()).execute().await {
            Err(error) if number(&error) != Some(libc::ENOENT) => Err(what()(error)),
            _ => Ok(()),
        }
    }

    pub(super) async fn delete(&self, link: &Link) -> Result<(), LinkError> {
        match self.handle.link().del(link.index).execute().await {
            Err(error) if number(&error) != Some(libc::ENODEV) => {
                Err(failed(format!("removing {}", link.name))(error))
            }
            _ => Ok(()),
        }
    }

    /// Whether the host itself is reachable on a link.
    pub(super) async fn has_addresses(&self, link: &Link) -> Result<bool, LinkError> {
        let _alone = self.listing.lock().await;
        let addresses = self.handle.address().get().set_link_index_filter(link.index).execute();
        let addresses: Vec<_> = addresses.try_collect().await.map_err(failed("listing addresses"))?;
        // The kernel gives each link a link-local one.
        Ok(addresses.iter().any(|address| {
            address.header.family == AddressFamily::Inet || address.header.scope == AddressScope::Universe
        }))
    }
}

fn read(message: &netlink_packet_route::link::LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(mac) => link.mac.clone_from(mac),
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.clone()),
                        LinkInfo::Data(InfoData::Bridge(options)) => {
                            link.filters_vlans = options
                                .iter()
                                .any(|option| matches!(option, InfoBridge::VlanFiltering(true)));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link
}

/// Returns the kernel's error number.
fn number(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| code.get().saturating_neg()),
        _ => None,
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> LinkError {
    let what = what.into();
    move |error| {
        let source = match number(&error) {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::other(error.to_string()),
        };
        LinkError::System { what, source }
    }
}
