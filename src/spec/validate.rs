//! The rules of a machine. Everything that is broken is reported, not just the first.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
};

use super::{
    Brand, DiskModel, DiskSpec, Media, NicAddress, NicSpec, VmSpec,
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
/// Bytes of a name.
const MAX_NAME: usize = 255;
/// Name servers.
const MAX_RESOLVERS: usize = 32;

/// Checks a payload for creation.
#[must_use]
pub fn check(spec: &VmSpec) -> Vec<Violation> {
    let mut found = Vec::new();
    let out = &mut found;
    if spec.brand.is_none() {
        out.push(Violation::missing("brand", "required; one of: kvm, bhyve"));
    }
    if let Some(alias) = &spec.alias {
        name(out, "alias", alias);
    }
    if let Some(hostname) = &spec.hostname {
        self::hostname(out, hostname);
    }
    range(out, "ram", spec.ram, 1, MAX_RAM, "MiB");
    range(out, "vcpus", spec.vcpus, 1, MAX_VCPUS, "virtual CPUs");
    limits(out, spec);
    range(out, "vnc_port", spec.vnc_port, -1, 65535, "(-1: none, 0: any free port)");
    resolvers(out, &spec.resolvers);
    disks(out, &spec.disks);
    nics(out, &spec.nics);
    if spec.disks.len() + spec.nics.len() > MAX_DEVICES {
        let total = spec.disks.len() + spec.nics.len();
        out.push(Violation::value(
            "disks",
            format!("{total} disks and nics together are over the limit of {MAX_DEVICES}"),
        ));
    }
    for (field, object) in [
        ("customer_metadata", &spec.customer_metadata),
        ("internal_metadata", &spec.internal_metadata),
        ("tags", &spec.tags),
    ] {
        flat(out, field, object);
    }
    if spec.brand == Some(Brand::Bhyve) && spec.disks.iter().any(|d| d.model == Some(DiskModel::Ide)) {
        out.push(Violation::value("disks.*.model", "bhyve has no ide disks; use virtio"));
    }
    found
}

/// What bounds a VM's use of its host.
fn limits(out: &mut Vec<Violation>, spec: &VmSpec) {
    range(out, "cpu_cap", spec.cpu_cap, 0, MAX_CPU_CAP, "percent of one CPU (0: no cap)");
    range(out, "cpu_shares", spec.cpu_shares, 1, MAX_CPU_SHARES, "shares");
    range(out, "max_physical_memory", spec.max_physical_memory, 1, 2 * MAX_RAM, "MiB");
    range(out, "max_locked_memory", spec.max_locked_memory, 1, 2 * MAX_RAM, "MiB");
    range(out, "max_swap", spec.max_swap, 1, 2 * MAX_RAM, "MiB");
    range(out, "max_lwps", spec.max_lwps, 1, MAX_LWPS, "threads");
    range(out, "zfs_io_priority", spec.zfs_io_priority, 0, MAX_ZFS_IO_PRIORITY, "");
    if let Some(most) = spec.max_physical_memory
        && most < spec.ram()
    {
        let ram = spec.ram();
        out.push(Violation::value(
            "max_physical_memory",
            format!("vm.max_physical_memory ({most}) cannot be lower than vm.ram ({ram})"),
        ));
    }
}

fn range(out: &mut Vec<Violation>, field: &str, value: Option<i32>, min: i32, max: i32, unit: &str) {
    if let Some(value) = value
        && !(min..=max).contains(&value)
    {
        let value = match value {
            i32::MAX => "the value".to_owned(),
            value => value.to_string(),
        };
        out.push(Violation::value(
            field,
            format!("{value} is out of range: {min} to {max} {unit}").trim_end(),
        ));
    }
}

fn name(out: &mut Vec<Violation>, field: &str, text: &str) {
    if text.len() > MAX_NAME {
        out.push(Violation::value(field, format!("{} bytes is over the limit of {MAX_NAME}", text.len())));
    }
    if text.chars().any(char::is_control) {
        out.push(Violation::value(field, "control characters are not allowed"));
    }
}

fn hostname(out: &mut Vec<Violation>, text: &str) {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if text.len() > 253 || !text.split('.').all(label) {
        out.push(Violation::value("hostname", format!("{text:?} is not a host name (RFC 1123)")));
    }
}

fn resolvers(out: &mut Vec<Violation>, list: &[String]) {
    if list.len() > MAX_RESOLVERS {
        out.push(Violation::value(
            "resolvers",
            format!("{} are over the limit of {MAX_RESOLVERS}", list.len()),
        ));
    }
    for (index, text) in list.iter().enumerate() {
        if text.parse::<IpAddr>().is_err() {
            out.push(Violation::value(
                format!("resolvers.{index}"),
                format!("{text:?} is not an IP address"),
            ));
        }
    }
}

fn disks(out: &mut Vec<Violation>, disks: &[DiskSpec]) {
    for (index, disk) in disks.iter().enumerate() {
        self::disk(out, &format!("disks.{index}"), disk);
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
}

fn disk(out: &mut Vec<Violation>, at: &str, disk: &DiskSpec) {
    range(out, &format!("{at}.size"), disk.size, 1, MAX_DISK, "MiB");
    if disk.is_made_here() {
        if disk.size.is_none() {
            out.push(Violation::missing(format!("{at}.size"), "required: the size of the new disk in MiB"));
        }
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

fn nics(out: &mut Vec<Violation>, nics: &[NicSpec]) {
    let mut macs = HashSet::new();
    let mut ips = HashSet::new();
    for (index, nic) in nics.iter().enumerate() {
        let at = format!("nics.{index}");
        self::nic(out, &at, nic);
        if let Some(mac) = nic.mac
            && !macs.insert(mac)
        {
            out.push(Violation::value(
                format!("{at}.mac"),
                format!("Cannot add multiple NICs with the same MAC: {mac}"),
            ));
        }
        if let Some(NicAddress::Static(ip)) = nic.ip
            && !ips.insert((nic.nic_tag.clone(), ip))
        {
            out.push(Violation::value(
                format!("{at}.ip"),
                format!("Cannot add multiple NICs with the same IP: {ip}"),
            ));
        }
    }
    for (index, _) in nics.iter().enumerate().filter(|(_, nic)| nic.primary).skip(1) {
        out.push(Violation::value(
            format!("nics.{index}.primary"),
            "payload specifies more than 1 primary NIC",
        ));
    }
}

fn nic(out: &mut Vec<Violation>, at: &str, nic: &NicSpec) {
    match nic.nic_tag.as_deref() {
        None | Some("") => {
            out.push(Violation::missing(format!("{at}.nic_tag"), "required: the network of the interface"))
        }
        Some(tag) => {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'/';
            if tag.len() > 31 || !tag.bytes().all(plain) {
                out.push(Violation::value(
                    format!("{at}.nic_tag"),
                    format!("Invalid nic tag {tag:?}: 1 to 31 of letters, digits, _ and /"),
                ));
            }
        }
    }
    if nic.model.is_none() {
        out.push(Violation::missing(
            format!("{at}.model"),
            "missing .model option for NIC; one of: virtio, e1000, rtl8139",
        ));
    }
    match (nic.ip, nic.netmask) {
        (Some(NicAddress::Static(_)), None) => {
            out.push(Violation::missing(
                format!("{at}.netmask"),
                "Missing .netmask option for NIC: required with a static ip",
            ));
        }
        (None | Some(NicAddress::Dhcp), Some(_)) if nic.ip.is_none() => {
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
    if let Some(NicAddress::Static(ip)) = nic.ip
        && (ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback())
    {
        out.push(Violation::value(format!("{at}.ip"), format!("{ip} can't be an interface's address")));
    }
}

fn is_netmask(mask: Ipv4Addr) -> bool {
    let bits = u32::from(mask);
    bits != 0 && bits.leading_ones() + bits.trailing_zeros() == 32
}

fn flat(out: &mut Vec<Violation>, field: &str, object: &FlatObject) {
    for (key, value) in object {
        if key.is_empty() || key.len() > MAX_NAME {
            out.push(Violation::value(field, format!("keys have 1 to {MAX_NAME} bytes")));
        }
        if let Scalar::Text(text) = value
            && text.contains('\0')
        {
            out.push(Violation::value(format!("{field}.{key}"), "NUL is not allowed in a value"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::machine_json;

    fn fields(text: &str) -> Vec<String> {
        let parsed = machine_json::parse(text.as_bytes()).unwrap();
        assert_eq!(parsed.violations, []);
        check(&parsed.spec).into_iter().map(|v| v.field).collect()
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
