//! A spec's disks and interfaces as open ones.

use std::{fs::File, io, path::Path};

use super::Platform;
use crate::{
    hypervisor::{Drive, Firmware, Hypervisor, HypervisorError, Nic, NicBackend, Tuning, drive_name},
    layout::VmLayout,
    metadata::seed,
    network::{LinkError, Links, Plug, Wiring},
    spec::{
        BootDevice, BootOptions, BootOrder, Bootrom, DiskModel, DiskSpec, Media, NicModel, NicSpec, VmSpec,
        forms::boot_order as boot_order_of,
    },
    storage::{StorageError, ZoneRoot, write_seed},
    store::{CdDrive, VmRecord},
};

/// A disk or CD, as a boot attaches it.
struct Attached {
    disk: DiskSpec,
    model: DiskModel,
    media: Media,
    boot: bool,
}

/// The VM's own, then those of this boot only: in the order of their drives.
fn attached(spec: &VmSpec, options: &BootOptions) -> Vec<Attached> {
    let own = |disk: &DiskSpec| Attached {
        model: disk.model(),
        media: disk.media,
        boot: disk.boot,
        disk: disk.clone(),
    };
    let of_boot = |device: &BootDevice| {
        let own = spec.disks.iter().find(|disk| disk.path.as_deref() == Some(device.path.as_str()));
        let asked = DiskSpec { path: Some(device.path.clone()), nocreate: true, ..DiskSpec::default() };
        let disk = own.filter(|disk| disk.is_made_here()).cloned().unwrap_or(asked);
        Attached { disk, model: device.model, media: device.media, boot: false }
    };
    spec.disks.iter().map(own).chain(options.devices.iter().map(of_boot)).collect()
}

/// The CD drives of a machine that is booted so.
#[must_use]
pub fn cd_drives(spec: &VmSpec, options: &BootOptions) -> Vec<CdDrive> {
    let cd = |(index, attached): (usize, Attached)| {
        let path = attached.disk.path.filter(|_| attached.media == Media::Cdrom)?;
        Some(CdDrive { id: drive_name(index), path })
    };
    attached(spec, options).into_iter().enumerate().filter_map(cd).collect()
}

/// Opens the disks and CDs of a boot.
pub(super) fn open_drives(
    platform: &Platform,
    spec: &VmSpec,
    layout: &VmLayout,
    options: &BootOptions,
) -> Result<Vec<Drive>, StorageError> {
    let root = ZoneRoot::open(&layout.root())?;
    attached(spec, options).into_iter().map(|attached| open_disk(platform, &root, attached)).collect()
}

/// A disk that the agent made lies outside the zone's root; any other one is looked up inside it.
fn open_disk(platform: &Platform, root: &ZoneRoot, attached: Attached) -> Result<Drive, StorageError> {
    let Attached { disk, model, media, boot } = attached;
    let path = disk.path.clone().unwrap_or_default();
    let writable = media == Media::Disk;
    let file = if disk.is_made_here() {
        platform.volumes.open(Path::new(&path), writable)
    } else {
        root.open_file(&path, writable)
    };
    let file = file.map_err(|error| match error {
        StorageError::Missing { .. } => StorageError::Missing { what: format!("disk: {path}") },
        other => other,
    })?;
    Ok(Drive { file, model, media, boot, path })
}

/// The disk that tells a guest about itself which asks for one.
pub(super) fn open_seed(vm: &VmRecord, layout: &VmLayout) -> io::Result<Option<File>> {
    let path = layout.seed();
    if let Some(files) = seed::files(vm.uuid, &vm.spec) {
        return write_seed(&path, &files).map(Some);
    }
    // One that was asked for once.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(None),
    }
}

pub(super) fn open_firmware(
    hypervisor: &dyn Hypervisor,
    spec: &VmSpec,
    layout: &VmLayout,
) -> Result<Firmware, HypervisorError> {
    match spec.bootrom() {
        Bootrom::Bios => Ok(Firmware::Bios),
        Bootrom::Uefi => hypervisor.open_uefi(&layout.efi_vars()),
    }
}

/// What to boot from: the options of this boot, else the VM's own order.
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

/// What operators said in the hypervisor's own words.
pub(super) fn tuning(spec: &VmSpec) -> Tuning {
    Tuning {
        cpu_type: spec.cpu_type.clone(),
        vga: spec.vga.clone(),
        virtio_txtimer: spec.virtio_txtimer,
        virtio_txburst: spec.virtio_txburst,
        options: spec.qemu_opts.clone(),
        extra_options: spec.qemu_extra_opts.clone(),
        vnc_password: spec.vnc_password.clone(),
    }
}

pub(super) async fn plug_nics(links: &dyn Links, wiring: &Wiring) -> Result<Vec<Nic>, LinkError> {
    let plugs = links.plug(wiring).await?;
    let plugged = |(nic, plug): (&NicSpec, Plug)| {
        let backend = match plug {
            Plug::Isolated => NicBackend::Hub,
            Plug::Tap { tap, vhost, mtu } => NicBackend::Tap { tap, vhost, mtu },
        };
        Some(Nic { mac: nic.mac?, model: nic.model.unwrap_or(NicModel::Virtio), backend })
    };
    Ok(wiring.nics.iter().zip(plugs).filter_map(plugged).collect())
}
