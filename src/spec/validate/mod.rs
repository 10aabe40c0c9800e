//! The rules that span several properties; [`super::property`] has those of single properties. Every
//! violation is reported, not just the first.

mod brands;
mod disks;
mod nics;

use serde_json::Value;

use super::{MAX_PAYLOAD, Note, VmSpec, property::is_block_size, violation::Violation};
pub use disks::zone_path;

/// Largest `ram`, in MiB: 16 TiB.
pub const MAX_RAM: i32 = 16 << 20;
/// Largest `vcpus`: what QEMU's pc machine takes.
pub const MAX_VCPUS: i32 = 255;
/// Largest disk, in MiB: 64 TiB.
pub const MAX_DISK: i32 = 64 << 20;
/// Disks and interfaces of one VM together: of brand kvm, what the slots of its PCI bus take.
pub const MAX_DEVICES: usize = 24;
/// Of brand bhyve, whose devices share slots.
pub const MAX_BHYVE_DEVICES: usize = 64;
/// Largest `cpu_cap`, in percent of one CPU.
pub const MAX_CPU_CAP: i32 = 1_000_000;
/// Largest `cpu_shares`: what illumos takes.
pub const MAX_CPU_SHARES: i32 = 65535;
/// Largest `max_lwps`: as many as Linux has process ids.
pub const MAX_LWPS: i32 = 1 << 22;
/// Largest `zfs_io_priority`: the largest weight that Linux takes.
pub const MAX_ZFS_IO_PRIORITY: i32 = 10_000;
/// Checks a payload for a new machine. [`check_whole`] checks what it leaves open once it is complete.
#[must_use]
pub fn check(spec: &VmSpec) -> Vec<Violation> {
    let mut found = check_whole(spec);
    found.extend(disks::check_given(spec));
    found
}

/// Checks a complete machine: each that is created, changed, or validated for either.
#[must_use]
pub fn check_whole(spec: &VmSpec) -> Vec<Violation> {
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
    brands::check(out, spec);
    disks::check(out, spec);
    nics::check(out, spec);
    nics::routes(out, &spec.routes, &spec.nics);
    for (index, resolver) in spec.resolvers.iter().enumerate() {
        if resolver.parse().is_ok_and(nics::is_nobody) {
            out.push(Violation::value(
                format!("resolvers.{index}"),
                format!("{resolver} is nobody's address"),
            ));
        }
    }
    found
}

/// Every event of a machine contains it, so its open parts (tags, metadata and routes) have a bound: the same
/// when it is created, changed by anybody, or validated for either. One that is already larger may stay as
/// large.
pub fn outgrown(spec: &VmSpec, before: Option<&VmSpec>) -> Option<Violation> {
    fn size(object: &impl serde::Serialize) -> usize {
        serde_json::to_string(object).map_or(0, |text| text.len())
    }
    fn sizes(spec: &VmSpec) -> [(&'static str, usize); 4] {
        [
            ("customer_metadata", size(&spec.customer_metadata)),
            ("internal_metadata", size(&spec.internal_metadata)),
            ("tags", size(&spec.tags)),
            ("routes", size(&spec.routes)),
        ]
    }
    let whole = |spec: &VmSpec| sizes(spec).iter().map(|(_, size)| size).sum::<usize>();
    let now = whole(spec);
    if now <= MAX_PAYLOAD || before.is_some_and(|before| now <= whole(before)) {
        return None;
    }
    let (largest, _) = sizes(spec).into_iter().max_by_key(|(_, size)| *size)?;
    let why =
        format!("metadata, tags and routes would have {now} bytes as JSON together, and 1 MiB is the most");
    Some(Violation::value(largest, why))
}

/// Returns notes that are not errors.
pub fn notes(spec: &VmSpec) -> Vec<Note> {
    nics::notes(&spec.nics).chain(brands::notes(spec)).collect()
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
        let ide = [r#"{"size":1,"model":"ide"}"#; 5].join(",");
        assert_eq!(fields(&format!(r#"{{"brand":"kvm","disks":[{ide}]}}"#)), ["disks"]);
    }
}
