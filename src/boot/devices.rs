//! Opens a spec's disks and interfaces.

use std::{fs::File, io, path::Path};

use serde_json::Value;

use super::Platform;
use crate::{
    hypervisor::{Drive, Firmware, Hypervisor, HypervisorError, Nic, NicBackend, Tuning},
    layout::VmLayout,
    metadata::seed,
    model::{CdDrive, VmRecord},
    network::{LinkError, Links, Plug, Wiring},
    spec::{
        BootDevice, BootOptions, BootOrder, Brand, DiskModel, DiskSpec, Media, NicModel, NicSpec, Place,
        VmSpec, disk::drive_name, forms::boot_order as boot_order_of, limits::SCREEN_BYTES,
    },
    storage::{StorageError, ZoneRoot, open_image, overlay, take_disk, write_seed},
};

/// A disk or CD, as a boot attaches it.
struct Attached {
    disk: DiskSpec,
    model: DiskModel,
    media: Media,
    boot: bool,
    place: Place,
}

/// Returns the VM's own disks, then those of this boot only, in the order of their drives. An own disk that
/// this boot names is attached once, as the boot says.
fn attached(spec: &VmSpec, options: &BootOptions) -> Vec<Attached> {
    let own = |disk: &DiskSpec| Attached {
        model: disk.model(),
        media: disk.media,
        boot: disk.boot,
        place: disk.place.clone().unwrap_or_default(),
        disk: disk.clone(),
    };
    let numbers = spec.disks.iter().filter_map(|disk| disk.place.as_ref()).map(|place| place.number + 1);
    let first = numbers.max().unwrap_or_default();
    let of_boot = |(number, device): (u32, &BootDevice)| {
        let own = spec.disks.iter().find(|disk| is_named(device, disk));
        let asked = DiskSpec { path: Some(device.path.clone()), nocreate: true, ..DiskSpec::default() };
        let serial = (device.media == Media::Disk).then(|| format!("disk{number}"));
        let of_this_boot = Place { number, serial, ..Place::default() };
        let place = own.and_then(|disk| disk.place.clone()).map(|place| match spec.brand {
            // Every model of bhyve fits every slot; those of kvm need places of their kinds.
            Some(Brand::Bhyve) => place,
            _ => Place { number: place.number, serial: place.serial, ..Place::default() },
        });
        let (disk, place) = (own.cloned().unwrap_or(asked), place.unwrap_or(of_this_boot));
        Attached { disk, model: device.model, media: device.media, boot: false, place }
    };
    let stays = |disk: &&DiskSpec| !options.devices.iter().any(|device| is_named(device, disk));
    spec.disks.iter().filter(stays).map(own).chain((first..).zip(&options.devices).map(of_boot)).collect()
}

/// Returns whether a device of one boot is the VM's own disk.
fn is_named(device: &BootDevice, disk: &DiskSpec) -> bool {
    disk.is_made_here() && device.media == Media::Disk && disk.path.as_ref() == Some(&device.path)
}

/// Returns the CD drives of a machine's boot.
#[must_use]
pub(crate) fn cd_drives(spec: &VmSpec, options: &BootOptions) -> Vec<CdDrive> {
    let cd = |attached: Attached| {
        let is_cd = attached.media == Media::Cdrom;
        let path = attached.disk.path.unwrap_or_default();
        is_cd.then(|| CdDrive { id: drive_name(attached.place.number), path })
    };
    attached(spec, options).into_iter().filter_map(cd).collect()
}

/// Opens the disks and CDs of a boot.
pub(super) fn open_drives(
    platform: &Platform,
    spec: &VmSpec,
    layout: &VmLayout,
    options: &BootOptions,
    unsettled: &[String],
) -> Result<Vec<Drive>, StorageError> {
    let root = ZoneRoot::open(&layout.root())?;
    attached(spec, options)
        .into_iter()
        .map(|attached| open_disk(platform, layout, &root, attached, unsettled))
        .collect()
}

/// Opens a disk: one that the agent created lies outside the zone's root, any other one inside it.
fn open_disk(
    platform: &Platform,
    layout: &VmLayout,
    root: &ZoneRoot,
    attached: Attached,
    unsettled: &[String],
) -> Result<Drive, StorageError> {
    let zone = layout.zonepath();
    let Attached { disk, model, media, boot, place } = attached;
    let path = disk.path.clone().unwrap_or_default();
    let (block_size, notrim) = (disk.guest_block_size.clone(), disk.notrim);
    if path.is_empty() {
        return Ok(Drive { file: None, image: None, model, media, boot, path, place, block_size, notrim });
    }
    let writable = media == Media::Disk;
    let file = if disk.is_made_here() {
        platform.volumes.open(zone, disk.file_name().unwrap_or_default(), writable)
    } else {
        root.open_file(&path, writable)
    };
    let file = file.map_err(|error| match error {
        StorageError::Missing { .. } => StorageError::Missing { what: format!("disk: {path}") },
        other => other,
    })?;
    take_disk(&file, &path, writable)?;
    if disk.is_made_here() {
        holds_no_more(platform, zone, &disk, &file, unsettled)?;
    }
    if !disk.is_made_here() && disk.size.is_some() {
        has_size(&file, &path, disk.mebibytes())?;
    }
    let image = disk.image_uuid.filter(|_| disk.is_overlay());
    let image = image.map(|image| open_image(&layout.image(image))).transpose()?;
    Ok(Drive { file: Some(file), image, model, media, boot, path, place, block_size, notrim })
}

/// Checks that a disk which the agent made holds no more than its size, and cuts it if an update said so and was
/// interrupted.
fn holds_no_more(
    platform: &Platform,
    zone: &Path,
    disk: &DiskSpec,
    file: &File,
    unsettled: &[String],
) -> Result<(), StorageError> {
    let (name, mebibytes) = (disk.file_name().unwrap_or_default(), disk.mebibytes());
    if file.metadata().map_err(StorageError::at(name))?.len() <= most(disk) {
        return Ok(());
    }
    if !disk.is_overlay() && unsettled.iter().any(|pending| pending == name) {
        return platform.volumes.settle(zone, name, mebibytes).map(drop);
    }
    let why = "the file is larger than the disk's size says; give its size, or cut the file";
    Err(StorageError::Unsafe { path: name.to_owned(), why })
}

/// Bytes that the file of a disk may have.
fn most(disk: &DiskSpec) -> u64 {
    let size = disk.mebibytes().saturating_mul(1 << 20);
    if disk.is_overlay() { overlay::most(size) } else { size }
}

/// Checks that a file which the agent did not make is as large as the machine says.
fn has_size(file: &File, path: &str, mebibytes: u64) -> Result<(), StorageError> {
    let found = file.metadata().map_or(0, |metadata| metadata.len());
    // SmartOS rounds volumes up.
    if found.div_ceil(1 << 20) == mebibytes {
        return Ok(());
    }
    let why = "the file is not as large as the disk's size says; give the right one, or none";
    Err(StorageError::Unsafe { path: path.to_owned(), why })
}

/// Writes the seed disk, if the machine asks for one.
pub(super) fn open_seed(vm: &VmRecord, layout: &VmLayout) -> io::Result<Option<File>> {
    let path = layout.seed();
    if let Some(files) = seed::files(vm.uuid, &vm.spec) {
        return write_seed(&path, &files).map(Some);
    }
    // Left from an earlier boot.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(None),
    }
}

/// Bytes of the largest file that the machine may write.
pub(super) fn largest_file(spec: &VmSpec, drives: &[Drive], firmware: Option<&Firmware>) -> u64 {
    let overlays = spec.disks.iter().filter(|disk| disk.is_overlay()).map(most).max().unwrap_or(0);
    let disks = drives.iter().filter(|drive| drive.media == Media::Disk);
    let disks = disks.filter_map(|drive| drive.file.as_ref());
    let variables = match firmware {
        Some(Firmware::Uefi { vars, .. }) => Some(vars),
        _ => None,
    };
    let sizes = disks.chain(variables).filter_map(|file| Some(file.metadata().ok()?.len()));
    sizes.max().unwrap_or(0).max(overlays).max(SCREEN_BYTES)
}

pub(super) fn open_firmware(
    hypervisor: &dyn Hypervisor,
    spec: &VmSpec,
    layout: &VmLayout,
) -> Result<Firmware, HypervisorError> {
    hypervisor.open_firmware(spec.bootrom(), &layout.efi_vars())
}

/// Returns the boot order: from the options of this boot, else the VM's own.
pub(super) fn boot_order(
    spec: &VmSpec,
    options: &BootOptions,
) -> Result<(BootOrder, Option<BootOrder>), String> {
    let (own, own_once) = match &spec.boot {
        Some(text) => boot_order_of(text)?,
        None => (BootOrder::default(), None),
    };
    match (&options.order, &options.once) {
        (None, None) => Ok((own, own_once)),
        (order, once) => Ok((order.clone().unwrap_or(own), once.clone())),
    }
}

/// Returns the operator's hypervisor-specific settings.
pub(super) fn tuning(spec: &VmSpec) -> Tuning {
    Tuning {
        cpu_type: spec.cpu_type.clone(),
        vga: spec.vga.clone(),
        on_panic: spec.on_panic.clone(),
        virtio_txtimer: spec.virtio_txtimer,
        virtio_txburst: spec.virtio_txburst,
        options: spec.qemu_opts.clone(),
        extra_options: spec.qemu_extra_opts.clone(),
        vnc_password: spec.vnc_password.clone(),
    }
}

/// Returns why this host can't boot a machine that it has.
pub(super) async fn fault(hypervisor: &dyn Hypervisor, spec: &VmSpec) -> Option<String> {
    let has_devices =
        spec.other.get("pci_devices").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
    if has_devices {
        let why =
            "this agent passes no devices of the host through; take them from the VM with remove_pci_devices";
        return Some(format!("pci_devices: {why}"));
    }
    let faults: Vec<String> = hypervisor.faults(spec).await.iter().map(ToString::to_string).collect();
    (!faults.is_empty()).then(|| faults.join("; "))
}

pub(super) async fn plug_nics(links: &dyn Links, wiring: &Wiring) -> Result<Vec<Nic>, LinkError> {
    let plugs = links.plug(wiring).await?;
    let plugged = |(nic, plug): (&NicSpec, Plug)| {
        let backend = match plug {
            Plug::Isolated => NicBackend::Hub,
            Plug::Tap { tap, vhost, mtu } => NicBackend::Tap { tap, vhost, mtu },
        };
        let place = nic.place.clone().unwrap_or_default();
        Some(Nic { place, mac: nic.mac?, model: nic.model.unwrap_or(NicModel::Virtio), backend })
    };
    Ok(wiring.nics.iter().zip(plugs).filter_map(plugged).collect())
}
