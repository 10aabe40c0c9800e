//! The machine of brand bhyve: QEMU's `q35`, with the devices that SmartOS gives a bhyve guest, where it gives them.
//!
//! ```text
//!   bus 0, device  0  host bridge                   6   interfaces, the primary is function 0
//!                  3  CDs                           30  screen, and xHCI with the tablet
//!                  4  disks, the boot disk first    31  LPC: serial ports, keyboard
//! ```
//!
//! An ahci disk is a controller with one port, as bhyve's is. Other devices take the bus from 29 down: disks of one
//! boot, and bridges to the other buses that a `pci_slot` may name. The seed is on device 5.
//!
//! It differs from bhyve's machine: the host bridge says Intel 82G33 instead of i440FX, and the screen, NVMe and xHCI
//! are QEMU's. A guest's panic is not reported, as with bhyve.

use std::fs::File;

use super::{
    super::{Drive, HypervisorError, MachinePlan},
    builder::Builder,
    devices::{self, Attached, attach, no_such_model},
};
use crate::spec::{
    Brand, DiskModel, PciSlot,
    place::bhyve::{DEVICES, SEED, bus_runs},
};

/// No SATA controller and no SMBus of the board's own.
pub(super) const MACHINE_OPTIONS: &str = ",sata=off,smbus=off";

/// The screen with its tablet, unless there is none.
pub(super) fn own_devices(b: &mut Builder, plan: &MachinePlan) {
    if plan.has_screen {
        b.option("-device", "VGA,bus=pcie.0,addr=1e.0,multifunction=on");
        b.option("-device", "qemu-xhci,id=xhci,bus=pcie.0,addr=1e.1");
        b.option("-device", "usb-tablet,bus=xhci.0");
    }
}

/// Adds the buses that disks are on besides the first.
pub(super) fn buses(b: &mut Builder, drives: &[Drive]) -> Result<(), HypervisorError> {
    for run in bus_runs(drives.iter().filter_map(|drive| drive.place.slot)) {
        if *run.start() == 1 {
            // Taken from above: the lowest device is the first bridge.
            let places: Result<Vec<_>, _> = run.clone().map(|_| b.free_device(DEVICES)).collect();
            for (bus, place) in run.zip(places?.into_iter().rev()) {
                b.option("-device", bridge(bus, "pcie.0", place.device));
            }
            continue;
        }
        let number = run.start() - 1;
        let place = place(b, None)?;
        b.option("-device", format!("pxb-pcie,id=root{number},bus_nr={number},{place}"));
        for (bus, device) in run.zip(0..) {
            b.option("-device", bridge(bus, &format!("root{number}"), device));
        }
    }
    Ok(())
}

fn bridge(bus: u8, on: &str, device: u8) -> String {
    format!("pci-bridge,id=bus{bus},bus={on},chassis_nr={bus},shpc=off,addr={device:x}")
}

/// The address of a device, like `bus=pcie.0,addr=4.1`: its own slot, or the highest device that is free. Function 0
/// says whether there are others. Without a bus's name QEMU takes the first that it finds.
pub(super) fn place(b: &mut Builder, own: Option<PciSlot>) -> Result<String, HypervisorError> {
    let slot = own.map_or_else(|| b.free_device(DEVICES), Ok)?;
    let bus = if slot.bus == 0 { "pcie.0".to_owned() } else { format!("bus{}", slot.bus) };
    let shared = if slot.function == 0 && b.is_shared(slot) { ",multifunction=on" } else { "" };
    Ok(format!("bus={bus},addr={:x}.{}{shared}", slot.device, slot.function))
}

/// Disks and CDs.
pub(super) fn drives(b: &mut Builder, drives: Vec<Drive>) -> Result<(), HypervisorError> {
    for mut drive in drives {
        let Attached { id, kind, device, arguments } = attach(b, &mut drive);
        let place = place(b, drive.place.slot)?;
        match drive.model {
            DiskModel::Ahci => {
                b.option("-device", format!("ich9-ahci,id={id}-ahci,{place}"));
                b.bootable(&id, kind, format!("{device},bus={id}-ahci.0{arguments}"));
            }
            DiskModel::Virtio => {
                let sectors = sectors(drive.block_size.as_deref());
                let discard = if drive.notrim { ",discard=off" } else { "" };
                b.bootable(&id, kind, format!("{device},{place}{arguments}{sectors}{discard}"));
            }
            DiskModel::Nvme => {
                // A controller must have a serial number; a CD's drive has none of its own.
                let serial =
                    if drive.place.serial.is_some() { String::new() } else { format!(",serial={id}") };
                b.bootable(&id, kind, format!("{device},{place}{arguments}{serial}"));
            }
            DiskModel::Scsi | DiskModel::Ide => return Err(no_such_model(Brand::Bhyve, drive.model)),
        }
    }
    Ok(())
}

/// `4096`, or `512/4096`: logical and physical.
fn sectors(size: Option<&str>) -> String {
    let Some(size) = size else { return String::new() };
    let (logical, physical) = size.split_once('/').unwrap_or((size, size));
    format!(",logical_block_size={logical},physical_block_size={physical}")
}

/// The disk that describes the VM to the guest.
pub(super) fn seed(b: &mut Builder, disk: File) -> Result<(), HypervisorError> {
    let own = b.take(SEED).then_some(SEED);
    let address = place(b, own)?;
    devices::seed(b, disk, &address);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::{
        hypervisor::{Nic, NicBackend, Tuning, qemu::devices::taken_slots},
        spec::{
            DiskSpec, Mac, Media, NicModel, NicSpec, Place, VmSpec,
            defaults::{self, Host},
            machine_json,
        },
    };

    fn drive(slot: &str, model: DiskModel) -> Drive {
        let place = Place { number: 0, slot: Some(slot.parse().unwrap()), ..Place::default() };
        let path = "/x".to_owned();
        Drive {
            file: None,
            image: None,
            model,
            media: Media::Disk,
            boot: false,
            path,
            place,
            block_size: None,
            notrim: false,
        }
    }

    fn made_of(all: Vec<Drive>) -> Vec<String> {
        let mut b = Builder::new(taken_slots(&all, &[]));
        buses(&mut b, &all).unwrap();
        drives(&mut b, all).unwrap();
        b.arguments.into_iter().filter(|word| word != "-device").collect()
    }

    #[test]
    fn function_0_says_that_there_are_others() {
        let all = ["0:4:0", "0:4:1", "7"].map(|slot| drive(slot, DiskModel::Virtio));
        let found = made_of(all.into());
        let address = |line: &str| line.split_once(",id=").unwrap().0.to_owned();
        let found: Vec<String> = found.iter().map(|line| address(line)).collect();
        let wanted = ["4.0,multifunction=on", "4.1", "7.0"];
        assert_eq!(found, wanted.map(|address| format!("virtio-blk-pci,bus=pcie.0,addr={address}")));
    }

    #[test]
    fn an_ahci_disk_is_a_controller() {
        let found = made_of(vec![drive("0:4:2", DiskModel::Ahci)]);
        assert_eq!(
            found,
            ["ich9-ahci,id=drive0-ahci,bus=pcie.0,addr=4.2", "ide-hd,bus=drive0-ahci.0,id=drive0"]
        );
    }

    #[test]
    fn virtio_disks_have_sectors_and_no_trim() {
        let with = |size: &str| Drive {
            block_size: Some(size.to_owned()),
            notrim: true,
            ..drive("4", DiskModel::Virtio)
        };
        let sizes = |logical, physical| {
            format!(",logical_block_size={logical},physical_block_size={physical},discard=off")
        };
        assert!(made_of(vec![with("4096")])[0].ends_with(&sizes(4096, 4096)));
        assert!(made_of(vec![with("512/4096")])[0].ends_with(&sizes(512, 4096)));
    }

    /// Firmware numbers them as it finds them.
    #[test]
    fn other_buses_get_their_numbers() {
        let all = ["1:0:0", "2:3:1", "9:0:0", "10:0:0"].map(|slot| drive(slot, DiskModel::Virtio));
        let found = made_of(all.into());
        assert_eq!(
            found[..5],
            [
                "pci-bridge,id=bus1,bus=pcie.0,chassis_nr=1,shpc=off,addr=1c",
                "pci-bridge,id=bus2,bus=pcie.0,chassis_nr=2,shpc=off,addr=1d",
                "pxb-pcie,id=root8,bus_nr=8,bus=pcie.0,addr=1b.0",
                "pci-bridge,id=bus9,bus=root8,chassis_nr=9,shpc=off,addr=0",
                "pci-bridge,id=bus10,bus=root8,chassis_nr=10,shpc=off,addr=1",
            ]
        );
        assert!(found[6].starts_with("virtio-blk-pci,bus=bus2,addr=3.1,"), "{found:?}");
    }

    proptest! {
        /// A machine that is accepted has room for all that its boot adds.
        #[test]
        fn what_is_accepted_has_room(slots in prop::collection::btree_set((0..9_u8, 1..30_u8, 0..8_u8), 0..40)) {
            let text = |(bus, device, function): &(u8, u8, u8)| format!("{}:{device}:{function}", u16::from(*bus) * 31);
            let disks: Vec<Value> =
                slots.iter().map(|slot| json!({"size": 5, "model": "virtio", "pci_slot": text(slot)})).collect();
            let nic = json!({"nic_tag": "admin", "model": "virtio", "ip": "dhcp"});
            let machine = json!({"brand": "bhyve", "disks": disks, "nics": [nic]});
            let parsed = machine_json::parse_object(machine.as_object().unwrap().clone());
            if parsed.all_violations().is_empty() {
                let (all, interfaces) = plugged(parsed.spec);
                let mut b = Builder::new(taken_slots(&all, &interfaces));
                buses(&mut b, &all).unwrap();
                seed(&mut b, File::open("/dev/null").unwrap()).unwrap();
                drives(&mut b, all).unwrap();
            }
        }
    }

    /// What SmartOS's own boot hook makes of a zone, and what is made of the same machine here.
    #[test]
    fn devices_are_where_smartos_puts_them() {
        let mut compared = 0;
        for file in ["disk", "net", "rest", "vnc"] {
            let path = format!("{}/tests/smartos-oracle/bhyve/{file}.json", env!("CARGO_MANIFEST_DIR"));
            let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
            for case in file["cases"].as_array().unwrap() {
                let Some(machine) = recorded(case) else { continue };
                let parsed = machine_json::parse_object(machine);
                assert_eq!(parsed.all_violations(), [], "{case}");
                assert_eq!(slots_here(parsed.spec), slots_there(case), "{}", case["name"]);
                compared += 1;
            }
        }
        assert!(compared > 30, "{compared}");
    }

    /// The machine of a recorded zone; `None` for one that SmartOS's vmadm does not make, or this agent refuses.
    fn recorded(case: &Value) -> Option<Map<String, Value>> {
        const OTHERS: [&str; 8] = [
            "disk-slot-one-number-with-junk",
            "disk-slot-reserved-not-checked",
            "disk-slot-clash-not-checked",
            "disk-boot-cdrom",
            "net-ten",
            "extra-opts",
            "vnc-minus-two",
            "disk-boot-1-is-not-true",
        ];
        let name = case["name"].as_str()?;
        let env = |key: String| case["env"][format!("_ZONECFG_{key}")].as_str();
        let indices = |list: &str| env(list.to_owned()).unwrap_or_default().split_whitespace();
        let disk = |index: &str| {
            let get = |key: &str| env(format!("device_{index}_{key}"));
            let mut disk = json!({"model": get("model")?, "boot": get("boot") == Some("true"), "pci_slot": get("pci_slot")});
            match get("media") {
                Some("cdrom") => (disk["media"], disk["path"]) = ("cdrom".into(), "/a.iso".into()),
                // Every disk that is made has its slot; the hook gives older ones another.
                _ if disk["boot"] == false && get("pci_slot").is_none() => return None,
                _ => disk["size"] = 5.into(),
            }
            Some(disk)
        };
        let nic = |index: &str| {
            let number = index.trim_start_matches("net");
            json!({"nic_tag": "admin", "model": "virtio", "ip": "dhcp", "mac": format!("02:00:00:00:00:0{number}"),
                "primary": env(format!("net_{index}_primary")) == Some("true")})
        };
        if OTHERS.contains(&name) {
            return None;
        }
        let disks: Vec<Value> = indices("device_resources").map(disk).collect::<Option<_>>()?;
        let nics: Vec<Value> = indices("net_resources").map(nic).collect();
        json!({"brand": "bhyve", "disks": disks, "nics": nics}).as_object().cloned()
    }

    fn slots_there(case: &Value) -> Vec<String> {
        let words: Vec<&str> =
            case["argv"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        let slots = words.windows(2).filter(|pair| pair[0] == "-s").map(|pair| pair[1]);
        let devices = slots.filter_map(|slot| {
            let (at, device) = slot.split_once(',')?;
            let device = device.split(',').next()?;
            let kind = match device {
                "virtio-blk" => "virtio-blk-pci",
                "virtio-net-viona" => "virtio-net-pci",
                "ahci-hd" | "ahci-cd" => "ich9-ahci",
                "nvme" => "nvme",
                _ => return None,
            };
            Some(format!("{kind} {}", at.parse::<PciSlot>().unwrap()))
        });
        devices.collect()
    }

    /// The drives and interfaces of a machine.
    fn plugged(mut spec: VmSpec) -> (Vec<Drive>, Vec<Nic>) {
        let host = Host {
            overhead: 256,
            disk_path: &|n| format!("/d{n}"),
            new_mac: &|| Mac::local([1; 6]),
            new_uuid: &Uuid::new_v4,
            image: &|_| None,
        };
        defaults::complete(&mut spec, Uuid::nil(), &host);
        let disk = |disk: &DiskSpec| Drive {
            model: disk.model(),
            media: disk.media,
            place: disk.place.clone().unwrap(),
            ..drive("4", DiskModel::Virtio)
        };
        let nic = |nic: &NicSpec| Nic {
            place: nic.place.clone().unwrap(),
            mac: nic.mac.unwrap(),
            model: NicModel::Virtio,
            backend: NicBackend::Hub,
        };
        (spec.disks.iter().map(disk).collect(), spec.nics.iter().map(nic).collect())
    }

    fn slots_here(spec: VmSpec) -> Vec<String> {
        let (all, interfaces) = plugged(spec);
        let mut b = Builder::new(taken_slots(&all, &interfaces));
        buses(&mut b, &all).unwrap();
        drives(&mut b, all).unwrap();
        devices::nics(&mut b, interfaces, &Tuning::default(), false, place).unwrap();
        let slot = |line: &String| {
            let (kind, rest) = line.split_once(',')?;
            let kinds = ["virtio-blk-pci", "virtio-net-pci", "ich9-ahci", "nvme"];
            kinds.contains(&kind).then_some(())?;
            let value = |key: &str| rest.split(',').find_map(|word| word.strip_prefix(key));
            let (device, function) = value("addr=")?.split_once('.')?;
            let bus = value("bus=bus").unwrap_or("0");
            Some(format!("{kind} {bus}:{}:{function}", u8::from_str_radix(device, 16).ok()?))
        };
        b.arguments.iter().filter_map(slot).collect()
    }
}
