//! The machine of brand kvm: QEMU's `pc`, as SmartOS's QEMU has it.
//!
//! ```text
//!   PCI slot  0  host bridge          4       random numbers
//!             1  ISA, IDE, USB        5..=31  virtio disks and interfaces from below,
//!             2  screen                       the seed and disks of one boot from above
//!             3  SCSI
//! ```
//!
//! The first serial port is the console, the second the metadata channel, as with the other brand.

use std::fs::File;

use super::{
    super::{Drive, HypervisorError, MachinePlan, Nic, Tuning},
    builder::Builder,
    devices::{Attached, attach, disk_device, nic},
};
use crate::spec::{
    Brand, DiskModel, PciSlot,
    place::kvm::{IDE, SLOTS, TARGETS},
};

/// What the machine has besides disks and interfaces.
pub(super) fn own_devices(b: &mut Builder, plan: &MachinePlan) {
    b.option("-vga", plan.tuning.vga.as_deref().unwrap_or("std"));
    match &plan.tuning.options {
        Some(words) => b.words(words),
        None => {
            b.option("-device", "piix3-usb-uhci,addr=1.2");
            b.option("-device", "usb-tablet");
        }
    }
    b.option("-object", "rng-builtin,id=random");
    b.option("-device", "virtio-rng-pci,rng=random,addr=4");
    b.option("-device", "pvpanic");
    b.option("-action", format!("panic={}", plan.tuning.on_panic.as_deref().unwrap_or("none")));
}

/// Disks and CDs. Those of one boot take what is free from the upper end.
pub(super) fn drives(b: &mut Builder, drives: Vec<Drive>) -> Result<(), HypervisorError> {
    if drives.iter().any(|drive| drive.model == DiskModel::Scsi) {
        b.option("-device", "virtio-scsi-pci,id=scsi,addr=3");
    }
    let mut targets: Vec<u8> = drives.iter().filter_map(|drive| drive.place.target).collect();
    let mut ide: Vec<u8> = drives.iter().filter_map(|drive| drive.place.ide).collect();
    for mut drive in drives {
        let Attached { id, kind, arguments } = attach(b, &mut drive);
        let device = disk_device(Brand::Kvm, drive.model, drive.media).ok_or_else(|| {
            HypervisorError::Plan(format!("the kvm brand has no {} disks", drive.model.as_str()))
        })?;
        let place = drive.place;
        let address = match drive.model {
            DiskModel::Scsi => {
                let target = own_or_last(place.target, TARGETS, &mut targets, "64 scsi")?;
                format!("bus=scsi.0,scsi-id={target},lun=0")
            }
            DiskModel::Ide => {
                let unit = own_or_last(place.ide, IDE, &mut ide, "four ide")?;
                format!("bus=ide.{},unit={}", unit / 2, unit % 2)
            }
            DiskModel::Virtio | DiskModel::Ahci | DiskModel::Nvme => address(slot(b, place.slot)?),
        };
        b.bootable(&id, kind, format!("{device},{address}{arguments}"));
    }
    Ok(())
}

fn own_or_last(
    own: Option<u8>,
    all: std::ops::Range<u8>,
    taken: &mut Vec<u8>,
    most: &str,
) -> Result<u8, HypervisorError> {
    let free = || all.rev().find(|unit| !taken.contains(unit));
    let unit = own
        .or_else(free)
        .ok_or_else(|| HypervisorError::Plan(format!("the machine takes at most {most} disks and CDs")))?;
    taken.push(unit);
    Ok(unit)
}

fn slot(b: &mut Builder, own: Option<PciSlot>) -> Result<PciSlot, HypervisorError> {
    own.map_or_else(|| b.free_device(SLOTS), Ok)
}

fn address(slot: PciSlot) -> String {
    format!("addr={:x}", slot.device)
}

/// The disk that describes the VM to the guest.
pub(super) fn seed(b: &mut Builder, disk: File) -> Result<(), HypervisorError> {
    b.node("seed", disk, true);
    let address = address(b.free_device(SLOTS)?);
    b.option("-device", format!("virtio-blk-pci,{address},drive=seed,id=seed,serial=cidata"));
    Ok(())
}

/// Interfaces.
pub(super) fn nics(
    b: &mut Builder,
    nics: Vec<Nic>,
    tuning: &Tuning,
    kvm: bool,
) -> Result<(), HypervisorError> {
    for each in nics {
        let address = address(slot(b, each.place.slot)?);
        nic(b, each, &address, tuning, kvm);
    }
    Ok(())
}
