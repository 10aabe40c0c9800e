//! The machine of brand bhyve, as SmartOS lays it out on the PCI bus:
//!
//! ```text
//!   0   host bridge              4    disks, the boot disk first     30   screen, tablet
//!   3   CDs                      6    interfaces, the primary first  31   LPC
//! ```
//!
//! A disk's `pci_slot` names any other place, also on another bus.

use std::{
    collections::BTreeSet,
    ops::{Range, RangeInclusive},
};

use serde_json::Value;

use super::lowest_of;
use crate::spec::{DiskSpec, Media, Note, PciSlot, Violation, VmSpec};

/// Of CDs.
const CDS: PciSlot = PciSlot::device(3);
/// Of disks.
const DISKS: PciSlot = PciSlot::device(4);
/// Of interfaces.
const NICS: PciSlot = PciSlot::device(6);
/// Devices of bus 0 that are not for disks.
const RESERVED: [u8; 4] = [0, 6, 30, 31];
/// Functions of a device.
const FUNCTIONS: u8 = 8;
/// Other buses that disks may be on.
pub const MAX_BUSES: usize = 8;
/// Devices of bus 0 for disks, and from the upper end for bridges to other buses and disks of one boot.
pub const DEVICES: Range<u8> = 1..30;
/// The device of cloud-init's seed, if it is free; else the seed takes the highest free one.
pub const SEED: PciSlot = PciSlot::device(5);

/// Gives disks without a `pci_slot` one, as SmartOS does, and interfaces their functions. A device keeps its place,
/// except that the primary interface is always function 0.
pub(super) fn assign(spec: &mut VmSpec) {
    let mut taken: BTreeSet<PciSlot> = spec.disks.iter().filter_map(|disk| disk.pci_slot).collect();
    let boot = spec.disks.iter().position(|disk| disk.boot && disk.media == Media::Disk);
    let order = boot.into_iter().chain((0..spec.disks.len()).filter(|index| Some(*index) != boot));
    for index in order.collect::<Vec<_>>() {
        let disk = &mut spec.disks[index];
        disk.pci_slot = disk.pci_slot.or_else(|| take(device_of(disk), &mut taken));
        if let Some(place) = &mut disk.place {
            place.slot = disk.pci_slot;
        }
    }
    assign_nics(spec);
}

fn device_of(disk: &DiskSpec) -> PciSlot {
    if disk.media == Media::Cdrom { CDS } else { DISKS }
}

fn take(device: PciSlot, taken: &mut BTreeSet<PciSlot>) -> Option<PciSlot> {
    let slot =
        (0..FUNCTIONS).map(|function| device.with_function(function)).find(|slot| !taken.contains(slot))?;
    taken.insert(slot);
    Some(slot)
}

fn assign_nics(spec: &mut VmSpec) {
    let primary = super::super::primary(&spec.nics);
    let function = |place: &super::Place| place.slot.map(|slot| slot.function);
    let before = primary.and_then(|primary| function(spec.nics[primary].place.as_ref()?));
    for (index, nic) in spec.nics.iter_mut().enumerate() {
        let Some(place) = &mut nic.place else { continue };
        if Some(index) == primary {
            place.slot = Some(NICS);
        } else if place.slot == Some(NICS) {
            // It was the primary one, and goes where the new one was.
            place.slot = before.filter(|function| *function > 0).map(|function| NICS.with_function(function));
        }
    }
    let mut taken: BTreeSet<u8> = spec.nics.iter().filter_map(|nic| function(nic.place.as_ref()?)).collect();
    for place in
        spec.nics.iter_mut().filter_map(|nic| nic.place.as_mut()).filter(|place| place.slot.is_none())
    {
        let free = lowest_of(0..FUNCTIONS, &taken);
        taken.extend(free);
        place.slot = free.map(|function| NICS.with_function(function));
    }
}

/// Returns why devices can't be where a machine says, in SmartOS's words.
pub(in crate::spec) fn violations(spec: &VmSpec) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut taken: Vec<(usize, PciSlot)> = Vec::new();
    for (index, disk) in spec.disks.iter().enumerate() {
        let Some(slot) = disk.pci_slot else { continue };
        let at = format!("disks.{index}.pci_slot");
        if slot.bus == 0 && RESERVED.contains(&slot.device) {
            let why = format!("pci_slot \"{slot}\" invalid: PCI device {} is reserved", slot.device);
            found.push(Violation::value(at.clone(), why));
        }
        if let Some((other, _)) = taken.iter().find(|(_, other)| *other == slot) {
            let why =
                format!("VM has multiple disks in pci_slot \"{slot}\": disks.{other} and disks.{index}");
            found.push(Violation::value(at, why));
        }
        taken.push((index, slot));
    }
    found.extend(passed_through(spec, &taken));
    let buses: BTreeSet<u8> = taken.iter().map(|(_, slot)| slot.bus).filter(|bus| *bus > 0).collect();
    if buses.len() > MAX_BUSES {
        let why = format!("disks on {} other buses are over the limit of {MAX_BUSES}", buses.len());
        found.push(Violation::value("disks", why));
    }
    found.extend(too_many(spec, &taken));
    found
}

/// The rules of devices of the host.
fn passed_through(spec: &VmSpec, disks: &[(usize, PciSlot)]) -> Vec<Violation> {
    let (mut found, mut paths, mut slots) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let devices = spec.other.get("pci_devices").and_then(Value::as_array);
    for (index, device) in devices.into_iter().flatten().enumerate() {
        let at = |name: &str| format!("pci_devices.{index}.{name}");
        match device["path"].as_str() {
            None => found.push(Violation::missing(at("path"), "required: the device, below /devices")),
            Some(path) if !paths.insert(path) => {
                found.push(Violation::value(at("path"), format!("another device has the path {path}")));
            }
            Some(_) => {}
        }
        let Some(slot) = device["pci_slot"].as_str().and_then(|slot| slot.parse::<PciSlot>().ok()) else {
            found.push(Violation::missing(at("pci_slot"), "required: where the guest finds it, like 0:8:0"));
            continue;
        };
        if slot.bus == 0 && RESERVED.contains(&slot.device) {
            let why = format!("pci_slot \"{slot}\" invalid: PCI device {} is reserved", slot.device);
            found.push(Violation::value(at("pci_slot"), why));
        } else if !slots.insert(slot) || disks.iter().any(|(_, taken)| *taken == slot) {
            found.push(Violation::value(at("pci_slot"), format!("pci_slot \"{slot}\" is taken")));
        }
    }
    found
}

fn too_many(spec: &VmSpec, taken: &[(usize, PciSlot)]) -> Vec<Violation> {
    let mut found = Vec::new();
    for (device, media, what) in [(CDS, Media::Cdrom, "cdrom"), (DISKS, Media::Disk, "disk")] {
        let there = taken.iter().filter(|(_, slot)| slot.shares_device(device)).count();
        let more = spec.disks.iter().filter(|disk| disk.media == media && disk.pci_slot.is_none()).count();
        if more > 0 && there + more > FUNCTIONS.into() {
            let why = format!(
                "VM has more than {FUNCTIONS} {what} devices on PCI device {}; give some a pci_slot",
                device.device
            );
            found.push(Violation::value("disks", why));
        }
    }
    if spec.nics.len() > FUNCTIONS.into() {
        let why = format!("VM has more than {FUNCTIONS} interfaces on PCI device {}", NICS.device);
        found.push(Violation::value("nics", why));
    }
    let of_bus_0 = taken.iter().filter(|(_, slot)| slot.bus == 0).map(|(_, slot)| slot.device);
    let to_come = spec.disks.iter().filter(|disk| disk.pci_slot.is_none()).map(|disk| device_of(disk).device);
    let devices: BTreeSet<u8> = of_bus_0.chain(to_come).collect();
    // Beside them stand the interfaces' device and the seed.
    let bridges: usize = bus_runs(taken.iter().map(|(_, slot)| *slot)).iter().map(devices_of_run).sum();
    let room = DEVICES.len().saturating_sub(2 + bridges);
    if devices.len() > room {
        let why = format!(
            "disks are on {} devices of bus 0, and {room} have room beside interfaces, the seed and {bridges} bridges to \
             other buses; put some on functions of one device",
            devices.len()
        );
        found.push(Violation::value("disks", why));
    }
    found
}

/// The buses besides 0, in runs of consecutive numbers.
///
/// Firmware numbers buses in the order in which it finds bridges. A run that begins with 1 hangs on a bridge of bus 0
/// for each bus; any other run hangs on a root bus, which has the number before the run.
#[must_use]
pub fn bus_runs(slots: impl Iterator<Item = PciSlot>) -> Vec<RangeInclusive<u8>> {
    let buses: BTreeSet<u8> = slots.map(|slot| slot.bus).filter(|bus| *bus > 0).collect();
    let mut runs: Vec<RangeInclusive<u8>> = Vec::new();
    for bus in buses {
        match runs.last_mut().filter(|run| *run.end() == bus - 1) {
            Some(run) => *run = *run.start()..=bus,
            None => runs.push(bus..=bus),
        }
    }
    runs
}

/// Devices of bus 0 that a run of buses needs.
fn devices_of_run(run: &RangeInclusive<u8>) -> usize {
    if *run.start() == 1 { run.len() } else { 1 }
}

/// Returns notes on disks that a guest can't find.
pub(in crate::spec) fn notes(spec: &VmSpec) -> impl Iterator<Item = Note> {
    let slots: Vec<(usize, PciSlot)> =
        spec.disks.iter().enumerate().filter_map(|(index, disk)| Some((index, disk.pci_slot?))).collect();
    let will_be_taken =
        |first| spec.disks.iter().any(|disk| disk.pci_slot.is_none() && device_of(disk) == first);
    let is_alone = move |slot: PciSlot, slots: &[(usize, PciSlot)]| {
        let first = slot.with_function(0);
        slot.function > 0 && !will_be_taken(first) && !slots.iter().any(|(_, other)| *other == first)
    };
    let alone: Vec<(usize, PciSlot)> =
        slots.iter().copied().filter(|(_, slot)| is_alone(*slot, &slots)).collect();
    alone.into_iter().map(|(index, slot)| {
        let why = format!("guests find {slot} only if {} has a device", slot.with_function(0));
        Note::new(format!("disks.{index}.pci_slot"), why)
    })
}
