//! The plan of a machine: everything that it consists of, open.

use std::{fs::File, os::fd::OwnedFd};

use uuid::Uuid;

use crate::spec::{BootOrder, Bootrom, DiskModel, Mac, Media, NicModel, Place};

/// A machine with every resource open.
#[derive(Debug)]
pub struct MachinePlan {
    /// Its name, and its SMBIOS identity.
    pub uuid: Uuid,
    /// MiB.
    pub ram: i32,
    /// Virtual CPUs.
    pub vcpus: i32,
    /// The hypervisor's names and numbers, as operators gave them.
    pub tuning: Tuning,
    /// With UEFI, the open code and variables.
    pub firmware: Firmware,
    /// In the guest's order; those of one boot only are last.
    pub drives: Vec<Drive>,
    /// A disk that tells the guest about itself, which it can't write and does not boot from.
    pub seed: Option<File>,
    /// In the guest's order.
    pub nics: Vec<Nic>,
    /// What to boot from, from the second boot of the guest on.
    pub order: BootOrder,
    /// What to boot from first, when that differs.
    pub once: Option<BootOrder>,
    /// The order is not the usual one: somebody asked for it.
    pub order_is_given: bool,
    /// The listening control socket.
    pub control: OwnedFd,
    /// The listening socket behind the guest's second serial port.
    pub metadata: OwnedFd,
}

/// What operators may say in the hypervisor's own words. Where they say nothing it has defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// CPU model.
    pub cpu_type: Option<String>,
    /// Graphics adapter.
    pub vga: Option<String>,
    /// What becomes of a guest that panics, in QEMU's word; by default it goes its own way.
    pub on_panic: Option<String>,
    /// Nanoseconds that a virtio interface holds packets back.
    pub virtio_txtimer: Option<i32>,
    /// Packets that it sends at once.
    pub virtio_txburst: Option<i32>,
    /// Instead of the usual pointer.
    pub options: Option<String>,
    /// Besides all.
    pub extra_options: Option<String>,
    /// Asked of VNC clients.
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

impl Firmware {
    /// Its name in a machine JSON.
    #[must_use]
    pub fn kind(&self) -> Bootrom {
        match self {
            Self::Bios => Bootrom::Bios,
            Self::Uefi { .. } => Bootrom::Uefi,
        }
    }
}

/// An open disk or CD.
#[derive(Debug)]
pub struct Drive {
    /// Open for what the guest may do with it; none is a CD drive without a CD.
    pub file: Option<File>,
    /// How the guest sees it.
    pub model: DiskModel,
    /// Disk or CD.
    pub media: Media,
    /// Boot from it before the other ones of its kind.
    pub boot: bool,
    /// The path that the operator knows it by.
    pub path: String,
    /// Where the guest finds it; of one boot only when it says nothing but a number.
    pub place: Place,
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
