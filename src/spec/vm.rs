//! The machine description.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{DiskModel, DiskSpec, NicModel, NicSpec, PciSlot};

/// The requested machine. `None` means "take the default"; after [`super::defaults::complete`] everything
/// that has a default is filled in.
///
/// Properties that the agent acts on have a field; those that it only keeps are in `other`, with the names
/// and forms of [`super::property::VM`].
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VmSpec {
    /// Names the VM for life.
    pub uuid: Option<Uuid>,
    /// Which hypervisor; required.
    pub brand: Option<Brand>,
    /// A name for people; not unique.
    pub alias: Option<String>,
    /// The guest's host name.
    pub hostname: Option<String>,
    /// MiB.
    pub ram: Option<i32>,
    /// Virtual CPUs.
    pub vcpus: Option<i32>,
    /// The hypervisor's name of a CPU model.
    pub cpu_type: Option<String>,
    /// Percent of one host CPU; 0 is no cap.
    pub cpu_cap: Option<i32>,
    /// Weight against other VMs when CPUs are short.
    pub cpu_shares: Option<i32>,
    /// MiB that the hypervisor may have in all, guest memory included.
    pub max_physical_memory: Option<i32>,
    /// MiB that it may lock.
    pub max_locked_memory: Option<i32>,
    /// MiB of memory and swap together.
    pub max_swap: Option<i32>,
    /// Threads.
    pub max_lwps: Option<i32>,
    /// Weight against other VMs when disks are short.
    pub zfs_io_priority: Option<i32>,
    /// Started at creation; afterwards what the operator wants.
    pub autoboot: Option<bool>,
    /// BIOS or UEFI.
    pub bootrom: Option<Bootrom>,
    /// The hypervisor's machine type, which is the VM's until it is changed.
    pub machine_type: Option<String>,
    /// Boot order, like `order=cd`.
    pub boot: Option<String>,
    /// The graphics adapter.
    pub vga: Option<String>,
    /// The action when the guest panics.
    pub on_panic: Option<String>,
    /// −1 none, 0 picked, else the TCP port.
    pub vnc_port: Option<i32>,
    /// Password for VNC clients.
    pub vnc_password: Option<String>,
    /// Nanoseconds that a virtio interface holds packets back.
    pub virtio_txtimer: Option<i32>,
    /// Packets that a virtio interface sends at once.
    pub virtio_txburst: Option<i32>,
    /// Replaces the tablet.
    pub qemu_opts: Option<String>,
    /// Appended to QEMU's arguments.
    pub qemu_extra_opts: Option<String>,
    /// Model of new disks.
    pub disk_driver: Option<DiskModel>,
    /// Model of new interfaces.
    pub nic_driver: Option<NicModel>,
    /// The VM can't be deleted.
    pub indestructible_zoneroot: Option<bool>,
    /// Its data can't be deleted.
    pub indestructible_delegated: Option<bool>,
    /// Name servers.
    pub resolvers: Vec<String>,
    /// Only requested traffic comes in.
    pub firewall_enabled: Option<bool>,
    /// In the guest's order.
    pub disks: Vec<DiskSpec>,
    /// In the guest's order.
    pub nics: Vec<NicSpec>,
    /// The guest's own.
    pub customer_metadata: FlatObject,
    /// The operators'.
    pub internal_metadata: FlatObject,
    /// Free labels.
    pub tags: FlatObject,
    /// Destination to gateway.
    pub routes: FlatObject,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Which hypervisor the zone holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Brand {
    /// QEMU.
    Kvm,
    /// bhyve, or QEMU in the shape of bhyve's machine.
    Bhyve,
}

impl Brand {
    /// All brands, by name.
    pub const NAMES: &[(&str, Self)] = &[("kvm", Self::Kvm), ("bhyve", Self::Bhyve)];

    /// Its name in a machine JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Bhyve => "bhyve",
        }
    }

    /// vmadm's four letters for the `TYPE` column.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Bhyve => "BHYV",
        }
    }

    /// Begins the names of its machine types, which end in a version.
    #[must_use]
    pub fn machine_family(self) -> &'static str {
        match self {
            Self::Kvm => "pc-i440fx-",
            Self::Bhyve => "pc-q35-",
        }
    }

    /// MiB beyond `ram` that a hypervisor may have, unless `max_physical_memory` says otherwise.
    #[must_use]
    pub fn memory_overhead(self) -> i32 {
        match self {
            Self::Kvm => 1024,
            Self::Bhyve => 1280,
        }
    }
}

/// The firmware.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum Bootrom {
    /// SeaBIOS.
    #[default]
    Bios,
    /// OVMF.
    Uefi,
    /// UEFI code in a file of the host, for brand bhyve.
    File(String),
}

impl Bootrom {
    /// All kinds, by name.
    pub const NAMES: &[(&str, Self)] = &[("bios", Self::Bios), ("uefi", Self::Uefi)];

    /// Where SmartOS has its own, which here is one of the two.
    const ON_SMARTOS: &[(&str, Self)] =
        &[("/usr/share/bhyve/uefi-csm-rom.bin", Self::Bios), ("/usr/share/bhyve/uefi-rom.bin", Self::Uefi)];

    /// Its name in a machine JSON.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
            Self::File(path) => path,
        }
    }

    /// The firmware of this host that it means.
    #[must_use]
    pub fn here(&self) -> &Self {
        let there = Self::ON_SMARTOS.iter().find(|(path, _)| *path == self.as_str());
        there.map_or(self, |(_, firmware)| firmware)
    }
}

impl From<String> for Bootrom {
    fn from(text: String) -> Self {
        let named = Self::NAMES.iter().find(|(name, _)| *name == text);
        named.map_or_else(|| Self::File(text), |(_, firmware)| firmware.clone())
    }
}

impl From<Bootrom> for String {
    fn from(bootrom: Bootrom) -> Self {
        bootrom.as_str().to_owned()
    }
}

/// vmadm's flat object: keys to strings, numbers and booleans.
pub type FlatObject = BTreeMap<String, Scalar>;

/// A value of a [`FlatObject`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// `true`, `false`.
    Bool(bool),
    /// Any JSON number.
    Number(serde_json::Number),
    /// Text.
    Text(String),
}

impl VmSpec {
    /// Default of `ram`, in MiB.
    pub const DEFAULT_RAM: i32 = 256;
    /// Default of `vcpus`.
    pub const DEFAULT_VCPUS: i32 = 1;
    /// Default of `cpu_shares`.
    pub const DEFAULT_CPU_SHARES: i32 = 100;
    /// Default of `max_lwps`.
    pub const DEFAULT_MAX_LWPS: i32 = 2000;
    /// Default of `zfs_io_priority`.
    pub const DEFAULT_ZFS_IO_PRIORITY: i32 = 100;

    /// Memory in MiB, by default [`Self::DEFAULT_RAM`].
    #[must_use]
    pub fn ram(&self) -> i32 {
        self.ram.unwrap_or(Self::DEFAULT_RAM)
    }

    /// Virtual CPUs, by default [`Self::DEFAULT_VCPUS`].
    #[must_use]
    pub fn vcpus(&self) -> i32 {
        self.vcpus.unwrap_or(Self::DEFAULT_VCPUS)
    }

    /// Whether creation boots the VM; by default yes.
    #[must_use]
    pub fn autoboot(&self) -> bool {
        self.autoboot.unwrap_or(true)
    }

    /// The firmware, by default BIOS.
    #[must_use]
    pub fn bootrom(&self) -> &Bootrom {
        self.bootrom.as_ref().map_or(&Bootrom::Bios, Bootrom::here)
    }

    /// Its brand; every checked machine has one.
    #[must_use]
    pub fn brand(&self) -> Brand {
        self.brand.unwrap_or(Brand::Kvm)
    }

    /// Whether the machine has a screen. SmartOS gives a bhyve guest without a VNC port none.
    #[must_use]
    pub fn has_screen(&self) -> bool {
        self.brand != Some(Brand::Bhyve) || self.vnc_port != Some(-1)
    }

    /// The PCI slots of its devices.
    pub fn slots(&self) -> impl Iterator<Item = PciSlot> {
        let disks = self.disks.iter().filter_map(|disk| disk.place.as_ref());
        let nics = self.nics.iter().filter_map(|nic| nic.place.as_ref());
        disks.chain(nics).filter_map(|place| place.slot)
    }
}
