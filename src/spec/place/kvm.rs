//! The pc machine of brand kvm: virtio disks and interfaces in PCI slots of their own, scsi disks as targets of one
//! controller, ide disks on two channels.

use std::{collections::BTreeSet, ops::Range};

use super::{Place, lowest_of};
use crate::spec::{DiskModel, PciSlot, VmSpec};

/// PCI slots of a machine's own devices; lower ones are the board's.
pub const SLOTS: Range<u8> = 5..32;
/// Targets of scsi disks.
pub const TARGETS: Range<u8> = 0..64;
/// IDE devices: two on each of two channels.
pub const IDE: Range<u8> = 0..4;

/// Gives new devices the lowest free addresses. A device keeps its own, unless its model changed.
pub(super) fn assign(spec: &mut VmSpec) {
    for disk in &mut spec.disks {
        let model = disk.model();
        let Some(place) = &mut disk.place else { continue };
        place.slot.take_if(|_| matches!(model, DiskModel::Scsi | DiskModel::Ide));
        place.target.take_if(|_| model != DiskModel::Scsi);
        place.ide.take_if(|_| model != DiskModel::Ide);
    }
    let of_disks = |address: fn(&Place) -> Option<u8>| -> BTreeSet<u8> {
        spec.disks.iter().filter_map(|disk| address(disk.place.as_ref()?)).collect()
    };
    let (mut targets, mut ide) = (of_disks(|place| place.target), of_disks(|place| place.ide));
    let mut slots: BTreeSet<u8> = spec.slots().map(|slot| slot.device).collect();
    for disk in &mut spec.disks {
        let model = disk.model();
        let Some(place) = &mut disk.place else { continue };
        match model {
            DiskModel::Scsi => place.target = place.target.or_else(|| take(TARGETS, &mut targets)),
            DiskModel::Ide => place.ide = place.ide.or_else(|| take(IDE, &mut ide)),
            _ => place.slot = place.slot.or_else(|| take(SLOTS, &mut slots).map(PciSlot::device)),
        }
    }
    for place in spec.nics.iter_mut().filter_map(|nic| nic.place.as_mut()) {
        place.slot = place.slot.or_else(|| take(SLOTS, &mut slots).map(PciSlot::device));
    }
}

fn take(all: Range<u8>, taken: &mut BTreeSet<u8>) -> Option<u8> {
    let found = lowest_of(all, taken)?;
    taken.insert(found);
    Some(found)
}

/// Assigns addresses to the devices of an old machine without places, by their positions, as before places existed.
/// `seed` is whether a seed disk stood between disks and interfaces.
pub(super) fn assign_as_before(spec: &mut VmSpec, seed: bool) {
    let mut slots = SLOTS.map(PciSlot::device);
    for disk in &mut spec.disks {
        let is_on_bus = disk.model() == DiskModel::Virtio;
        if let Some(place) = disk.place.as_mut().filter(|_| is_on_bus) {
            place.slot = slots.next();
        }
    }
    if seed {
        slots.next();
    }
    for place in spec.nics.iter_mut().filter_map(|nic| nic.place.as_mut()) {
        place.slot = slots.next();
    }
}
