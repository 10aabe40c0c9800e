//! The plan of a machine, with all of its resources open.

use std::{fs::File, os::fd::OwnedFd};

use uuid::Uuid;

use crate::spec::{BootOrder, DiskModel, Mac, Media, NicModel, Place};

/// A machine with every resource open.
#[derive(Debug)]
pub struct MachinePlan {
    /// Its name, and its SMBIOS identity.
    pub uuid: Uuid,
    /// The machine type; that of the brand's newest machine if there is none.
    pub machine_type: Option<String>,
    /// MiB.
    pub ram: i32,
    /// Virtual CPUs.
    pub vcpus: i32,
    /// The hypervisor's names and numbers, as operators gave them.
    pub tuning: Tuning,
    /// With UEFI, the open code and variables.
    pub firmware: Firmware,
    /// In the guest's order; one-boot devices come last.
    pub drives: Vec<Drive>,
    /// A read-only, non-bootable disk that describes the VM to the guest.
    pub seed: Option<File>,
    /// In the guest's order.
    pub nics: Vec<Nic>,
    /// Boot order from the guest's second boot on.
    pub order: BootOrder,
    /// Boot order of the first boot, when it differs.
    pub once: Option<BootOrder>,
    /// Whether it has a screen; a machine of brand kvm always has.
    pub has_screen: bool,
    /// The caller asked for the order; it is not the default.
    pub order_is_given: bool,
    /// The listening control socket.
    pub control: OwnedFd,
    /// The listening socket behind the guest's second serial port.
    pub metadata: OwnedFd,
}

/// Settings in the hypervisor's own terms. It has defaults for those that operators leave out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// CPU model.
    pub cpu_type: Option<String>,
    /// Graphics adapter.
    pub vga: Option<String>,
    /// QEMU's action for a guest that panics; by default the guest decides.
    pub on_panic: Option<String>,
    /// Nanoseconds that a virtio interface holds packets back.
    pub virtio_txtimer: Option<i32>,
    /// Packets that it sends at once.
    pub virtio_txburst: Option<i32>,
    /// Replaces the usual pointer device.
    pub options: Option<String>,
    /// Added to all.
    pub extra_options: Option<String>,
    /// Password for VNC clients.
    pub vnc_password: Option<String>,
}

/// A medium for a CD drive.
#[derive(Debug)]
pub struct Medium {
    /// Open for reading.
    pub file: File,
}

/// Open firmware.
#[derive(Debug)]
pub enum Firmware {
    /// The hypervisor's own BIOS.
    Bios,
    /// UEFI.
    Uefi {
        /// Read only.
        code: File,
        /// Written by the guest.
        vars: File,
    },
}

/// An open disk or CD.
#[derive(Debug)]
pub struct Drive {
    /// Open for the guest's access; `None` for a CD drive without a CD.
    pub file: Option<File>,
    /// The image below it, open for reading, if the file is a qcow2 overlay and not the disk itself.
    pub image: Option<File>,
    /// How the guest sees it.
    pub model: DiskModel,
    /// Disk or CD.
    pub media: Media,
    /// Boot from it before the other ones of its kind.
    pub boot: bool,
    /// The operator's path of it.
    pub path: String,
    /// Where the guest finds it; a one-boot device has only a number.
    pub place: Place,
    /// Logical and physical sector size, of virtio disks of bhyve.
    pub block_size: Option<String>,
    /// The guest can't discard blocks.
    pub notrim: bool,
}

/// A plugged interface.
#[derive(Debug)]
pub struct Nic {
    /// Where the guest finds it.
    pub place: Place,
    /// Its address.
    pub mac: Mac,
    /// How the guest sees it.
    pub model: NicModel,
    /// What it is plugged into.
    pub backend: NicBackend,
}

/// What an interface is plugged into.
#[derive(Debug)]
pub enum NicBackend {
    /// An empty hub inside the hypervisor.
    Hub,
    /// A tap of the host.
    Tap {
        /// Its descriptor.
        tap: OwnedFd,
        /// The kernel's shortcut to it, of use with KVM.
        vhost: Option<File>,
        /// Largest packet, in bytes.
        mtu: i32,
    },
}
