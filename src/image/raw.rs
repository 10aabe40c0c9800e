//! Raw disks: the bytes as they are. Nothing marks them, so what lies on them must be known.

use std::io::Read;

use super::{
    disk::Disk,
    fault::{Fault, FaultKind},
};

/// What a disk may begin with: place, bytes.
const ON_DISKS: [(usize, &[u8]); 8] = [
    (510, &[0x55, 0xaa]),   // a boot sector or a partition table
    (512, b"EFI PART"),     // GPT
    (4096, b"EFI PART"),    // GPT, of sectors of 4 KiB
    (0x438, &[0x53, 0xef]), // ext2, 3, 4
    (0, b"XFSB"),           // xfs
    (0x8001, b"CD001"),     // an ISO
    (512, b"LABELONE"),     // LVM
    (4086, b"SWAPSPACE2"),  // swap
];

/// Formats that look like nothing else and are not read here, by what they begin with.
const FOREIGN: [(&[u8], &str); 9] = [
    (b"KDMV", "a VMDK disk"),
    (b"# Disk DescriptorFile", "a VMDK description"),
    (b"vhdxfile", "a VHDX disk"),
    (b"conectix", "a VHD disk"),
    (b"<<< ", "a VDI disk"),
    (b"QED\0", "a QED disk"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
];

/// Fails if the content is no disk, as far as its first bytes show.
pub(crate) fn check(head: &[u8]) -> Result<(), Fault> {
    let refuse = |kind, what: String| Err(Fault::new(kind, what));
    if head.starts_with(b"LUKS\xba\xbe") {
        return refuse(FaultKind::Encrypted, "the disk is encrypted (LUKS)".to_owned());
    }
    if let Some((_, name)) = FOREIGN.iter().find(|(magic, _)| head.starts_with(magic)) {
        let what = format!("the content is {name}; give a raw or qcow2 disk, or a ZFS stream of a volume");
        return refuse(FaultKind::UnknownFormat, what);
    }
    if head.is_empty() {
        return refuse(FaultKind::Truncated, "the content is empty".to_owned());
    }
    let is_there = |(at, magic): &(usize, &[u8])| head.get(*at..at + magic.len()) == Some(*magic);
    match ON_DISKS.iter().any(is_there) {
        true => Ok(()),
        false => refuse(
            FaultKind::UnknownFormat,
            "the content is no format that is known: no qcow2, no ZFS stream, and no raw disk with a partition table or a file system; say raw if it is one"
                .to_owned(),
        ),
    }
}

/// Copies a raw disk; returns its bytes.
pub(crate) fn copy(mut content: impl Read, disk: &mut dyn Disk) -> Result<u64, Fault> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        // Full pieces: holes are found in whole blocks only.
        let mut count = 0;
        while count < buffer.len() {
            match content.read(buffer.get_mut(count..).unwrap_or_default()) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::input(&error, at)),
            }
        }
        if count == 0 {
            return Ok(at);
        }
        disk.write(at, buffer.get(..count).unwrap_or_default())?;
        at += count as u64;
    }
}
