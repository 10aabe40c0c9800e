//! qcow2 files of `qemu-img`.

use std::{fs, path::Path, process::Command};

use super::{
    super::fault::{Fault, FaultKind},
    digest, to_new_file,
};

/// A raw disk with some data, and what `qemu-img` makes of it.
fn made(folder: &Path, arguments: &[&str]) -> Option<(String, Vec<u8>)> {
    let mut raw = vec![0; 3 << 20];
    raw[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (index, byte) in raw[1 << 20..(1 << 20) + 100_000].iter_mut().enumerate() {
        *byte = u8::try_from(index * index % 251).unwrap();
    }
    fs::write(folder.join("raw"), &raw).unwrap();
    let made = Command::new("qemu-img")
        .arg("convert")
        .args(["-f", "raw", "-O", "qcow2"])
        .args(arguments)
        .args([folder.join("raw"), folder.join("qcow2")])
        .output();
    let Ok(made) = made else {
        crate::ignored::ignore("qemu-img is not installed");
        return None;
    };
    assert!(made.status.success(), "{made:?}");
    let raw = fs::File::open(folder.join("raw")).unwrap();
    Some((digest(&raw), fs::read(folder.join("qcow2")).unwrap()))
}

#[test]
fn what_qemu_img_makes_is_read() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &[][..],
        &["-c"],
        &["-o", "compat=0.10"],
        &["-o", "cluster_size=512"],
        &["-o", "cluster_size=2M"],
        &["-o", "lazy_refcounts=on"],
        &["-o", "preallocation=metadata"],
    ] {
        let Some((raw, qcow2)) = made(folder.path(), arguments) else { return };
        let (converted, disk) =
            to_new_file(&qcow2).unwrap_or_else(|fault| panic!("{arguments:?}: {fault:?}"));
        assert_eq!((converted.size, digest(&disk)), (3 << 20, raw.clone()), "{arguments:?}");
        let packed = zstd::encode_all(qcow2.as_slice(), 1).unwrap();
        let (_, disk) = to_new_file(&packed).unwrap();
        assert_eq!(digest(&disk), raw, "packed");
    }
}

#[test]
fn what_is_cut_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&[][..], &["-c"], &["-o", "cluster_size=512"]] {
        let Some((_, qcow2)) = made(folder.path(), arguments) else { return };
        // Half of the file, and without its last cluster; that one may be short.
        for end in [qcow2.len() / 2, qcow2.len() - (66 << 10)] {
            let fault = to_new_file(&qcow2[..end]).expect_err(&format!("{arguments:?} {end}"));
            assert!(
                matches!(fault.kind, FaultKind::Truncated | FaultKind::BadRecord),
                "{arguments:?}: {fault}"
            );
        }
    }
}

#[test]
fn what_is_hidden_in_little_is_a_bomb() {
    use std::io::Write as _;
    let folder = tempfile::tempdir().unwrap();
    let Some((_, plain)) = made(folder.path(), &[]) else { return };
    let mut bomb = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::new(9));
    bomb.write_all(&plain[..1 << 16]).unwrap();
    for _ in 0..600 {
        bomb.write_all(&[b'A'; 1 << 20]).unwrap();
    }
    let fault = to_new_file(&bomb.finish().unwrap()).unwrap_err();
    assert_eq!(fault.kind, FaultKind::TooLarge, "{fault}");
    // Nothing is copied of a file whose header is refused.
    let mut encrypted = plain;
    encrypted[35] = 1;
    encrypted.truncate(1 << 12);
    let packed = zstd::encode_all(encrypted.as_slice(), 1).unwrap();
    assert_eq!(to_new_file(&packed).unwrap_err().kind, FaultKind::Encrypted);
}

#[test]
fn what_refers_to_other_files_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_, plain)) = made(folder.path(), &[]) else { return };
    let refused = |content: &[u8]| -> Fault { to_new_file(content).unwrap_err() };
    let with = |at: usize, bytes: &[u8]| {
        let mut content = plain.clone();
        content[at..at + bytes.len()].copy_from_slice(bytes);
        refused(&content)
    };
    assert_eq!(with(8, &600_u64.to_be_bytes()).kind, FaultKind::External, "a backing file");
    assert_eq!(with(72, &4_u64.to_be_bytes()).kind, FaultKind::External, "a data file");
    assert_eq!(with(32, &1_u32.to_be_bytes()).kind, FaultKind::Encrypted);
    assert_eq!(with(72, &2_u64.to_be_bytes()).kind, FaultKind::BadRecord, "corrupt");
    assert_eq!(with(72, &(1_u64 << 60).to_be_bytes()).kind, FaultKind::Unsupported);
    assert_eq!(with(24, &(1_u64 << 60).to_be_bytes()).kind, FaultKind::TooLarge);
    assert_eq!(with(24, &0_u64.to_be_bytes()).kind, FaultKind::BadRecord);
    assert_eq!(with(20, &40_u32.to_be_bytes()).kind, FaultKind::BadRecord, "clusters");
    assert_eq!(with(4, &9_u32.to_be_bytes()).kind, FaultKind::Unsupported, "a version");
    let Some((_, zstd)) = made(folder.path(), &["-c", "-o", "compression_type=zstd"]) else { return };
    assert!(refused(&zstd).to_string().contains("zstd"));
}
