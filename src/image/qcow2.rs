//! qcow2, QEMU's own format. Its header is checked here; a library follows its tables.

use std::{fs::File, os::unix::fs::FileExt as _};

use imago::{
    DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder as _, format::access::Mapping, qcow2::Qcow2,
};

use super::{
    disk::{Disk, too_large},
    fault::{Fault, FaultKind},
};
use crate::spec::disk::is_qcow2;

/// Bytes that are copied at once.
const PIECE: u64 = 1 << 20;

/// The bits of a table's entry that are an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Incompatible features, as bits.
mod feature {
    pub(super) const CORRUPT: u64 = 1 << 1;
    pub(super) const EXTERNAL_DATA: u64 = 1 << 2;
    pub(super) const COMPRESSION: u64 = 1 << 3;
    pub(super) const DIRTY: u64 = 1;
}

/// Whether a content is qcow2.
pub(crate) fn is_it(head: &[u8]) -> bool {
    is_qcow2(head)
}

/// What a header says.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    /// Bytes of the disk.
    size: u64,
    /// Bytes of a cluster.
    cluster: u64,
    /// Where the table of tables is.
    tables: u64,
}

/// Copies the disk in a qcow2 file of `length` bytes; returns its bytes.
pub(crate) fn copy(file: File, header: Header, length: u64, disk: &mut dyn Disk) -> Result<u64, Fault> {
    // The last cluster may be short.
    let end = length.next_multiple_of(header.cluster);
    check_tables(&file, header, end)?;
    copy_all(file, disk, header.size, end)
}

/// Fails if a table lies beyond the file's end: its part of the disk would read as zeros.
fn check_tables(file: &File, header: Header, end: u64) -> Result<(), Fault> {
    let count = header.size.div_ceil(header.cluster * (header.cluster / 8));
    let is_inside = |offset: u64, length: u64| offset.checked_add(length).is_some_and(|to| to <= end);
    let mut inside = is_inside(header.tables, count * 8);
    let mut piece = vec![0; 1 << 16];
    let mut at = 0;
    while inside && at < count * 8 {
        let bytes = usize::try_from(count * 8 - at).unwrap_or(piece.len()).min(piece.len());
        let entries = piece.get_mut(..bytes).unwrap_or_default();
        // Zeros at the end of the file are not there.
        entries.fill(0);
        let mut read = 0;
        while let Ok(more @ 1..) =
            file.read_at(entries.get_mut(read..).unwrap_or_default(), header.tables + at + read as u64)
        {
            read += more;
        }
        let offsets = entries.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry) & OFFSET);
        inside = offsets.filter(|offset| *offset != 0).all(|offset| is_inside(offset, header.cluster));
        at += bytes as u64;
    }
    match inside {
        true => Ok(()),
        false => Err(Fault::new(FaultKind::Truncated, "the qcow2 file ends before the tables of its disk")),
    }
}

/// Checks the first bytes of a file.
pub(crate) fn check(header: &[u8], limit: u64) -> Result<Header, Fault> {
    let u32_at =
        |at: usize| header.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
    let u64_at =
        |at: usize| header.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
    let refuse = |kind, what: &str| Err(Fault::new(kind, format!("the qcow2 file {what}")));
    let version = u32_at(4);
    if !(2..=3).contains(&version) {
        return refuse(FaultKind::Unsupported, &format!("has version {version}; 2 and 3 are read"));
    }
    if u64_at(8) != 0 || u32_at(16) != 0 {
        return refuse(FaultKind::External, "has a backing file; make it one file with qemu-img convert");
    }
    if u32_at(32) != 0 {
        return refuse(FaultKind::Encrypted, "is encrypted");
    }
    let features = if version == 3 { u64_at(72) } else { 0 };
    if features & feature::EXTERNAL_DATA != 0 {
        return refuse(
            FaultKind::External,
            "keeps its data in another file; make it one file with qemu-img convert",
        );
    }
    if features & feature::CORRUPT != 0 {
        return refuse(FaultKind::BadRecord, "is marked as corrupt; try qemu-img check -r all");
    }
    if features & feature::COMPRESSION != 0 {
        return refuse(
            FaultKind::Unsupported,
            "is compressed with zstd; qemu-img convert -c makes one that is read here",
        );
    }
    if features & feature::DIRTY != 0 {
        return refuse(FaultKind::BadRecord, "was not closed; qemu-img check -r all makes it whole");
    }
    if features != 0 {
        let bit = features.trailing_zeros();
        return refuse(FaultKind::Unsupported, &format!("has feature {bit}, which is not read here"));
    }
    let (bits, size) = (u32_at(20), u64_at(24));
    if !(9..=21).contains(&bits) {
        return refuse(FaultKind::BadRecord, &format!("has clusters of 2^{bits} bytes"));
    }
    if size == 0 {
        return refuse(FaultKind::BadRecord, "holds a disk of 0 bytes");
    }
    if size > limit {
        return Err(too_large(limit));
    }
    Ok(Header { size, cluster: 1 << bits, tables: u64_at(40) })
}

/// Copies the disk of a file that ends at `file_end`.
fn copy_all(file: File, disk: &mut dyn Disk, size: u64, file_end: u64) -> Result<u64, Fault> {
    let damaged = |error: std::io::Error| {
        let kind = match error.kind() {
            std::io::ErrorKind::Unsupported => FaultKind::Unsupported,
            _ => FaultKind::BadRecord,
        };
        Fault::new(kind, format!("the qcow2 file is damaged or needs what is not read here: {error}"))
    };
    let storage = imago::file::File::try_from(file).map_err(|error| Fault::host(&error))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().build().map_err(|error| Fault::host(&error))?;
    runtime.block_on(async {
        let builder = Qcow2::<imago::file::File>::builder(storage).backing(None).data_file(None);
        let qcow2 = builder.open(DenyImplicitOpenGate::default()).await.map_err(damaged)?;
        let access = FormatAccess::new(qcow2);
        let mut buffer = Vec::new();
        let mut at = 0;
        while at < size {
            let (mapping, length) = access.get_mapping(at, size - at).await.map_err(damaged)?;
            if length == 0 {
                return Err(Fault::at(FaultKind::BadRecord, at, "the qcow2 file ends before its disk"));
            }
            let is_data = !matches!(mapping, Mapping::Zero { .. });
            if let Mapping::Raw { offset, .. } = mapping
                && offset.saturating_add(length) > file_end
            {
                return Err(Fault::at(
                    FaultKind::Truncated,
                    at,
                    "the qcow2 file ends before the data of its disk",
                ));
            }
            let end = at + length.min(size - at);
            while is_data && at < end {
                let piece = usize::try_from((end - at).min(PIECE)).unwrap_or_default();
                buffer.resize(piece, 0);
                access.read(buffer.as_mut_slice(), at).await.map_err(damaged)?;
                disk.write(at, &buffer)?;
                at += piece as u64;
            }
            at = end;
        }
        Ok(size)
    })
}
