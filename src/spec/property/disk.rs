//! The properties of a disk. `path` is what an update finds it by.

use super::{Default, Effect, Kind, Property, ZFS, property};
use crate::spec::{forms, validate};

const MIB: &str = "MiB";

/// Of a disk or CD.
#[rustfmt::skip]
pub const DISK: &[Property] = &[
    property("path", Kind::Text(1024), "Where the disk is. Given only with nocreate or for a CD, as a path inside the zone's root; otherwise the agent fills it in.").default(Default::Computed("where the agent makes it")),
    property("size", Kind::Integer(1, validate::MAX_DISK as i64, MIB), "Size of a disk that the agent makes. It changes while the VM is stopped, and shrinks only with dangerous_allow_shrink (bhyve)."),
    property("boot", Kind::Boolean, "Boot from this one first; at most one disk.").default(Default::Value("false")),
    property("media", Kind::Word(&["disk", "cdrom"]), "A disk or a CD.").default(Default::Value("\"disk\"")),
    property("model", Kind::Form(forms::disk_model), "What the guest sees: virtio, scsi or ide (kvm); virtio, ahci or nvme (bhyve).").default(Default::Computed("disk_driver, or the first disk's model, or virtio")),
    property("nocreate", Kind::Boolean, "Attach the file at path instead of making a disk.").fixed().default(Default::Value("false")),
    property("image_uuid", Kind::Uuid, "The image that the disk begins as; imgadm import gets it.").fixed(),
    property("image_size", Kind::Integer(1, validate::MAX_DISK as i64, MIB), "Size of the image, which must be right if it is given.").fixed().default(Default::Computed("the image's")),
    property("image_name", Kind::Text(255), "Name of the image; deprecated.").kvm().effect(Effect::Label),
    property("block_size", Kind::Integer(512, 131_072, "bytes"), "Block size of the volume, a power of two.").fixed().effect(ZFS),
    property("compression", Kind::Word(&["on", "off", "gzip", "gzip-1", "gzip-2", "gzip-3", "gzip-4", "gzip-5", "gzip-6", "gzip-7", "gzip-8", "gzip-9", "lz4", "lzjb", "zle"]), "Compression of the volume.").effect(ZFS),
    property("refreservation", Kind::IntegerOr(0, validate::MAX_DISK as i64, MIB, &["auto"]), "Room kept for the volume.").effect(ZFS),
    property("zpool", Kind::Text(255), "Where the volume is.").fixed().effect(ZFS),
    property("zfs_filesystem", Kind::Text(1024), "The volume's name, in SmartOS's objects.").foreign("\"\""),
    property("uuid", Kind::Uuid, "Identifies the disk.").bhyve().effect(Effect::Label).default(Default::Computed("made by the agent")),
    property("pci_slot", Kind::Form(forms::pci_slot), "Where the guest finds it: device, device:function or bus:device:function.").bhyve().default(Default::Computed("0:4:0 and up, the boot disk first; 0:3:0 and up for CDs")),
    property("guest_block_size", Kind::Form(forms::guest_block_size), "Sector size of a virtio disk that the guest sees: logical, or logical/physical like 512/4096.").bhyve(),
    property("notrim", Kind::Boolean, "The guest can't discard blocks of a virtio disk.").bhyve(),
    property("dangerous_allow_shrink", Kind::Boolean, "The size may become less, and what the disk holds beyond it is lost; not kept.").bhyve().in_updates(),
];
