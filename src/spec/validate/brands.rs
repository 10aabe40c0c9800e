//! What a brand's machine takes: models, slots, firmware.

use super::{MAX_BHYVE_DEVICES, MAX_DEVICES};
use crate::spec::{
    Bootrom, Brand, DiskModel, NicModel, Note, VmSpec,
    place::{bhyve, kvm},
    violation::Violation,
};

pub(super) fn check(out: &mut Vec<Violation>, spec: &VmSpec) {
    let Some(brand) = spec.brand else { return };
    if let Some(fault) = spec.disk_driver.and_then(|model| model.fault(brand)) {
        out.push(Violation::value("disk_driver", fault));
    }
    if brand == Brand::Bhyve && spec.nic_driver.is_some_and(|model| model != NicModel::Virtio) {
        out.push(Violation::value("nic_driver", "bhyve has virtio interfaces alone"));
    }
    if let Some(machine) = spec.machine_type.as_ref().filter(|name| !name.starts_with(brand.machine_family()))
    {
        let why = format!(
            "\"{machine}\" is no machine of brand {}; its machines are called {}VERSION",
            brand.as_str(),
            brand.machine_family()
        );
        out.push(Violation::value("machine_type", why));
    }
    if brand == Brand::Kvm
        && let Some(Bootrom::File(path)) = &spec.bootrom
    {
        out.push(Violation::value(
            "bootrom",
            format!("brand kvm takes no file (\"{path}\"); give bios or uefi"),
        ));
    }
    let most = match brand {
        Brand::Kvm => MAX_DEVICES,
        Brand::Bhyve => MAX_BHYVE_DEVICES,
    };
    let devices = spec.disks.len() + spec.nics.len();
    if devices > most {
        let why = format!("{devices} disks and nics together are over the limit of {most}");
        out.push(Violation::value("disks", why));
    }
    match brand {
        Brand::Kvm => out.extend(behind_controllers(spec)),
        Brand::Bhyve => out.extend(bhyve::violations(spec)),
    }
}

fn behind_controllers(spec: &VmSpec) -> impl Iterator<Item = Violation> {
    [(DiskModel::Ide, kvm::IDE.len()), (DiskModel::Scsi, kvm::TARGETS.len())].into_iter().filter_map(
        |(model, most)| {
            let count = spec.disks.iter().filter(|disk| disk.model == Some(model)).count();
            let why = || format!("{count} {} disks are over the limit of {most}", model.as_str());
            (count > most).then(|| Violation::value("disks", why()))
        },
    )
}

pub(super) fn notes(spec: &VmSpec) -> Vec<Note> {
    if spec.brand != Some(Brand::Bhyve) {
        return Vec::new();
    }
    let mut notes: Vec<Note> = bhyve::notes(spec).collect();
    for (index, disk) in spec.disks.iter().enumerate().filter(|(_, disk)| disk.model() != DiskModel::Virtio) {
        let given = [("guest_block_size", disk.guest_block_size.is_some()), ("notrim", disk.notrim)];
        for (name, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
            let why =
                format!("no effect: only virtio disks have it, and this one is {}", disk.model().as_str());
            notes.push(Note::new(format!("disks.{index}.{name}"), why));
        }
    }
    notes
}
