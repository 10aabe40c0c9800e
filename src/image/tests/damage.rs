//! Containers, and damaged content: an error of a kind, never a panic and never more than the limit.

use std::fs;

use proptest::prelude::*;

use super::{
    super::{container::Container, convert::Conversion, convert::Format, fault::FaultKind},
    LIMIT, digest, to_file, to_new_file,
};

fn disk() -> Vec<u8> {
    let mut raw: Vec<u8> = (0..300_000_u64).map(|n| u8::try_from(n * n % 253).unwrap()).collect();
    raw[510..512].copy_from_slice(&[0x55, 0xaa]);
    raw.resize(1 << 20, 0);
    raw
}

fn packed(raw: &[u8]) -> Vec<(Container, Vec<u8>)> {
    use std::io::Read as _;
    let all = |mut packer: Box<dyn std::io::Read + '_>| {
        let mut packed = Vec::new();
        packer.read_to_end(&mut packed).unwrap();
        packed
    };
    vec![
        (Container::None, raw.to_vec()),
        (Container::Gzip, all(Box::new(flate2::read::GzEncoder::new(raw, flate2::Compression::fast())))),
        (Container::Bzip2, all(Box::new(bzip2::read::BzEncoder::new(raw, bzip2::Compression::fast())))),
        (Container::Xz, all(Box::new(liblzma::read::XzEncoder::new(raw, 1)))),
        (Container::Zstd, zstd::encode_all(raw, 1).unwrap()),
    ]
}

#[test]
fn each_container_and_its_parts_are_unpacked() {
    let raw = disk();
    let halves = raw.split_at(200_000);
    for ((container, first), (_, second)) in packed(halves.0).into_iter().zip(packed(halves.1)) {
        let (converted, file) = to_new_file(&[first, second].concat()).unwrap();
        assert_eq!(
            (converted.container, converted.format, converted.size),
            (container, Format::Raw, 1 << 20)
        );
        let whole = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&whole, &raw, 0).unwrap();
        assert_eq!(digest(&file), digest(&whole), "{container:?}");
    }
}

#[test]
fn what_is_cut_or_larger_than_the_limit_is_refused() {
    for (container, content) in packed(&disk()).into_iter().skip(1) {
        let cut = to_new_file(&content[..content.len() - 5]).unwrap_err();
        assert_eq!(cut.kind, FaultKind::BadContainer, "{container:?}: {cut}");
        let output = tempfile::tempfile().unwrap();
        let small = Conversion { limit: 300_000, ..Conversion::default() };
        // Zeros beyond the limit are no data, but the disk would be as large.
        let large = to_file(&content, &output, &small).unwrap_err();
        assert_eq!(large.kind, FaultKind::TooLarge, "{container:?}: {large}");
    }
    let zeros = zstd::encode_all(std::io::Read::take(std::io::repeat(0), LIMIT + 1), 1).unwrap();
    assert_eq!(to_new_file(&zeros).unwrap_err().kind, FaultKind::UnknownFormat, "no disk");
}

#[test]
fn a_bomb_is_found_before_it_fills_the_disk() {
    let mut raw = disk();
    raw.truncate(4096);
    let ones = std::io::Read::take(std::io::repeat(1), 3 << 30);
    let bomb = zstd::encode_all(std::io::Read::chain(raw.as_slice(), ones), 1).unwrap();
    let output = tempfile::tempfile().unwrap();
    let roomy = Conversion { limit: 1 << 40, ..Conversion::default() };
    let fault = to_file(&bomb, &output, &roomy).unwrap_err();
    assert!(fault.kind == FaultKind::TooLarge && fault.what.contains("bomb"), "{fault}");
}

#[test]
fn what_is_no_disk_is_named() {
    for (content, word) in [
        (&b"<!DOCTYPE html>"[..], "web page"),
        (b"KDMV....", "VMDK"),
        (b"vhdxfile", "VHDX"),
        (b"hello", "no format that is known"),
        (b"", "empty"),
    ] {
        let fault = to_new_file(content).unwrap_err();
        assert!(fault.what.contains(word), "{fault}");
    }
    let raw = Conversion { limit: LIMIT, is_raw: true, ..Conversion::default() };
    assert_eq!(to_file(b"hello", &tempfile::tempfile().unwrap(), &raw).unwrap().size, 5);
}

#[test]
fn a_container_disk_is_its_one_file() {
    let archive = |files: &[(&str, &[u8])]| {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            archive.append_data(&mut header, path, *content).unwrap();
        }
        archive.into_inner().unwrap()
    };
    let raw = disk();
    let asked = Conversion { limit: LIMIT, in_archive: true, ..Conversion::default() };
    let convert = |files: &[(&str, &[u8])]| to_file(&archive(files), &tempfile::tempfile().unwrap(), &asked);
    assert_eq!(convert(&[("etc/passwd", b"x"), ("disk/a.img", &raw)]).unwrap().size, 1 << 20);
    assert_eq!(convert(&[("etc/passwd", b"x")]).unwrap_err().kind, FaultKind::NotADisk);
    assert_eq!(convert(&[("disk/a", &raw), ("disk/b", &raw)]).unwrap_err().kind, FaultKind::NotADisk);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    /// Genuine streams and files with some bytes changed, or cut.
    #[test]
    fn damage_never_panics_and_never_exceeds_the_limit(
        which in 0_usize..8,
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let names = ["mixed-c.zsend", "embed-ec.zsend", "lzjb-c.zsend", "zle-c.zsend", "inc-s1-s2.zsend", "zstd-c.zsend", "lz4-c.zsend", "gzip-c.zsend"];
        let mut content = fs::read(format!("{}/tests/zfs-streams/{}", env!("CARGO_MANIFEST_DIR"), names[which])).unwrap();
        for (index, byte) in changes {
            let at = index.index(content.len());
            content[at] = byte;
        }
        if let Some(cut) = cut {
            content.truncate(cut.index(content.len()));
        }
        let output = tempfile::tempfile().unwrap();
        let conversion = Conversion { limit: 64 << 20, ..Conversion::default() };
        if let Ok(converted) = to_file(&content, &output, &conversion) {
            prop_assert!(converted.size <= 64 << 20);
        }
        prop_assert!(output.metadata().unwrap().len() <= 64 << 20);
    }
}

/// A number from a number: the same pieces in each run.
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*state >> 33).unwrap()
}

/// Ten thousand pieces, each with a few bytes changed, in places that matter and anywhere: an error of a kind, or a disk
/// within the limit, and never a panic.
#[test]
fn ten_thousand_mutated_pieces() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zfs-streams");
    let unpacked = |name: &str| {
        let file = fs::read(format!("{folder}/{name}")).unwrap();
        if name.ends_with(".gz") {
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(file.as_slice()), &mut content)
                .unwrap();
            return content;
        }
        file
    };
    let mut bases: Vec<Vec<u8>> =
        ["embed-ec.zsend", "empty.zsend", "inc-s2-s3.zsend", "before-2015.zsend.gz"].map(unpacked).into();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.qcow2");
    let made = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-o", "cluster_size=512"])
        .arg(&path)
        .arg("1M")
        .status();
    match made {
        Ok(status) if status.success() => bases.extend([fs::read(&path).unwrap(), fs::read(&path).unwrap()]),
        _ => crate::ignored::ignore("qemu-img is not installed"),
    }
    let (mut state, mut refused) = (7, 0);
    for piece in 0..10_000 {
        let mut content = bases[piece % bases.len()].clone();
        for _ in 0..=next(&mut state) % 4 {
            // Mostly headers and tables, which are at the beginning.
            let within =
                if next(&mut state).is_multiple_of(4) { content.len() } else { content.len().min(2048) };
            let at = next(&mut state) % within;
            content[at] = u8::try_from(next(&mut state) % 256).unwrap();
        }
        let output = tempfile::tempfile().unwrap();
        let conversion = Conversion { limit: 16 << 20, ..Conversion::default() };
        match to_file(&content, &output, &conversion) {
            Ok(converted) => assert!(converted.size <= 16 << 20, "{piece}"),
            Err(_) => refused += 1,
        }
        assert!(output.metadata().unwrap().len() <= 16 << 20, "{piece}");
    }
    assert!(refused > 5000, "{refused}");
}
