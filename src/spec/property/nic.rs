//! The properties of an interface. `mac` is what an update finds it by.

use super::{Default, Effect::Live, Kind, Property, property};
use crate::spec::forms;

/// Of an interface.
#[rustfmt::skip]
pub const NIC: &[Property] = &[
    property("mac", Kind::Mac, "Its address: six octets, not a group's.").default(Default::Computed("random, locally administered, unique on the host")),
    property("interface", Kind::Form(forms::interface), "Its name.").default(Default::Computed("net0, net1, ...")),
    property("nic_tag", Kind::Form(forms::nic_tag), "The network: 1 to 31 of letters, digits, _ and /. Required."),
    property("model", Kind::Word(&["virtio", "e1000", "rtl8139"]), "What the guest sees. Required, unless nic_driver or an earlier interface says it.").default(Default::Computed("nic_driver, or the first interface's model")),
    property("vlan_id", Kind::Integer(0, 4095, ""), "VLAN; 0 is none."),
    property("ip", Kind::NicAddress, "IPv4 address, or dhcp."),
    property("netmask", Kind::Ipv4, "Required with a static ip."),
    property("ips", Kind::List(&Kind::Form(forms::nic_ip), 1000), "Addresses with prefix length, dhcp or addrconf; at most 20.").default(Default::Computed("ip and netmask")),
    property("gateway", Kind::Ipv4, "IPv4 address of the router."),
    property("gateways", Kind::List(&Kind::Form(forms::gateway), 32), "IPv4 addresses of routers.").default(Default::Computed("gateway")),
    property("primary", Kind::Boolean, "It carries the default route; only true can be given.").default(Default::Computed("the first interface")),
    property("mtu", Kind::Integer(576, 9000, "bytes"), "Largest packet; the nic tag has a least and a most.").default(Default::Computed("the nic tag's")),
    property("answer_dhcp", Kind::Boolean, "The agent answers its DHCP requests, and router solicitations, with its static addresses.").default(Default::Value("true")).effect(Live),
    property("network_uuid", Kind::Uuid, "The controller's name of the network.").effect(super::Effect::Label),
    property("dhcp_server", Kind::Boolean, "It may serve DHCP: the same as allow_dhcp_spoofing.").effect(Live),
    property("allow_dhcp_spoofing", Kind::Boolean, "It may send as a DHCP server or an IPv6 router, and from any IP address.").effect(Live),
    property("allow_ip_spoofing", Kind::Boolean, "It may send from any IP address.").effect(Live),
    property("allow_mac_spoofing", Kind::Boolean, "It may send from any MAC address.").effect(Live),
    property("allow_restricted_traffic", Kind::Boolean, "It may send what is neither IP nor ARP.").effect(Live),
    property("allow_unfiltered_promisc", Kind::Boolean, "It may see packets for others.").effect(Live),
    property("allowed_ips", Kind::List(&Kind::Form(forms::allowed_ip), 1000), "Further addresses or networks that it may send from; at most 13.").effect(Live),
    property("allowed_dhcp_cids", Kind::List(&Kind::Form(forms::dhcp_cid), 1000), "DHCP client identifiers that it may use, like 0x01ff; at most 20.").kvm().effect(Live),
    property("blocked_outgoing_ports", Kind::List(&Kind::Integer(1, 65535, ""), 1000), "TCP ports that it can't connect to.").effect(Live),
    property("vrrp_vrid", Kind::Integer(0, 255, ""), "VRRP group; gives the MAC address."),
    property("vrrp_primary_ip", Kind::Ipv4, "Address of another interface that VRRP speaks from."),
];
