//! Disks and interfaces as devices of the pc machine.
//!
//! PCI slots: 0 is the bridge, 1 the PIIX3 with IDE and USB, 2 the screen, 3 SCSI, 4 the random numbers. The
//! machine's own devices take the others from the lower end, one-boot devices from the upper.

use std::collections::BTreeSet;

use super::{
    super::{Drive, HypervisorError, MachinePlan, Nic, NicBackend, Tuning},
    builder::{Bootable, Builder},
};
use crate::spec::{DiskModel, Media, NicModel, disk::drive_name};

/// Returns the device of a disk model; `None` where the brand lacks it.
pub(super) fn disk_device(model: DiskModel, media: Media) -> Option<&'static str> {
    let cd = media == Media::Cdrom;
    match model {
        DiskModel::Virtio => Some("virtio-blk-pci"),
        DiskModel::Scsi => Some(if cd { "scsi-cd" } else { "scsi-hd" }),
        DiskModel::Ide => Some(if cd { "ide-cd" } else { "ide-hd" }),
        DiskModel::Ahci | DiskModel::Nvme => None,
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
pub(super) fn taken_slots(plan: &MachinePlan) -> BTreeSet<u8> {
    let disks = plan.drives.iter().map(|drive| &drive.place);
    disks.chain(plan.nics.iter().map(|nic| &nic.place)).filter_map(|place| place.slot).collect()
}

/// Disks and CDs.
pub(super) fn drives(b: &mut Builder, drives: Vec<Drive>) -> Result<(), HypervisorError> {
    if drives.iter().any(|drive| drive.model == DiskModel::Scsi) {
        b.option("-device", "virtio-scsi-pci,id=scsi,addr=3");
    }
    let mut ide = 0;
    for drive in drives {
        let cd = drive.media == Media::Cdrom;
        let id = drive_name(drive.place.number);
        let node = format!("disk{}", drive.place.number);
        let is_empty = drive.file.is_none();
        if let Some(file) = drive.file {
            b.node(&node, file, cd);
        }
        let first = drive.boot;
        let kind = if cd { Bootable::Cd { first } } else { Bootable::Disk { first } };
        let device = disk_device(drive.model, drive.media).ok_or_else(|| {
            HypervisorError::Plan(format!("the kvm brand has no {} disks", drive.model.as_str()))
        })?;
        let device = match drive.model {
            DiskModel::Virtio => {
                let slot = b.slot(drive.place.slot)?;
                format!("{device},addr={slot:x}")
            }
            // The others are not of this brand, as checked above.
            DiskModel::Scsi | DiskModel::Ahci | DiskModel::Nvme => format!("{device},bus=scsi.0"),
            DiskModel::Ide if ide == 4 => {
                return Err(HypervisorError::Plan(
                    "the machine takes at most four ide disks and CDs".to_owned(),
                ));
            }
            DiskModel::Ide => {
                ide += 1;
                let (bus, unit) = ((ide - 1) / 2, (ide - 1) % 2);
                format!("{device},bus=ide.{bus},unit={unit}")
            }
        };
        let serial = drive.place.serial.map(|serial| format!(",serial={serial}")).unwrap_or_default();
        let medium = if is_empty { String::new() } else { format!(",drive={node}") };
        b.bootable(&id, kind, format!("{device}{medium},id={id}{serial}"));
    }
    Ok(())
}

/// Interfaces.
pub(super) fn nics(
    b: &mut Builder,
    nics: Vec<Nic>,
    tuning: &Tuning,
    kvm: bool,
) -> Result<(), HypervisorError> {
    for nic in nics {
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
        let slot = b.slot(nic.place.slot)?;
        let id = format!("nic{index}");
        b.bootable(
            &id,
            Bootable::Nic,
            format!("{model},addr={slot:x},netdev=net{index},mac={},id={id}{held_back}", nic.mac),
        );
    }
    Ok(())
}

/// Returns how a virtio interface batches packets, if configured.
fn held_back(tuning: &Tuning) -> String {
    let timer = tuning.virtio_txtimer.map(|nanos| format!(",tx=timer,x-txtimer={nanos}"));
    let burst = tuning.virtio_txburst.map(|packets| format!(",x-txburst={packets}"));
    timer.unwrap_or_default() + &burst.unwrap_or_default()
}
