//! Disks and CDs.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Brand;

/// One entry of `disks`. What the agent only keeps is in `other`.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskSpec {
    /// On the host for a disk that the agent made, inside the zone's root for other ones.
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
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl DiskSpec {
    /// Whether the agent makes (and removes) the file behind the disk.
    #[must_use]
    pub fn is_made_here(&self) -> bool {
        self.media == Media::Disk && !self.nocreate
    }

    /// What its file is called, wherever the zone lies.
    #[must_use]
    pub fn file_name(&self) -> Option<&str> {
        Path::new(self.path.as_deref()?).file_name()?.to_str()
    }

    /// How the guest sees it; virtio unless said otherwise.
    #[must_use]
    pub fn model(&self) -> DiskModel {
        self.model.unwrap_or(DiskModel::Virtio)
    }
}

/// What the guest sees.
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
    /// All models of the kvm brand, by name.
    pub const NAMES: &[(&str, Self)] = &[("virtio", Self::Virtio), ("scsi", Self::Scsi), ("ide", Self::Ide)];

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

    /// Those that a brand has.
    #[must_use]
    pub fn of(brand: Brand) -> &'static [Self] {
        match brand {
            Brand::Kvm => &[Self::Virtio, Self::Scsi, Self::Ide],
            Brand::Bhyve => &[Self::Virtio, Self::Ahci, Self::Nvme],
        }
    }

    /// The model of the kvm brand of that name, or vmadm's words for why there is none.
    pub fn parse(name: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, m)| *m);
        found.ok_or_else(|| not_valid(name, Brand::Kvm))
    }

    /// vmadm's words for a model that a brand does not have; none when it has it.
    #[must_use]
    pub fn fault(self, brand: Brand) -> Option<String> {
        (!Self::of(brand).contains(&self)).then(|| not_valid(self.as_str(), brand))
    }
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
