//! Disks and CDs.

use serde::{Deserialize, Serialize};

/// One entry of `disks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// Boot from this one first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub boot: bool,
    /// How the guest sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<DiskModel>,
    /// MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i32>,
    /// On the host for a disk that the agent made, inside the zone's root for other ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Disk or CD.
    #[serde(default)]
    pub media: Media,
    /// The file exists; attach it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nocreate: bool,
}

impl DiskSpec {
    /// Whether the agent makes (and removes) the file behind the disk.
    #[must_use]
    pub fn is_made_here(&self) -> bool {
        self.media == Media::Disk && !self.nocreate
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
        }
    }

    /// The model of that name, or vmadm's words for why there is none.
    pub fn parse(name: &str) -> Result<Self, String> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, m)| *m).ok_or_else(|| {
            format!("\"{name}\" is not a valid disk model for kvm brand. Valid are: virtio,scsi,ide")
        })
    }
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
