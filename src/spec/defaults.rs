//! Fills in what a payload left open, so that the stored machine is complete.

use std::fmt;

use ipnet::Ipv4Net;
use serde_json::Value;
use uuid::Uuid;

use super::{
    Brand, DiskModel, DiskSpec, Mac, Media, NicAddress, NicModel, NicSpec, Note, VmSpec, place,
    property::{Default, Property, VM},
};

/// The host's values for what a machine leaves open.
pub struct Host<'a> {
    /// Least MiB of a hypervisor beyond its guest's memory.
    pub overhead: i32,
    /// Names the file of a disk that the agent creates, by number.
    pub disk_path: &'a dyn Fn(usize) -> String,
    /// An address that no other VM of the host has.
    pub new_mac: &'a dyn Fn() -> Mac,
    /// A UUID that nothing else has.
    pub new_uuid: &'a dyn Fn() -> Uuid,
    /// What is known of an image.
    pub image: &'a dyn Fn(Uuid) -> Option<ImageFacts>,
}

/// What a disk takes from its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// MiB.
    pub size: i32,
    /// Its usual model.
    pub model: Option<DiskModel>,
}

impl fmt::Debug for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("overhead", &self.overhead).finish_non_exhaustive()
    }
}

/// Completes a valid payload.
pub fn complete(spec: &mut VmSpec, uuid: Uuid, host: &Host<'_>) {
    spec.uuid = Some(uuid);
    fill_in(spec);
    spec.hostname.get_or_insert_with(|| uuid.to_string());
    complete_memory(spec, host.overhead);
    take_from_images(&mut spec.disks, spec.brand, host);
    complete_disks(&mut spec.disks, &[], spec.disk_driver, host);
    complete_nics(&mut spec.nics, spec.nic_driver, host);
    if !spec.nics.iter().any(|nic| nic.primary)
        && let Some(first) = spec.nics.first_mut()
    {
        first.primary = true;
    }
    name_disks(spec, host);
    place::assign(spec);
}

/// A disk that begins as an image has the image's size, and its model unless another is asked for.
pub(super) fn take_from_images(disks: &mut [DiskSpec], brand: Option<Brand>, host: &Host<'_>) {
    for disk in disks.iter_mut().filter(|disk| disk.is_made_here() && disk.form.is_none()) {
        let Some(facts) = disk.image_uuid.and_then(|image| (host.image)(image)) else { continue };
        let size = *disk.image_size.get_or_insert(facts.size);
        disk.size.get_or_insert(size);
        let fits = |model: &DiskModel| brand.is_none_or(|brand| model.fault(brand).is_none());
        disk.model = disk.model.or(facts.model.filter(fits));
    }
}

/// Disks of bhyve have UUIDs.
pub(super) fn name_disks(spec: &mut VmSpec, host: &Host<'_>) {
    let is_named = spec.brand() == Brand::Bhyve;
    for disk in spec.disks.iter_mut().filter(|disk| is_named && disk.media == Media::Disk) {
        disk.uuid = disk.uuid.or_else(|| Some((host.new_uuid)()));
    }
}

/// A disk without a model takes the driver's, or the first disk's; a new disk gets its own path, which no
/// disk has, nor any of `before`, as those are not removed yet.
pub(super) fn complete_disks(
    disks: &mut [DiskSpec],
    before: &[DiskSpec],
    driver: Option<DiskModel>,
    host: &Host<'_>,
) {
    let model = driver.or(disks.first().map(DiskSpec::model));
    let there = disks.iter().chain(before);
    let paths: Vec<String> = there.clone().filter_map(|disk| disk.path.clone()).collect();
    let numbers: Vec<u32> = there.filter_map(DiskSpec::file_number).collect();
    let is_free = |number: &u32| !numbers.contains(number);
    let free = (0..).filter(is_free).map(|number| (host.disk_path)(number as usize));
    let mut free = free.filter(|path| !paths.contains(path));
    for disk in disks {
        disk.model = disk.model.or(model);
        if disk.is_made_here() && disk.path.is_none() {
            disk.path = free.next();
        }
    }
}

/// An interface without a model takes the driver's, or the first one's; a new one gets an address and a
/// name of its own.
pub(super) fn complete_nics(nics: &mut [NicSpec], driver: Option<NicModel>, host: &Host<'_>) {
    let model = driver.or(nics.iter().find_map(|nic| nic.model));
    let mut macs: Vec<Mac> = nics.iter().filter_map(|nic| nic.mac).collect();
    let mut names: Vec<String> = nics.iter().filter_map(|nic| nic.interface.clone()).collect();
    for nic in nics {
        nic.model = nic.model.or(model);
        nic.mac = nic.mac.or_else(|| nic.vrrp_mac());
        if nic.mac.is_none() {
            // Forty random bits; a few tries are more than enough.
            nic.mac = (0..1000).map(|_| (host.new_mac)()).find(|mac| !macs.contains(mac));
            macs.extend(nic.mac);
        }
        if nic.interface.is_none() {
            let name = (0..).map(|n| format!("net{n}")).find(|name| !names.contains(name));
            names.extend(name.clone());
            nic.interface = name;
        }
        complete_addresses(nic);
    }
}

/// Fills in the defaults from the table of properties for the machine's brand.
fn fill_in(spec: &mut VmSpec) {
    let Ok(Value::Object(mut object)) = serde_json::to_value(&*spec) else { return };
    let brand = spec.brand();
    for property in VM.iter().filter(|property| property.is_for(brand) && !property.is_never_given()) {
        if !object.contains_key(property.name)
            && let Some(value) = default_of(property, brand)
        {
            object.insert(property.name.to_owned(), value);
        }
    }
    if let Ok(filled) = serde_json::from_value(Value::Object(object)) {
        *spec = filled;
    }
}

/// Returns the default of a property from the table.
pub(super) fn default_of(property: &Property, brand: Brand) -> Option<Value> {
    let text = match (property.default, brand) {
        (Default::Value(text), _)
        | (Default::ByBrand(text, _), Brand::Kvm)
        | (Default::ByBrand(_, text), Brand::Bhyve) => text,
        (Default::Absent | Default::Computed(_), _) => return None,
    };
    serde_json::from_str(text).ok()
}

/// Derives `ip`, `netmask` and `gateway` from `ips` and `gateways`, and vice versa.
pub(super) fn complete_addresses(nic: &mut NicSpec) {
    match (nic.ip, nic.netmask) {
        (Some(NicAddress::Static(ip)), Some(mask)) if nic.ips.is_empty() => {
            nic.ips = Ipv4Net::with_netmask(ip, mask).map(|net| net.to_string()).into_iter().collect();
        }
        (Some(NicAddress::Dhcp), _) if nic.ips.is_empty() => nic.ips = vec!["dhcp".to_owned()],
        (None, _) => {
            let net = nic.ips.iter().find_map(|text| text.parse::<Ipv4Net>().ok());
            if let Some(net) = net {
                (nic.ip, nic.netmask) = (Some(NicAddress::Static(net.addr())), Some(net.netmask()));
            } else if nic.ips.iter().any(|text| text == "dhcp") {
                nic.ip = Some(NicAddress::Dhcp);
            }
        }
        _ => {}
    }
    match (nic.gateway, nic.gateways.first()) {
        (Some(gateway), None) => nic.gateways = vec![gateway],
        (None, Some(first)) => nic.gateway = Some(*first),
        _ => {}
    }
}

/// Chooses the successor of a removed primary interface: the first with a public IPv4 address, else the
/// first.
pub(super) fn choose_primary(nics: &mut [NicSpec]) {
    if nics.iter().any(|nic| nic.primary) {
        return;
    }
    let rank = |nic: &NicSpec| match nic.ip {
        Some(NicAddress::Static(ip)) if !ip.is_private() => 0,
        _ => 1,
    };
    // The first of the lowest.
    if let Some(nic) = nics.iter_mut().min_by_key(|nic| rank(nic)) {
        nic.primary = true;
    }
}

/// vmadm's rule: locked memory is at most physical memory, which is at most swap, and physical memory
/// holds the guest and what the hypervisor needs for itself.
pub(super) fn complete_memory(spec: &mut VmSpec, overhead: i32) {
    let ram = spec.ram();
    let usual = ram.saturating_add(spec.brand.map_or(0, super::Brand::memory_overhead).max(overhead));
    let physical = spec.max_physical_memory.unwrap_or(usual).max(ram.saturating_add(overhead));
    spec.max_physical_memory = Some(physical);
    spec.max_locked_memory = Some(spec.max_locked_memory.unwrap_or(physical).min(physical));
    spec.max_swap = Some(spec.max_swap.unwrap_or(physical).max(physical));
}

/// Notes each memory limit that the rules changed from the requested value.
#[must_use]
pub fn adjusted(asked: &VmSpec, whole: &VmSpec) -> Vec<Note> {
    let least = "it holds the guest's ram and what the hypervisor needs for itself";
    let rules = [
        ("max_physical_memory", asked.max_physical_memory, whole.max_physical_memory, least),
        (
            "max_locked_memory",
            asked.max_locked_memory,
            whole.max_locked_memory,
            "it is at most max_physical_memory",
        ),
        ("max_swap", asked.max_swap, whole.max_swap, "it is at least max_physical_memory"),
    ];
    let differs = |(field, asked, is, why): (&str, Option<i32>, Option<i32>, &str)| {
        let (asked, is) = (asked?, is?);
        let word = match asked.cmp(&is) {
            std::cmp::Ordering::Less => "raised",
            std::cmp::Ordering::Greater => "lowered",
            std::cmp::Ordering::Equal => return None,
        };
        Some(Note::new(field, format!("{word} from {asked} to {is} MiB: {why}")))
    };
    rules.into_iter().filter_map(differs).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::spec::{DiskModel, machine_json, validate};

    fn completed(text: &str) -> VmSpec {
        let mut spec = machine_json::parse(text.as_bytes()).unwrap().spec;
        assert_eq!(validate::check(&spec), []);
        let mac = Cell::new(0xab);
        let new_mac = || {
            mac.set(mac.get() + 1);
            Mac::local([mac.get() - 1; 6])
        };
        let host = Host {
            overhead: 256,
            disk_path: &|i| format!("/d{i}"),
            new_mac: &new_mac,
            new_uuid: &Uuid::new_v4,
            image: &|_| None,
        };
        complete(&mut spec, Uuid::from_u128(7), &host);
        spec
    }

    #[test]
    fn defaults_are_vmadms() {
        let spec = completed(r#"{"brand":"kvm"}"#);
        assert_eq!((spec.ram, spec.vcpus, spec.autoboot), (Some(256), Some(1), Some(true)));
        assert_eq!(spec.hostname.as_deref(), Some("00000000-0000-0000-0000-000000000007"));
        assert_eq!(spec.vnc_port, Some(0));
    }

    #[test]
    fn memory_limits_follow_each_other() {
        let limits = |text: &str| {
            let spec = completed(&format!(r#"{{"brand":"kvm",{text}}}"#));
            [spec.max_locked_memory, spec.max_physical_memory, spec.max_swap].map(Option::unwrap)
        };
        assert_eq!(limits(r#""ram":256"#), [1280, 1280, 1280]);
        assert_eq!(limits(r#""ram":2048,"max_physical_memory":2048"#), [2304, 2304, 2304], "raised");
        assert_eq!(limits(r#""ram":256,"max_physical_memory":600,"max_locked_memory":900"#), [600, 600, 600]);
        assert_eq!(limits(r#""ram":256,"max_swap":4096"#), [1280, 1280, 4096]);
        assert_eq!(limits(r#""ram":256,"max_swap":300,"max_locked_memory":100"#), [100, 1280, 1280]);
        assert_eq!(completed(r#"{"brand":"bhyve","ram":256}"#).max_physical_memory, Some(1536));
    }

    #[test]
    fn disks_take_the_first_ones_model_and_get_paths() {
        let spec = completed(
            r#"{"brand":"kvm","disks":[{"model":"ide","size":1},{"size":1},{"media":"cdrom","path":"/x.iso"}]}"#,
        );
        assert!(spec.disks.iter().all(|d| d.model == Some(DiskModel::Ide)));
        let paths: Vec<_> = spec.disks.iter().map(|d| d.path.as_deref().unwrap()).collect();
        assert_eq!(paths, ["/d0", "/d1", "/x.iso"]);
    }

    #[test]
    fn the_first_nic_is_primary_unless_one_says_so() {
        let nic = r#"{"nic_tag":"a","model":"virtio"}"#;
        let primary = r#"{"nic_tag":"a","model":"virtio","primary":true,"mac":"2:0:0:0:0:9"}"#;
        let flags = |text: &str| completed(text).nics.iter().map(|n| n.primary).collect::<Vec<_>>();
        assert_eq!(flags(&format!(r#"{{"brand":"kvm","nics":[{nic},{primary}]}}"#)), [false, true]);
        assert_eq!(flags(&format!(r#"{{"brand":"kvm","nics":[{nic}]}}"#)), [true]);
        let mac = completed(&format!(r#"{{"brand":"kvm","nics":[{nic}]}}"#)).nics[0].mac;
        assert_eq!(mac.unwrap().to_string(), "a2:ab:ab:ab:ab:ab");
    }
}
