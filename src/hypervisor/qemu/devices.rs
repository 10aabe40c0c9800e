//! What disks and interfaces of both brands have in common.

use std::{collections::BTreeSet, fs::File};

use super::{
    super::{Drive, HypervisorError, Nic, NicBackend, Tuning},
    builder::{Bootable, Builder},
};
use crate::spec::{Brand, DiskModel, Media, NicModel, PciSlot, disk::drive_name};

/// Returns the device of a disk model.
pub(super) fn disk_device(model: DiskModel, media: Media) -> &'static str {
    match (model, media) {
        (DiskModel::Virtio, _) => "virtio-blk-pci",
        (DiskModel::Nvme, _) => "nvme",
        (DiskModel::Scsi, Media::Disk) => "scsi-hd",
        (DiskModel::Scsi, Media::Cdrom) => "scsi-cd",
        (DiskModel::Ide | DiskModel::Ahci, Media::Disk) => "ide-hd",
        (DiskModel::Ide | DiskModel::Ahci, Media::Cdrom) => "ide-cd",
    }
}

/// Returns the device of an interface model.
pub(super) fn nic_device(model: NicModel) -> &'static str {
    match model {
        NicModel::Virtio => "virtio-net-pci",
        NicModel::E1000 => "e1000",
        NicModel::Rtl8139 => "rtl8139",
    }
}

/// Returns the slots that devices keep for life.
pub(super) fn taken_slots(drives: &[Drive], nics: &[Nic]) -> BTreeSet<PciSlot> {
    let disks = drives.iter().map(|drive| &drive.place);
    disks.chain(nics.iter().map(|nic| &nic.place)).filter_map(|place| place.slot).collect()
}

/// The error for a drive of the other brand's model, which no checked machine has.
pub(super) fn no_such_model(brand: Brand, model: DiskModel) -> HypervisorError {
    HypervisorError::Plan(format!("brand {} has no {} disks", brand.as_str(), model.as_str()))
}

/// A drive whose block node is there.
pub(super) struct Attached {
    /// The device's.
    pub(super) id: String,
    pub(super) kind: Bootable,
    /// Its driver.
    pub(super) device: &'static str,
    /// `,drive=…,id=…,serial=…`
    pub(super) arguments: String,
}

/// Makes the block node of a drive.
pub(super) fn attach(b: &mut Builder, drive: &mut Drive) -> Attached {
    let cd = drive.media == Media::Cdrom;
    let id = drive_name(drive.place.number);
    let node = format!("disk{}", drive.place.number);
    let medium = match drive.file.take() {
        Some(file) => {
            match drive.image.take() {
                Some(image) => b.overlay(&node, file, image),
                None => b.node(&node, file, cd),
            }
            format!(",drive={node}")
        }
        None => String::new(),
    };
    let first = drive.boot;
    let kind = if cd { Bootable::Cd { first } } else { Bootable::Disk { first } };
    let serial = drive.place.serial.as_ref().map(|serial| format!(",serial={serial}")).unwrap_or_default();
    let device = disk_device(drive.model, drive.media);
    Attached { arguments: format!("{medium},id={id}{serial}"), id, kind, device }
}

/// The disk that describes the VM to the guest.
pub(super) fn seed(b: &mut Builder, disk: File, address: &str) {
    b.node("seed", disk, true);
    b.option("-device", format!("virtio-blk-pci,{address},drive=seed,id=seed,serial=cidata"));
}

/// Interfaces, each where `place` finds its address. KVM can use vhost.
pub(super) fn nics(
    b: &mut Builder,
    nics: Vec<Nic>,
    tuning: &Tuning,
    is_kvm: bool,
    place: impl Fn(&mut Builder, Option<PciSlot>) -> Result<String, HypervisorError>,
) -> Result<(), HypervisorError> {
    for each in nics {
        let address = place(b, each.place.slot)?;
        nic(b, each, &address, tuning, is_kvm);
    }
    Ok(())
}

fn nic(b: &mut Builder, nic: Nic, address: &str, tuning: &Tuning, is_kvm: bool) {
    let index = nic.place.number;
    let mtu = match nic.backend {
        NicBackend::Hub => {
            b.option("-netdev", format!("hubport,id=net{index},hubid={index}"));
            String::new()
        }
        NicBackend::Tap { tap, vhost, mtu } => {
            let tap = b.descriptor(tap);
            let vhost = vhost.filter(|_| is_kvm).map(|vhost| b.descriptor(vhost));
            let vhost = vhost.map(|vhost| format!(",vhost=on,vhostfd={vhost}")).unwrap_or_default();
            b.option("-netdev", format!("tap,id=net{index},fd={tap}{vhost}"));
            format!(",host_mtu={mtu}")
        }
    };
    let model = nic_device(nic.model);
    let held_back = match nic.model {
        NicModel::Virtio => mtu + &held_back(tuning),
        NicModel::E1000 | NicModel::Rtl8139 => String::new(),
    };
    let id = format!("nic{index}");
    let device = format!("{model},{address},netdev=net{index},mac={},id={id}{held_back}", nic.mac);
    b.bootable(&id, Bootable::Nic, device);
}

/// Returns how a virtio interface batches packets, if configured.
fn held_back(tuning: &Tuning) -> String {
    let timer = tuning.virtio_txtimer.map(|nanos| format!(",tx=timer,x-txtimer={nanos}"));
    let burst = tuning.virtio_txburst.map(|packets| format!(",x-txburst={packets}"));
    timer.unwrap_or_default() + &burst.unwrap_or_default()
}
