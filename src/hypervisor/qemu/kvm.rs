//! The machine of brand kvm: QEMU's `pc`, as SmartOS's QEMU has it.
//!
//! ```text
//!   PCI slot  0  host bridge          4       random numbers
//!             1  ISA, IDE, USB        5..=31  virtio disks and interfaces from below,
//!             2  screen                       the seed and disks of one boot from above
//!             3  SCSI
//! ```
//!
//! The serial ports are those of the other brand: console and metadata channel.

use std::{fs::File, ops::Range};

use super::{
    super::{Drive, HypervisorError, MachinePlan},
    builder::Builder,
    devices::{self, Attached, attach, no_such_model},
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
        let Attached { id, kind, device, arguments } = attach(b, &mut drive);
        let address = match drive.model {
            DiskModel::Virtio => place(b, drive.place.slot)?,
            DiskModel::Scsi => {
                let target = own_or_last(drive.place.target, TARGETS, &mut targets, "64 scsi")?;
                format!("bus=scsi.0,scsi-id={target},lun=0")
            }
            DiskModel::Ide => {
                let unit = own_or_last(drive.place.ide, IDE, &mut ide, "four ide")?;
                format!("bus=ide.{},unit={}", unit / 2, unit % 2)
            }
            DiskModel::Ahci | DiskModel::Nvme => return Err(no_such_model(Brand::Kvm, drive.model)),
        };
        b.bootable(&id, kind, format!("{device},{address}{arguments}"));
    }
    Ok(())
}

fn own_or_last(
    own: Option<u8>,
    all: Range<u8>,
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

/// The address of a device: its own slot, or the highest that is free.
pub(super) fn place(b: &mut Builder, own: Option<PciSlot>) -> Result<String, HypervisorError> {
    let slot = own.map_or_else(|| b.free_device(SLOTS), Ok)?;
    Ok(format!("addr={:x}", slot.device))
}

/// The disk that describes the VM to the guest.
pub(super) fn seed(b: &mut Builder, disk: File) -> Result<(), HypervisorError> {
    let address = place(b, None)?;
    devices::seed(b, disk, &address);
    Ok(())
}
