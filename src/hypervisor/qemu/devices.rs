//! What disks and interfaces of both brands have in common.

use std::collections::BTreeSet;

use super::{
    super::{Drive, Nic, NicBackend, Tuning},
    builder::{Bootable, Builder},
};
use crate::spec::{Brand, DiskModel, Media, NicModel, PciSlot, disk::drive_name};

/// Returns the device of a disk model; `None` where the brand lacks it.
pub(super) fn disk_device(brand: Brand, model: DiskModel, media: Media) -> Option<&'static str> {
    let cd = media == Media::Cdrom;
    DiskModel::of(brand).contains(&model).then_some(match model {
        DiskModel::Virtio => "virtio-blk-pci",
        DiskModel::Scsi => {
            if cd {
                "scsi-cd"
            } else {
                "scsi-hd"
            }
        }
        DiskModel::Ide | DiskModel::Ahci => {
            if cd {
                "ide-cd"
            } else {
                "ide-hd"
            }
        }
        DiskModel::Nvme => "nvme",
    })
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

/// A drive whose block node is there.
pub(super) struct Attached {
    /// Of the device.
    pub(super) id: String,
    pub(super) kind: Bootable,
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
            b.node(&node, file, cd);
            format!(",drive={node}")
        }
        None => String::new(),
    };
    let first = drive.boot;
    let kind = if cd { Bootable::Cd { first } } else { Bootable::Disk { first } };
    let serial = drive.place.serial.as_ref().map(|serial| format!(",serial={serial}")).unwrap_or_default();
    Attached { arguments: format!("{medium},id={id}{serial}"), id, kind }
}

/// Adds an interface whose place is given by `address`.
pub(super) fn nic(b: &mut Builder, nic: Nic, address: &str, tuning: &Tuning, kvm: bool) {
    let index = nic.place.number;
    let mtu = match nic.backend {
        NicBackend::Hub => {
            b.option("-netdev", format!("hubport,id=net{index},hubid={index}"));
            String::new()
        }
        NicBackend::Tap { tap, vhost, mtu } => {
            let tap = b.descriptor(tap);
            let vhost = vhost.filter(|_| kvm).map(|vhost| b.descriptor(vhost));
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
