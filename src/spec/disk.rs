//! Disks and CDs.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use serde_with::DisplayFromStr;
use uuid::Uuid;

use super::{Brand, PciSlot, Place};

/// One entry of `disks`. `other` holds what the agent only keeps.
#[serde_with::serde_as]
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskSpec {
    /// On the host for the agent's own disks, inside the zone's root for others.
    pub path: Option<String>,
    /// MiB.
    pub size: Option<i32>,
    /// Boot from this one first.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub boot: bool,
    /// Disk or CD.
    pub media: Media,
    /// How the guest sees it.
    pub model: Option<DiskModel>,
    /// The file exists; attach it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub nocreate: bool,
    /// Identifies the disk; each of bhyve has one.
    pub uuid: Option<Uuid>,
    /// Where the guest finds a disk of bhyve.
    #[serde_as(as = "Option<DisplayFromStr>")]
    pub pci_slot: Option<PciSlot>,
    /// Sector sizes that a guest of bhyve sees: logical, or logical/physical.
    pub guest_block_size: Option<String>,
    /// A guest of bhyve can't discard blocks.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub notrim: bool,
    /// The image that the disk begins as.
    pub image_uuid: Option<Uuid>,
    /// MiB of the image.
    pub image_size: Option<i32>,
    /// How the file of a disk that began as an image holds it.
    pub form: Option<DiskForm>,
    /// Where the guest finds it, for life.
    pub place: Option<Place>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl DiskSpec {
    /// Whether the agent creates (and removes) the file behind the disk.
    #[must_use]
    pub fn is_made_here(&self) -> bool {
        self.media == Media::Disk && !self.nocreate
    }

    /// Returns its file name without the folder.
    #[must_use]
    pub fn file_name(&self) -> Option<&str> {
        Path::new(self.path.as_deref()?).file_name()?.to_str()
    }

    /// Returns the number in its file name, if the agent created it.
    #[must_use]
    pub fn file_number(&self) -> Option<u32> {
        self.file_name().filter(|_| self.is_made_here()).and_then(disk_number)
    }

    /// Returns the hypervisor's name of its drive, by which people may also change its medium.
    #[must_use]
    pub fn drive(&self) -> Option<String> {
        self.place.as_ref().map(|place| drive_name(place.number))
    }

    /// The name of its file as agents make it now, where an earlier one gave it another: `disk0` of `disk0.raw`.
    #[must_use]
    pub fn present_name(&self) -> Option<String> {
        let name = self.file_name().filter(|_| self.is_made_here())?;
        let present = name.strip_suffix(".raw")?;
        disk_number(present).map(|_| present.to_owned())
    }

    /// Whether its changes are in an overlay over its image.
    #[must_use]
    pub fn is_overlay(&self) -> bool {
        self.form == Some(DiskForm::Overlay)
    }

    /// Returns its size in MiB; 0 if unspecified.
    #[must_use]
    pub fn mebibytes(&self) -> u64 {
        u64::try_from(self.size.unwrap_or_default()).unwrap_or_default()
    }

    /// Returns its model; virtio by default.
    #[must_use]
    pub fn model(&self) -> DiskModel {
        self.model.unwrap_or(DiskModel::Virtio)
    }
}

/// How the file of a disk that began as an image holds its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskForm {
    /// A raw file that shares unchanged blocks with the image.
    Reflink,
    /// A qcow2 overlay with the changes; the rest is read from the image.
    Overlay,
}

impl DiskForm {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reflink => "reflink",
            Self::Overlay => "overlay",
        }
    }
}

/// A device model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskModel {
    /// Virtio block device; a CD of this model is a read-only one.
    Virtio,
    /// Behind a virtio SCSI controller.
    Scsi,
    /// IDE, at most four of them.
    Ide,
    /// AHCI, of bhyve.
    Ahci,
    /// NVMe, of bhyve.
    Nvme,
}

impl DiskModel {
    /// All models, by name; not every brand has each.
    pub const NAMES: &[(&str, Self)] = &[
        ("virtio", Self::Virtio),
        ("scsi", Self::Scsi),
        ("ide", Self::Ide),
        ("ahci", Self::Ahci),
        ("nvme", Self::Nvme),
    ];

    /// Its name in a machine JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::Scsi => "scsi",
            Self::Ide => "ide",
            Self::Ahci => "ahci",
            Self::Nvme => "nvme",
        }
    }

    /// Returns a brand's models.
    #[must_use]
    pub fn of(brand: Brand) -> &'static [Self] {
        match brand {
            Brand::Kvm => &[Self::Virtio, Self::Scsi, Self::Ide],
            Brand::Bhyve => &[Self::Virtio, Self::Ahci, Self::Nvme],
        }
    }

    /// Parses a model by name, with vmadm's error if none exists.
    pub fn parse(name: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, m)| *m);
        let names = || Self::NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        found.ok_or_else(|| format!("\"{name}\" is not a disk model; there are: {}", names()))
    }

    /// The model of that name which a brand has.
    pub fn parse_for(name: &str, brand: Brand) -> Result<Self, String> {
        Self::parse(name)
            .ok()
            .filter(|model| model.fault(brand).is_none())
            .ok_or_else(|| not_valid(name, brand))
    }

    /// Returns vmadm's error for a model that a brand lacks; `None` if it has it.
    #[must_use]
    pub fn fault(self, brand: Brand) -> Option<String> {
        (!Self::of(brand).contains(&self)).then(|| not_valid(self.as_str(), brand))
    }
}

/// Returns the hypervisor's name of drive `number`.
#[must_use]
pub fn drive_name(number: u32) -> String {
    format!("drive{number}")
}

/// Returns the number in a disk's file name: `disk0`, or `disk0.raw` of earlier agents.
#[must_use]
pub fn disk_number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("disk")?;
    let digits = digits.strip_suffix(".raw").unwrap_or(digits);
    digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))
}

fn not_valid(name: &str, brand: Brand) -> String {
    let valid: Vec<&str> = DiskModel::of(brand).iter().map(|model| model.as_str()).collect();
    let brand = brand.as_str();
    format!("\"{name}\" is not a valid disk model for {brand} brand. Valid are: {}", valid.join(","))
}

/// Disk or CD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Media {
    /// Read and write.
    #[default]
    Disk,
    /// Read only.
    Cdrom,
}

impl Media {
    /// All media, by name.
    pub const NAMES: &[(&str, Self)] = &[("disk", Self::Disk), ("cdrom", Self::Cdrom)];

    /// Its name in a machine JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Cdrom => "cdrom",
        }
    }
}

/// Whether a file that begins with `head` is a qcow2 image, QEMU's default container format.
#[must_use]
pub fn is_qcow2(head: &[u8]) -> bool {
    head.starts_with(b"QFI\xfb")
}
