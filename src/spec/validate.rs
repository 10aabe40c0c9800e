//! The rules that several properties have together. What one property may hold by itself is in
//! [`super::property`]. Everything that is broken is reported, not just the first.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use serde_json::Value;

use super::{
    DiskModel, DiskSpec, Mac, Media, NicAddress, NicSpec, VmSpec,
    property::is_block_size,
    violation::Violation,
    vm::{FlatObject, Scalar},
};

/// Largest `ram`, in MiB: 16 TiB.
pub const MAX_RAM: i32 = 16 << 20;
/// Largest `vcpus`: what QEMU's pc machine takes.
pub const MAX_VCPUS: i32 = 255;
/// Largest disk, in MiB: 64 TiB.
pub const MAX_DISK: i32 = 64 << 20;
/// Disks and interfaces of one VM together: what the slots of its PCI bus take.
pub const MAX_DEVICES: usize = 24;
/// IDE devices of one VM: two on each of two channels.
pub const MAX_IDE: usize = 4;
/// Largest `cpu_cap`, in percent of one CPU.
pub const MAX_CPU_CAP: i32 = 1_000_000;
/// Largest `cpu_shares`: what illumos takes.
pub const MAX_CPU_SHARES: i32 = 65535;
/// Largest `max_lwps`: as many as Linux has process ids.
pub const MAX_LWPS: i32 = 1 << 22;
/// Largest `zfs_io_priority`: the largest weight that Linux takes.
pub const MAX_ZFS_IO_PRIORITY: i32 = 10_000;
/// Addresses of one interface.
const MAX_IPS: usize = 20;
/// Further networks of one interface.
const MAX_ALLOWED_IPS: usize = 13;
/// Addresses and further networks of one interface together.
const MAX_ALL_IPS: usize = 32;
/// DHCP client identifiers of one interface, and their bytes together.
const MAX_CIDS: usize = 20;
const MAX_CID_BYTES: usize = 1024;

/// Checks a machine that is to be made.
#[must_use]
pub fn check(spec: &VmSpec) -> Vec<Violation> {
    let mut found = Vec::new();
    let out = &mut found;
    if spec.brand.is_none() {
        out.push(Violation::missing("brand", "required; one of: kvm, bhyve"));
    }
    out.extend(memory(spec));
    if let Some(size) = spec.other.get("zfs_root_recsize").and_then(Value::as_i64)
        && size != 0
        && !is_block_size(size)
    {
        out.push(Violation::value(
            "zfs_root_recsize",
            format!("invalid zfs_root_recsize ({size}), must be 512-131072 and a power of 2. (0 to disable)"),
        ));
    }
    disks(out, spec);
    nics(out, spec);
    routes(out, &spec.routes, &spec.nics);
    if spec.disks.len() + spec.nics.len() > MAX_DEVICES {
        let total = spec.disks.len() + spec.nics.len();
        out.push(Violation::value(
            "disks",
            format!("{total} disks and nics together are over the limit of {MAX_DEVICES}"),
        ));
    }
    found
}

/// The guest's memory is part of the hypervisor's.
pub(super) fn memory(spec: &VmSpec) -> Option<Violation> {
    let (most, ram) = (spec.max_physical_memory?, spec.ram());
    (most < ram).then(|| {
        Violation::value(
            "max_physical_memory",
            format!("vm.max_physical_memory ({most}) cannot be lower than vm.ram ({ram})"),
        )
    })
}

fn disks(out: &mut Vec<Violation>, spec: &VmSpec) {
    let disks = &spec.disks;
    for (index, disk) in disks.iter().enumerate() {
        self::disk(out, &format!("disks.{index}"), disk, spec);
    }
    let boot: Vec<usize> = disks.iter().enumerate().filter(|(_, d)| d.boot).map(|(i, _)| i).collect();
    for index in boot.iter().skip(1) {
        out.push(Violation::value(
            format!("disks.{index}.boot"),
            format!("multiple boot disks: disks.{} has boot already", boot[0]),
        ));
    }
    let ide = disks.iter().filter(|d| d.model == Some(DiskModel::Ide)).count();
    if ide > MAX_IDE {
        out.push(Violation::value("disks", format!("{ide} ide disks are over the limit of {MAX_IDE}")));
    }
    let mut paths = HashSet::new();
    for (index, path) in disks.iter().enumerate().filter_map(|(i, d)| Some((i, d.path.as_ref()?))) {
        if !paths.insert(path) {
            out.push(Violation::value(
                format!("disks.{index}.path"),
                format!("another disk has the path {path:?} already"),
            ));
        }
    }
}

fn disk(out: &mut Vec<Violation>, at: &str, disk: &DiskSpec, spec: &VmSpec) {
    if let (Some(model), Some(brand)) = (disk.model, spec.brand)
        && let Some(fault) = model.fault(brand)
    {
        out.push(Violation::value(format!("{at}.model"), fault));
    }
    if disk.is_made_here() {
        source(out, at, disk, spec);
        if disk.path.is_some() {
            out.push(Violation::property(
                format!("{at}.path"),
                "you cannot specify a path for a disk unless you set nocreate=true",
            ));
        }
        return;
    }
    if disk.size.is_some() {
        out.push(Violation::property(
            format!("{at}.size"),
            "only for a disk that is made; the file at path has its own",
        ));
    }
    match &disk.path {
        None => out.push(Violation::missing(
            format!("{at}.path"),
            "required: the path of the file inside the zone's root, like /tiny.iso",
        )),
        Some(path) => {
            if let Err(why) = zone_path(path) {
                out.push(Violation::value(format!("{at}.path"), why));
            }
        }
    }
    if disk.media == Media::Cdrom && disk.boot {
        out.push(Violation::value(format!("{at}.boot"), "is for disks; boot a CD with order=d or once=d"));
    }
}

/// What a disk begins as: nothing of a size, or an image.
fn source(out: &mut Vec<Violation>, at: &str, disk: &DiskSpec, spec: &VmSpec) {
    let block_size = disk.other.get("block_size").and_then(Value::as_i64);
    if let Some(size) = block_size.filter(|size| !is_block_size(*size)) {
        out.push(Violation::value(
            format!("{at}.block_size"),
            format!("invalid .block_size({size}), must be 512-131072 and a power of 2."),
        ));
    }
    if !disk.other.contains_key("image_uuid") {
        if disk.size.is_none() {
            out.push(Violation::missing(format!("{at}.size"), "required: the size of the new disk in MiB"));
        }
        for key in ["image_size", "image_name"].iter().filter(|key| disk.other.contains_key(**key)) {
            out.push(Violation::property(format!("{at}.{key}"), "goes with image_uuid"));
        }
        return;
    }
    let flexible = spec.other.contains_key("flexible_disk_size");
    if disk.size.is_some() && !flexible {
        out.push(Violation::property(format!("{at}.size"), "the image has its own; give image_size"));
    }
    if block_size.is_some() {
        out.push(Violation::property(format!("{at}.block_size"), "the image has its own"));
    }
    let image = disk.other.get("image_size").and_then(Value::as_i64);
    if let (Some(size), Some(image)) = (disk.size, image)
        && i64::from(size) < image
    {
        out.push(Violation::value(format!("{at}.size"), format!("{size} is less than the image ({image})")));
    }
}

/// Checks that `path` is an absolute path of plain names, as paths inside a zone's root are.
pub fn zone_path(path: &str) -> Result<(), String> {
    let shown = if path.len() > 80 { "the path" } else { path };
    if !path.starts_with('/') {
        return Err(format!("{shown:?} must be absolute: / is the zone's root"));
    }
    if path.len() > 1024 {
        return Err(format!("{} bytes is over the limit of 1024", path.len()));
    }
    if path.chars().any(char::is_control) {
        return Err("control characters are not allowed in a path".to_owned());
    }
    for part in path.split('/').skip(1) {
        match part {
            "" if path.len() > 1 => return Err(format!("{shown:?} has an empty part")),
            "." | ".." => return Err(format!("{shown:?} has a \"{part}\" in it; give the plain path")),
            part if part.len() > 255 => return Err(format!("{shown:?} has a part of over 255 bytes")),
            _ => {}
        }
    }
    Ok(())
}

fn nics(out: &mut Vec<Violation>, spec: &VmSpec) {
    let nics = &spec.nics;
    let derivable = spec.nic_driver.is_some() || nics.iter().any(|nic| nic.model.is_some());
    let mut macs: HashSet<Mac> = HashSet::new();
    let mut ips: HashSet<(Option<&str>, i32, IpAddr)> = HashSet::new();
    let mut vrids = HashSet::new();
    for (index, nic) in nics.iter().enumerate() {
        let at = format!("nics.{index}");
        self::nic(out, &at, nic);
        if nic.model.is_none() && !derivable {
            out.push(Violation::missing(
                format!("{at}.model"),
                "missing .model option for NIC; one of: virtio, e1000, rtl8139",
            ));
        }
        vrrp(out, &at, nic, nics);
        if let Some(mac) = nic.mac
            && !macs.insert(mac)
        {
            out.push(Violation::value(
                format!("{at}.mac"),
                format!("Cannot add multiple NICs with the same MAC: {mac}"),
            ));
        }
        let place = (nic.nic_tag.as_deref(), nic.vlan_id.unwrap_or(0));
        for ip in nic.addresses() {
            if !ips.insert((place.0, place.1, ip)) {
                out.push(Violation::value(
                    format!("{at}.ip"),
                    format!("Cannot add multiple NICs with the same IP: {ip}"),
                ));
            }
        }
        if let Some(vrid) = nic.vrrp_vrid
            && !vrids.insert((place, vrid))
        {
            out.push(Violation::value(
                format!("{at}.vrrp_vrid"),
                format!("Cannot add multiple NICs with the same VRID: {vrid}"),
            ));
        }
    }
    if !nics.is_empty() && nics.iter().all(|nic| nic.vrrp_vrid.is_some()) {
        out.push(Violation::value("nics", "VM cannot contain only VRRP nics"));
    }
    for (index, _) in nics.iter().enumerate().filter(|(_, nic)| nic.primary).skip(1) {
        out.push(Violation::value(
            format!("nics.{index}.primary"),
            "payload specifies more than 1 primary NIC",
        ));
    }
}

fn nic(out: &mut Vec<Violation>, at: &str, nic: &NicSpec) {
    if nic.nic_tag.is_none() {
        out.push(Violation::missing(format!("{at}.nic_tag"), "required: the network of the interface"));
    }
    match (nic.ip, nic.netmask) {
        (Some(NicAddress::Static(_)), None) if nic.ips.is_empty() => {
            out.push(Violation::missing(
                format!("{at}.netmask"),
                "Missing .netmask option for NIC: required with a static ip",
            ));
        }
        (None, Some(_)) if nic.ips.is_empty() => {
            out.push(Violation::property(format!("{at}.netmask"), "goes with an ip"));
        }
        _ => {}
    }
    if let Some(netmask) = nic.netmask
        && !is_netmask(netmask)
    {
        out.push(Violation::value(
            format!("{at}.netmask"),
            format!("Specified netmask value is invalid: {netmask}"),
        ));
    }
    for ip in nic.addresses() {
        let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || broadcast {
            out.push(Violation::value(format!("{at}.ip"), format!("{ip} can't be an interface's address")));
        }
    }
    ip_and_ips(out, at, nic);
    counts(out, nic, at);
}

/// `ip` and `netmask` are the first IPv4 entry of `ips` in other words.
fn ip_and_ips(out: &mut Vec<Violation>, at: &str, nic: &NicSpec) {
    let first = nic.ips.iter().find_map(|text| match text.parse::<IpNet>() {
        Ok(IpNet::V4(net)) => Some(net),
        _ => None,
    });
    let (Some(NicAddress::Static(ip)), Some(net)) = (nic.ip, first) else { return };
    if ip != net.addr() || nic.netmask.is_some_and(|mask| mask != net.netmask()) {
        out.push(Violation::value(
            format!("{at}.ips"),
            format!("{net} is not ip {ip} with its netmask; give one of the two"),
        ));
    }
}

fn counts(out: &mut Vec<Violation>, nic: &NicSpec, at: &str) {
    let (ips, allowed, cids) = (nic.ips.len(), nic.allowed_ips.len(), nic.allowed_dhcp_cids.len());
    if ips > MAX_IPS {
        let why = format!("nic.*.ips contains {ips} addresses, but is limited to {MAX_IPS}");
        out.push(Violation::value(format!("{at}.ips"), why));
    }
    if allowed > MAX_ALLOWED_IPS {
        let why = format!("Maximum of {MAX_ALLOWED_IPS} allowed_ips per nic");
        out.push(Violation::value(format!("{at}.allowed_ips"), why));
    }
    if ips + allowed > MAX_ALL_IPS {
        let why = format!("More than {MAX_ALL_IPS} IPs cannot be associated with a NIC");
        out.push(Violation::value(format!("{at}.allowed_ips"), why));
    }
    if cids > MAX_CIDS {
        let why = format!(
            "nics.*.allowed_dhcp_cids contains {cids} Client Identifiers, but is limited to {MAX_CIDS}"
        );
        out.push(Violation::value(format!("{at}.allowed_dhcp_cids"), why));
    } else if nic.allowed_dhcp_cids.join(",").len() >= MAX_CID_BYTES {
        let why = "nics.*.allowed_dhcp_cids contains too many long Client Identifiers";
        out.push(Violation::value(format!("{at}.allowed_dhcp_cids"), why));
    }
}

fn vrrp(out: &mut Vec<Violation>, at: &str, nic: &NicSpec, nics: &[NicSpec]) {
    if nic.vrrp_vrid.is_some() && nic.mac.is_some() && nic.mac != nic.vrrp_mac() {
        out.push(Violation::value(format!("{at}.mac"), "Cannot set both mac and vrrp_vrid"));
    }
    match (nic.vrrp_vrid, nic.vrrp_primary_ip) {
        (Some(_), None) => {
            out.push(Violation::missing(
                format!("{at}.vrrp_primary_ip"),
                "vrrp_vrid set but not vrrp_primary_ip",
            ));
        }
        (_, Some(primary)) => {
            let has = |nic: &NicSpec| nic.addresses().any(|ip| ip == IpAddr::V4(primary));
            let field = format!("{at}.vrrp_primary_ip");
            match nics.iter().find(|other| has(other)) {
                Some(other) if other.vrrp_vrid.is_some() => {
                    out.push(Violation::value(field, "Cannot set vrrp_primary_ip to the IP of a VRRP nic"));
                }
                Some(_) => {}
                None => out.push(Violation::value(field, "vrrp_primary_ip must belong to the same VM")),
            }
        }
        _ => {}
    }
}

fn is_netmask(mask: Ipv4Addr) -> bool {
    let bits = u32::from(mask);
    bits != 0 && bits.leading_ones() + bits.trailing_zeros() == 32
}

/// Destinations are addresses or networks; gateways are addresses, MACs or `nics[0]`.
fn routes(out: &mut Vec<Violation>, routes: &FlatObject, nics: &[NicSpec]) {
    for (destination, gateway) in routes {
        if destination.parse::<IpAddr>().is_err() && destination.parse::<IpNet>().is_err() {
            let why = format!("Invalid route destination: \"{destination}\" (must be IP address or CIDR)");
            out.push(Violation::value(format!("routes.{destination}"), why));
        }
        let text = match gateway {
            Scalar::Text(text) => text.clone(),
            Scalar::Bool(_) | Scalar::Number(_) => String::new(),
        };
        let index = text.strip_prefix("nics[").and_then(|rest| rest.strip_suffix(']')?.parse::<usize>().ok());
        let by_mac = text.parse::<Mac>().ok();
        let nic = match (index, by_mac) {
            (Some(index), _) => Some(nics.get(index)),
            (_, Some(mac)) => Some(nics.iter().find(|nic| nic.mac == Some(mac))),
            _ => None,
        };
        let why = match nic {
            Some(nic) if nic.is_none_or(|nic| nic.addresses().next().is_none()) => {
                format!("Route gateway: \"{text}\" refers to non-existent or DHCP nic")
            }
            None if text.parse::<IpAddr>().is_err() => {
                format!("Invalid route gateway: \"{text}\" (must be IP address, MAC address, or nic)")
            }
            _ => continue,
        };
        out.push(Violation::value(format!("routes.{destination}"), why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::machine_json;

    fn fields(text: &str) -> Vec<String> {
        let parsed = machine_json::parse(text.as_bytes()).unwrap();
        parsed.all_violations().into_iter().map(|v| v.field).collect()
    }

    #[test]
    fn the_least_machine() {
        assert_eq!(fields(r#"{"brand":"kvm"}"#), Vec::<String>::new());
        assert_eq!(fields("{}"), ["brand"]);
    }

    #[test]
    fn both_sides_of_each_limit() {
        for (good, bad, field) in [
            (r#""ram":1"#, r#""ram":0"#, "ram"),
            (r#""ram":16777216"#, r#""ram":16777217"#, "ram"),
            (r#""vcpus":255"#, r#""vcpus":256"#, "vcpus"),
            (r#""vcpus":1"#, r#""vcpus":-1"#, "vcpus"),
            (r#""vnc_port":-1"#, r#""vnc_port":-2"#, "vnc_port"),
            (r#""vnc_port":65535"#, r#""vnc_port":65536"#, "vnc_port"),
            (r#""disks":[{"size":1}]"#, r#""disks":[{"size":0}]"#, "disks.0.size"),
            (r#""disks":[{"size":67108864}]"#, r#""disks":[{"size":10995116277760}]"#, "disks.0.size"),
            (r#""disks":[{"size":1}]"#, r#""disks":[{}]"#, "disks.0.size"),
            (
                r#""disks":[{"media":"cdrom","path":"/a.iso"}]"#,
                r#""disks":[{"media":"cdrom","path":"/a/../b"}]"#,
                "disks.0.path",
            ),
            (
                r#""disks":[{"nocreate":true,"path":"/a"}]"#,
                r#""disks":[{"path":"/a","size":1}]"#,
                "disks.0.path",
            ),
            (r#""resolvers":["::1"]"#, r#""resolvers":["dns"]"#, "resolvers.0"),
            (r#""hostname":"web1.example""#, r#""hostname":"web 1""#, "hostname"),
            (
                r#""nics":[{"nic_tag":"admin","model":"virtio","ip":"dhcp"}]"#,
                r#""nics":[{"nic_tag":"admin","model":"virtio","ip":"10.0.0.1"}]"#,
                "nics.0.netmask",
            ),
            (
                r#""nics":[{"nic_tag":"a","model":"e1000","ip":"10.0.0.1","netmask":"255.255.254.0"}]"#,
                r#""nics":[{"nic_tag":"a","model":"e1000","ip":"10.0.0.1","netmask":"255.0.255.0"}]"#,
                "nics.0.netmask",
            ),
            (
                r#""nics":[{"nic_tag":"a","model":"virtio"}]"#,
                r#""nics":[{"model":"virtio"}]"#,
                "nics.0.nic_tag",
            ),
            (r#""nics":[{"nic_tag":"a","model":"virtio"}]"#, r#""nics":[{"nic_tag":"a"}]"#, "nics.0.model"),
            (
                r#""nics":[{"nic_tag":"a_1/2","model":"virtio"}]"#,
                r#""nics":[{"nic_tag":"a-1","model":"virtio"}]"#,
                "nics.0.nic_tag",
            ),
        ] {
            assert_eq!(fields(&format!(r#"{{"brand":"kvm",{good}}}"#)), Vec::<String>::new(), "{good}");
            assert_eq!(fields(&format!(r#"{{"brand":"kvm",{bad}}}"#)), [field], "{bad}");
        }
    }

    #[test]
    fn one_of_a_kind() {
        let nic = r#"{"nic_tag":"a","model":"virtio","mac":"2:0:0:0:0:1","ip":"10.0.0.1","netmask":"255.0.0.0","primary":true}"#;
        assert_eq!(
            fields(&format!(
                r#"{{"brand":"kvm","nics":[{nic},{nic}],"disks":[{{"size":1,"boot":true}},{{"size":1,"boot":true}}]}}"#
            )),
            ["disks.1.boot", "nics.1.mac", "nics.1.ip", "nics.1.primary"]
        );
    }

    #[test]
    fn too_many_devices() {
        let disks = vec![r#"{"size":1}"#; MAX_DEVICES + 1].join(",");
        assert_eq!(fields(&format!(r#"{{"brand":"kvm","disks":[{disks}]}}"#)), ["disks"]);
        let ide = [r#"{"size":1,"model":"ide"}"#; MAX_IDE + 1].join(",");
        assert_eq!(fields(&format!(r#"{{"brand":"kvm","disks":[{ide}]}}"#)), ["disks"]);
    }
}
