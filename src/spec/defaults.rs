//! Fills in what a payload left open, so that the stored machine says everything.

use uuid::Uuid;

use super::{Bootrom, Mac, VmSpec};

/// Completes a valid payload. `overhead` is the MiB that a hypervisor has beyond its guest's memory at
/// least; `random` gives bytes for what has to be made up; `disk_path` names the file of the disk with
/// that index.
pub fn complete(
    spec: &mut VmSpec,
    uuid: Uuid,
    overhead: i32,
    mut random: impl FnMut() -> [u8; 6],
    disk_path: impl Fn(usize) -> String,
) {
    spec.uuid = Some(uuid);
    spec.ram.get_or_insert(VmSpec::DEFAULT_RAM);
    spec.vcpus.get_or_insert(VmSpec::DEFAULT_VCPUS);
    spec.autoboot.get_or_insert(true);
    spec.hostname.get_or_insert_with(|| uuid.to_string());
    spec.bootrom.get_or_insert(Bootrom::Bios);
    spec.vnc_port.get_or_insert(0);
    spec.cpu_shares.get_or_insert(VmSpec::DEFAULT_CPU_SHARES);
    spec.max_lwps.get_or_insert(VmSpec::DEFAULT_MAX_LWPS);
    spec.zfs_io_priority.get_or_insert(VmSpec::DEFAULT_ZFS_IO_PRIORITY);
    complete_memory(spec, overhead);

    let first_model = spec.disks.first().map(super::DiskSpec::model);
    for (index, disk) in spec.disks.iter_mut().enumerate() {
        if disk.model.is_none() {
            disk.model = first_model;
        }
        if disk.is_made_here() {
            disk.path = Some(disk_path(index));
        }
    }
    for nic in &mut spec.nics {
        nic.mac.get_or_insert_with(|| Mac::local(random()));
    }
    if !spec.nics.iter().any(|nic| nic.primary)
        && let Some(first) = spec.nics.first_mut()
    {
        first.primary = true;
    }
}

/// vmadm's rule: locked memory is at most physical memory, which is at most swap, and physical memory
/// holds the guest and what the hypervisor needs for itself.
fn complete_memory(spec: &mut VmSpec, overhead: i32) {
    let ram = spec.ram();
    let usual = ram.saturating_add(spec.brand.map_or(0, super::Brand::memory_overhead).max(overhead));
    let physical = spec.max_physical_memory.unwrap_or(usual).max(ram.saturating_add(overhead));
    spec.max_physical_memory = Some(physical);
    spec.max_locked_memory = Some(spec.max_locked_memory.unwrap_or(physical).min(physical));
    spec.max_swap = Some(spec.max_swap.unwrap_or(physical).max(physical));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{DiskModel, machine_json, validate};

    fn completed(text: &str) -> VmSpec {
        let mut spec = machine_json::parse(text.as_bytes()).unwrap().spec;
        assert_eq!(validate::check(&spec), []);
        complete(&mut spec, Uuid::from_u128(7), 256, || [0xab; 6], |i| format!("/d{i}"));
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
