//! An empty qcow2 overlay, written without any program: its guest's changes to an image that it only reads.
//!
//! ```text
//!   cluster 0   header, which names no other file: the hypervisor is told the image by its descriptor
//!           1   refcount table ─▶ 2   refcount block: the clusters here are in use
//!           3…  L1 table, empty: every cluster is the image's
//! ```
//!
//! A guest that owns its hypervisor can rewrite all of it. The agent never reads an overlay again.

use std::{fs::File, io, os::unix::fs::FileExt as _};

/// Bytes of a cluster, QEMU's own default.
const CLUSTER: u64 = 1 << CLUSTER_BITS;
const CLUSTER_BITS: u32 = 16;
/// Bytes that one entry of the L1 table covers.
const L1_COVERS: u64 = CLUSTER * CLUSTER / 8;
/// Bytes of a version 3 header.
const HEADER: u32 = 104;
/// Clusters before the L1 table.
const BEFORE_L1: u64 = 3;

/// Clusters of the L1 table of a disk.
fn l1_clusters(size: u64) -> u64 {
    (size.div_ceil(L1_COVERS) * 8).div_ceil(CLUSTER)
}

/// The most bytes that the overlay of a disk may have: all data, its tables, and some more for what QEMU leaves unused.
#[must_use]
pub(crate) fn most(size: u64) -> u64 {
    let tables = size / (CLUSTER / 8) + size / (CLUSTER / 2);
    size.saturating_add(tables)
        .saturating_add((l1_clusters(size) + BEFORE_L1) * CLUSTER)
        .saturating_add(64 << 20)
}

/// Writes an empty overlay for a disk of `size` bytes.
pub(crate) fn write(file: &File, size: u64) -> io::Result<()> {
    let l1 = l1_clusters(size);
    let clusters = BEFORE_L1 + l1;
    let mut header = Vec::with_capacity(HEADER as usize);
    header.extend_from_slice(b"QFI\xfb");
    header.extend_from_slice(&3_u32.to_be_bytes());
    // No backing file.
    header.extend_from_slice(&0_u64.to_be_bytes());
    header.extend_from_slice(&0_u32.to_be_bytes());
    header.extend_from_slice(&CLUSTER_BITS.to_be_bytes());
    header.extend_from_slice(&size.to_be_bytes());
    // No encryption.
    header.extend_from_slice(&0_u32.to_be_bytes());
    let entries = u32::try_from(size.div_ceil(L1_COVERS)).map_err(io::Error::other)?;
    header.extend_from_slice(&entries.to_be_bytes());
    header.extend_from_slice(&(BEFORE_L1 * CLUSTER).to_be_bytes());
    header.extend_from_slice(&CLUSTER.to_be_bytes());
    header.extend_from_slice(&1_u32.to_be_bytes());
    // No snapshots; no features.
    header.resize(96, 0);
    // Refcounts of 16 bits.
    header.extend_from_slice(&4_u32.to_be_bytes());
    header.extend_from_slice(&HEADER.to_be_bytes());
    file.set_len(clusters * CLUSTER)?;
    file.write_all_at(&header, 0)?;
    file.write_all_at(&(2 * CLUSTER).to_be_bytes(), CLUSTER)?;
    let counts: Vec<u8> = (0..clusters).flat_map(|_| 1_u16.to_be_bytes()).collect();
    file.write_all_at(&counts, 2 * CLUSTER)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// QEMU's own tool finds nothing to complain of.
    #[test]
    fn qemu_reads_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        for size in [512_u64, 1 << 20, 40 << 30, (1 << 40) + 512, 64 << 40] {
            let path = dir.path().join("overlay");
            let file = File::create(&path).unwrap();
            write(&file, size).unwrap();
            let length = file.metadata().unwrap().len();
            assert!(length <= most(size) && length <= 8 << 20, "{length}");
            let Ok(checked) = Command::new("qemu-img").args(["check", "--output=json"]).arg(&path).output()
            else {
                return crate::ignored::ignore("qemu-img is not installed");
            };
            assert!(checked.status.success(), "{size}: {checked:?}");
            let found = Command::new("qemu-img").args(["info", "--output=json"]).arg(&path).output().unwrap();
            let info: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
            assert_eq!(
                (info["virtual-size"].as_u64(), info["backing-filename"].is_null()),
                (Some(size), true)
            );
        }
    }
}
