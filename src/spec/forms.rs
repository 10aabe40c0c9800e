//! Texts with a form of their own. Each function returns the fault of a text, in vmadm's words where they
//! exist.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{BootOrder, Bootrom, Brand, DiskModel, NicAddress, PciSlot, validate::zone_path};

type Form = Result<(), String>;

fn when(good: bool, why: impl FnOnce() -> String) -> Form {
    if good { Ok(()) } else { Err(why()) }
}

/// RFC 1123, and underscores, which people use.
pub fn hostname(text: &str) -> Form {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    when(text.len() <= 253 && text.split('.').all(label), || {
        format!("{text:?} is not a host name (RFC 1123)")
    })
}

/// A value of QEMU's `-cpu`: a model and flags, but no second option.
pub fn cpu_type(text: &str) -> Form {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_+=,.".contains(&b);
    when(text.len() <= 255 && text.bytes().all(plain), || {
        format!("{text:?} is not a CPU model, like host or qemu64,+aes")
    })
}

/// `order=cd` or `order=cd,once=d`, or the letters alone.
pub fn boot(text: &str) -> Form {
    boot_order(text).map(drop)
}

/// The orders of a `boot` property: the usual one, and the one for the first boot.
pub fn boot_order(text: &str) -> Result<(BootOrder, Option<BootOrder>), String> {
    let wrong = |why: String| format!("{text:?} is not a boot order, like order=cd: {why}");
    let (order, once) = match text.split_once(",once=") {
        Some((order, once)) => (order, Some(once)),
        None => (text, None),
    };
    let order = order.strip_prefix("order=").unwrap_or(order).parse().map_err(wrong)?;
    Ok((order, once.map(str::parse).transpose().map_err(wrong)?))
}

/// A graphics adapter of QEMU.
pub fn vga(text: &str) -> Form {
    const TYPES: [&str; 5] = ["cirrus", "std", "vmware", "qxl", "xenfb"];
    when(TYPES.contains(&text), || {
        format!("Invalid VGA type: \"{text}\", supported types are: {}", TYPES.join(", "))
    })
}

/// A disk model of any brand.
pub fn disk_model(text: &str) -> Form {
    DiskModel::parse(text).map(drop)
}

/// IPv4 or IPv6.
pub fn ip(text: &str) -> Form {
    when(text.parse::<IpAddr>().is_ok(), || format!("{text:?} is not an IP address"))
}

/// A prefix of metadata keys.
pub fn namespace(text: &str) -> Form {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    when(!text.is_empty() && text.len() <= 255 && text.bytes().all(plain), || {
        format!("{text:?} is not a prefix: letters, digits, -, . and _")
    })
}

/// A name of an interface.
pub fn interface(text: &str) -> Form {
    let number = text.strip_prefix("net").filter(|digits| digits.len() <= 4);
    let good = number.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    when(good, || format!("{text:?} is not an interface name, like net0"))
}

/// A network.
pub fn nic_tag(text: &str) -> Form {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'/';
    when((1..=31).contains(&text.len()) && text.bytes().all(plain), || {
        format!("Invalid nic tag \"{text}\": 1 to 31 of letters, digits, _ and /")
    })
}

/// An address with its prefix length, `dhcp` or `addrconf`.
pub fn nic_ip(text: &str) -> Form {
    when(
        matches!(text, "dhcp" | "addrconf") || text.parse::<ipnet::IpNet>().is_ok() && text.contains('/'),
        || {
            format!(
                "{text:?} is neither an address with its prefix length, like 10.0.0.2/24, nor dhcp, nor addrconf"
            )
        },
    )
}

/// An IPv4 router.
pub fn gateway(text: &str) -> Form {
    when(text.parse::<Ipv4Addr>().is_ok(), || format!("Static gateways must be IPv4 addresses: {text}"))
}

/// An address or a network that is not everything.
pub fn allowed_ip(text: &str) -> Form {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let within = |most: u8| match length {
        None => true,
        Some(length) => {
            length.bytes().all(|b| b.is_ascii_digit())
                && length.parse::<u8>().is_ok_and(|length| (1..=most).contains(&length))
        }
    };
    let good = address.parse::<Ipv4Addr>().is_ok() && within(32)
        || address.parse::<Ipv6Addr>().is_ok() && within(128);
    when(good, || format!("{text:?} is neither an address nor a network (IPv4 /1 to /32, IPv6 /1 to /128)"))
}

/// A DHCP client identifier.
pub fn dhcp_cid(text: &str) -> Form {
    let digits = text.strip_prefix("0x").unwrap_or_default();
    let good =
        !digits.is_empty() && digits.len().is_multiple_of(2) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    when(good, || format!("{text:?} is not 0x and an even number of hexadecimal digits"))
}

/// Logical and physical sector size.
pub fn guest_block_size(text: &str) -> Form {
    let size = |text: &str| {
        let number = text.parse().ok().filter(|n: &u32| (512..=2 << 20).contains(n) && n.is_power_of_two());
        number.filter(|n| n.to_string() == text)
    };
    let good = match text.split_once('/') {
        Some((logical, physical)) => size(logical).is_some_and(|logical| size(physical) >= Some(logical)),
        None => size(text).is_some(),
    };
    when(good, || format!("{text:?} is not a sector size, like 512 or 512/4096"))
}

/// `bios`, `uefi`, or the path of a file.
pub fn bootrom(text: &str) -> Form {
    match Bootrom::from(text.to_owned()) {
        Bootrom::File(path) if path.starts_with('/') => zone_path(&path),
        Bootrom::File(_) => Err(format!(
            "{text:?} is not one of: bios, uefi, or the absolute path of UEFI code (brand bhyve)"
        )),
        Bootrom::Bios | Bootrom::Uefi => Ok(()),
    }
}

/// A family of machines and a version.
pub fn machine_type(text: &str) -> Form {
    let version = Brand::NAMES.iter().find_map(|(_, brand)| text.strip_prefix(brand.machine_family()));
    let numbers = version.and_then(|version| version.split_once('.')).is_some_and(|(major, minor)| {
        [major, minor].iter().all(|part| part.parse::<u16>().is_ok() && !part.starts_with('+'))
    });
    when(numbers, || {
        format!(
            "{text:?} is not a machine type with a version, like pc-i440fx-7.2 (kvm) or pc-q35-7.2 (bhyve)"
        )
    })
}

/// A device of an illumos host.
pub fn device_path(text: &str) -> Form {
    when(text.starts_with("/devices/"), || format!("{text:?} is not below /devices"))
}

/// As `pci_slot` of a disk or device.
pub fn pci_slot(text: &str) -> Form {
    text.parse::<PciSlot>().map(drop)
}

/// IPv4 or `dhcp`.
pub(super) fn nic_address(text: &str) -> Form {
    text.parse::<NicAddress>().map(drop)
}

/// As vmadm says it.
pub(super) fn netmask(text: &str) -> Form {
    when(text.parse::<Ipv4Addr>().is_ok(), || format!("\"{text}\" is not an IPv4 address"))
}

/// A VM's name as vmadm writes it: lower case, with dashes, 36 characters.
pub fn parse_uuid(text: &str) -> Result<uuid::Uuid, String> {
    let plain = text.len() == 36 && !text.bytes().any(|b| b.is_ascii_uppercase());
    uuid::Uuid::try_parse(text).ok().filter(|uuid| plain && !uuid.is_nil()).ok_or_else(|| {
        format!("\"{text}\" is not a UUID in lower case, like b8ab5fc1-8576-45ef-bb51-9826b52a4651")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_each_form() {
        type Case = (fn(&str) -> Form, &'static [&'static str], &'static [&'static str]);
        let cases: &[Case] = &[
            (hostname, &["web1.example", "a_b"], &["", "web 1", "-a", "a-", "a..b"]),
            (cpu_type, &["host", "qemu64,+aes", "max"], &["host -device x", "a\"b"]),
            (boot, &["order=cd", "cd", "order=cd,once=d"], &["order=", "order=x", "order=cd,twice=d"]),
            (vga, &["std", "qxl"], &["voodoo"]),
            (ip, &["::1", "1.1.1.1"], &["dns", "1.1.1"]),
            (namespace, &["com.example"], &["", "a b", "é"]),
            (interface, &["net0", "net12"], &["eth0", "net", "net-1", "net99999"]),
            (nic_tag, &["admin", "a_1/2"], &["", "a-1", "tagtagtagtagtagtagtagtagtagtagtagtag"]),
            (nic_ip, &["10.0.0.2/24", "dhcp", "addrconf", "fd00::2/64"], &["10.0.0.2", "10.0.0.2/33", "x"]),
            (gateway, &["10.0.0.1"], &["fd00::1", ""]),
            (
                allowed_ip,
                &["1.1.1.1", "1.1.1.1/1", "1.1.1.1/32", "::1", "fd00::/128"],
                &[
                    "1.1.1.1/36",
                    "1.1.1.1/0",
                    "1.1.1.1/-3",
                    "1.1.1.1/",
                    "::/129",
                    "::/0",
                    "::/-5",
                    "::/",
                    "::/+5",
                ],
            ),
            (dhcp_cid, &["0x01ff"], &["1234", "0x", "0x1", "0xzz"]),
            (
                guest_block_size,
                &["512", "512/4096", "4096/4096", "2097152"],
                &["500", "512/", "4096/x", "4096/512", "4194304", "+512", "0512", "512,x=1"],
            ),
            (device_path, &["/devices/pci@0,0"], &["/notdevices/x"]),
            (bootrom, &["bios", "uefi", "/usr/share/x.fd"], &["", "UEFI", "/x/../y", "x.fd"]),
            (
                machine_type,
                &["pc-i440fx-7.2", "pc-q35-10.0"],
                &["pc", "q35", "pc-q35-", "pc-q35-7", "pc-q35-7.2x", "microvm"],
            ),
            (
                pci_slot,
                &["5", "4:1", "0:4:7", "+4", "04"],
                &["foo", "4:0:0:0", "256:0:0", "-1:0:0", "4:32:0", "4:0:8"],
            ),
        ];
        for (form, good, bad) in cases {
            for text in *good {
                assert_eq!(form(text), Ok(()), "{text}");
            }
            for text in *bad {
                assert!(form(text).is_err(), "{text}");
            }
        }
    }
}
