//! Where a guest finds its devices: each disk and interface has its place for life.
//!
//! A guest knows its disks by serial number, and names its interfaces after their PCI slots. Neither may
//! depend on a position in a list: removing the second of three disks must not move the third. Each brand
//! lays out its machine in its own way.

pub mod bhyve;
pub mod kvm;

use std::{collections::BTreeSet, ops::Range};

use serde::{Deserialize, Serialize};

use super::{Brand, Media, PciSlot, VmSpec};

/// A device's place.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    /// Distinguishes it from others of its kind; the hypervisor's name of the device ends in it.
    pub number: u32,
    /// A disk's serial number, as the guest reads it.
    pub serial: Option<String>,
    /// On a PCI bus; `None` for a device behind a controller.
    pub slot: Option<PciSlot>,
    /// The SCSI target.
    pub target: Option<u8>,
    /// The IDE unit: twice the channel, plus one for the second device.
    pub ide: Option<u8>,
}

/// Assigns unique places to new devices. A device keeps its place, unless its model needs another kind.
pub fn assign(spec: &mut VmSpec) {
    number(spec);
    match spec.brand {
        Some(Brand::Bhyve) => bhyve::assign(spec),
        Some(Brand::Kvm) | None => kvm::assign(spec),
    }
}

/// Numbers new devices.
fn number(spec: &mut VmSpec) {
    let places = spec.disks.iter().filter_map(|disk| disk.place.as_ref());
    let mut numbers: BTreeSet<u32> = places.map(|place| place.number).collect();
    for disk in &mut spec.disks {
        // A disk takes the number of its file, unless another device has it.
        let wanted = disk.file_number().filter(|number| !numbers.contains(number));
        let media = disk.media;
        disk.place.get_or_insert_with(|| {
            let number = wanted.unwrap_or_else(|| lowest(&numbers));
            numbers.insert(number);
            of_disk(number, media)
        });
    }
    let places = spec.nics.iter().filter_map(|nic| nic.place.as_ref());
    let mut numbers: BTreeSet<u32> = places.map(|place| place.number).collect();
    for nic in &mut spec.nics {
        nic.place.get_or_insert_with(|| {
            let number = lowest(&numbers);
            numbers.insert(number);
            Place { number, ..Place::default() }
        });
    }
}

fn of_disk(number: u32, media: Media) -> Place {
    let serial = (media == Media::Disk).then(|| format!("disk{number}"));
    Place { number, serial, ..Place::default() }
}

/// The lowest number that is not taken.
fn lowest(taken: &BTreeSet<u32>) -> u32 {
    (0..).find(|number| !taken.contains(number)).unwrap_or_default()
}

fn lowest_of(mut all: Range<u8>, taken: &BTreeSet<u8>) -> Option<u8> {
    all.find(|number| !taken.contains(number))
}

/// Assigns places to the devices of an older agent's machine: to one without any by its positions, as before
/// places existed; `seed` is whether a seed disk stood between disks and interfaces. Devices behind controllers
/// get the addresses that their order gave them.
pub fn assign_as_before(spec: &mut VmSpec, seed: bool) {
    let known = spec.disks.iter().any(|disk| disk.place.is_some());
    if !known && spec.nics.iter().all(|nic| nic.place.is_none()) {
        for (number, disk) in (0..).zip(&mut spec.disks) {
            disk.place = Some(of_disk(number, disk.media));
        }
        for (number, nic) in (0..).zip(&mut spec.nics) {
            nic.place = Some(Place { number, ..Place::default() });
        }
        kvm::assign_as_before(spec, seed);
    }
    assign(spec);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::{DiskModel, DiskSpec, NicSpec};

    fn disk(model: DiskModel) -> DiskSpec {
        DiskSpec { model: Some(model), size: Some(1), ..DiskSpec::default() }
    }

    fn places(spec: &VmSpec) -> Vec<(u32, Option<u8>)> {
        let disks = spec.disks.iter().filter_map(|disk| disk.place.as_ref());
        let nics = spec.nics.iter().filter_map(|nic| nic.place.as_ref());
        disks.chain(nics).map(|place| (place.number, place.slot.map(|slot| slot.device))).collect()
    }

    #[test]
    fn nothing_moves_when_something_goes_or_comes() {
        let mut spec = VmSpec {
            disks: vec![disk(DiskModel::Virtio), disk(DiskModel::Virtio), disk(DiskModel::Virtio)],
            nics: vec![NicSpec::default()],
            ..VmSpec::default()
        };
        assign(&mut spec);
        assert_eq!(places(&spec), [(0, Some(5)), (1, Some(6)), (2, Some(7)), (0, Some(8))]);
        let third = spec.disks[2].clone();
        spec.disks.remove(1);
        assign(&mut spec);
        assert_eq!(spec.disks[1], third);
        spec.disks.extend([disk(DiskModel::Virtio), disk(DiskModel::Ide)]);
        assign(&mut spec);
        assert_eq!(places(&spec), [(0, Some(5)), (2, Some(7)), (1, Some(6)), (3, None), (0, Some(8))]);
        assert_eq!(spec.disks[1].place.as_ref().unwrap().serial.as_deref(), Some("disk2"));
        spec.disks[0].model = Some(DiskModel::Scsi);
        spec.disks[3].model = Some(DiskModel::Virtio);
        assign(&mut spec);
        assert_eq!(places(&spec)[0], (0, None));
        assert_eq!(places(&spec)[3], (3, Some(5)));
    }

    #[test]
    fn old_machines_keep_what_they_have() {
        let cd = DiskSpec { media: Media::Cdrom, model: Some(DiskModel::Ide), ..DiskSpec::default() };
        let mut spec = VmSpec {
            disks: vec![disk(DiskModel::Virtio), cd, disk(DiskModel::Virtio)],
            nics: vec![NicSpec::default(), NicSpec::default()],
            ..VmSpec::default()
        };
        let mut with_seed = spec.clone();
        assign_as_before(&mut spec, false);
        assert_eq!(places(&spec), [(0, Some(5)), (1, None), (2, Some(6)), (0, Some(7)), (1, Some(8))]);
        let serials: Vec<_> =
            spec.disks.iter().map(|disk| disk.place.as_ref().unwrap().serial.as_deref()).collect();
        assert_eq!(serials, [Some("disk0"), None, Some("disk2")]);
        assign_as_before(&mut with_seed, true);
        assert_eq!(places(&with_seed)[3..], [(0, Some(8)), (1, Some(9))]);
        let before = spec.clone();
        assign_as_before(&mut spec, true);
        assert_eq!(spec, before, "once");
    }

    #[derive(Clone, Debug)]
    enum Step {
        AddDisk(bool),
        AddNic,
        RemoveDisk(usize),
        RemoveNic(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            any::<bool>().prop_map(Step::AddDisk),
            Just(Step::AddNic),
            (0..12_usize).prop_map(Step::RemoveDisk),
            (0..12_usize).prop_map(Step::RemoveNic),
        ]
    }

    proptest! {
        /// Whatever comes and goes: what stays does not move, and no two are in one place.
        #[test]
        fn places_are_for_life(steps in prop::collection::vec(step(), 0..60)) {
            let mut spec = VmSpec::default();
            for step in steps {
                let before = spec.clone();
                match step {
                    Step::AddDisk(virtio) if spec.disks.len() < 12 => {
                        spec.disks.push(disk(if virtio { DiskModel::Virtio } else { DiskModel::Scsi }));
                    }
                    Step::AddNic if spec.nics.len() < 12 => spec.nics.push(NicSpec::default()),
                    Step::RemoveDisk(index) if index < spec.disks.len() => drop(spec.disks.remove(index)),
                    Step::RemoveNic(index) if index < spec.nics.len() => drop(spec.nics.remove(index)),
                    _ => {}
                }
                assign(&mut spec);
                for disk in spec.disks.iter().take(before.disks.len()) {
                    prop_assert!(before.disks.iter().any(|old| old.place == disk.place));
                }
                let all = places(&spec);
                let slots: Vec<u8> = all.iter().filter_map(|(_, slot)| *slot).collect();
                prop_assert_eq!(slots.iter().collect::<BTreeSet<_>>().len(), slots.len());
                let numbers: BTreeSet<u32> = spec.disks.iter().map(|d| d.place.as_ref().unwrap().number).collect();
                prop_assert_eq!(numbers.len(), spec.disks.len());
            }
        }
    }
}
