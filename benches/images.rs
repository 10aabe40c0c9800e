//! What images cost, each beside its floor in one run:
//!
//!     cargo bench --bench images [-- MIB]
//!
//! - The agent fetches the files itself, from a folder of the host: no client shares its processors.
//! - import: a disk of 1 GiB (or MIB), packed by zstd, into a real agent with its converter in a zone, against
//!   `zstd -d | sha256sum` of the same file.
//! - stream: a ZFS stream of as much data, against `cat` of it into a file, and against `tee | sha256sum`, which hashes as
//!   the agent must.
//! - clone: creating a VM with a disk of an image, against one with an empty disk; on xfs and btrfs (loop mounts that this
//!   benchmark makes, if root and the programs allow it), and on the file system of the temporary folder.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a benchmark that can't go on panics"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use support::{Clients, disk, machine, real::Real};
use zoneward::proto::v1;

fn main() {
    let mib = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(1024);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(run(mib));
}

async fn run(mib: usize) {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    write_disk(&raw, mib);
    let packed = dir.path().join("packed.zst");
    sh(&format!("zstd -q -f -3 {} -o {}", raw.display(), packed.display()));
    let stream = dir.path().join("stream.zsend");
    write_stream(&raw, &stream);
    let folders = format!("images.folders=[\"{}\"]", dir.path().display());
    let agent = Real::start_with(&[&folders]).await;
    let fetch = |path: &Path, image: &str| {
        let (url, digest) = (format!("file://{}", path.display()), digest(path));
        let began = Instant::now();
        agent.imgadm_ok(&["import", "-q", "--uuid", image, "--digest", &digest, &url]);
        began.elapsed()
    };
    // Files are read in, and the zone's ability is found out.
    fetch(&packed, "00000000-0000-4000-8000-000000000001");
    let image = "00000000-0000-4000-8000-000000000002";
    let (mut floors, mut imports) = (vec![], vec![]);
    for _ in 0..3 {
        floors.push(sh(&format!("zstd -dc {} | sha256sum >/dev/null", packed.display())));
        agent.imgadm(&["delete", image]);
        imports.push(fetch(&packed, image));
    }
    let (floor, own) = (median(floors), median(imports));
    println!(
        "import    {mib} MiB: zstd -d | sha256sum {}, imgadm import {}, {:.2} x the floor's speed",
        ms(floor),
        ms(own),
        floor.as_secs_f64() / own.as_secs_f64()
    );
    let (mut floors, mut hashed, mut streams) = (vec![], vec![], vec![]);
    for _ in 0..3 {
        let copy = dir.path().join("copy");
        floors.push(sh(&format!("cat {} >{}", stream.display(), copy.display())));
        fs::remove_file(&copy).unwrap();
        let line = format!("tee {} <{} | sha256sum >/dev/null", copy.display(), stream.display());
        hashed.push(sh(&line));
        fs::remove_file(copy).unwrap();
        agent.imgadm(&["delete", image]);
        streams.push(fetch(&stream, image));
    }
    let (floor, hashed, own) = (median(floors), median(hashed), median(streams));
    println!(
        "stream    {mib} MiB: cat to a file {}, tee | sha256sum {}, imgadm import {}, {:.2} and {:.2} x the floors' speed",
        ms(floor),
        ms(hashed),
        ms(own),
        floor.as_secs_f64() / own.as_secs_f64(),
        hashed.as_secs_f64() / own.as_secs_f64()
    );
    fs::remove_file(&stream).unwrap();
    drop(agent);

    clones("here", None, &packed).await;
    for kind in ["xfs", "btrfs"] {
        match Mounted::new(kind) {
            Some(mounted) => clones(kind, Some(mounted.folder.path()), &packed).await,
            None => println!("clone     {kind}: not measured: root, mkfs.{kind} and loop devices are needed"),
        }
    }
}

/// A disk with a quarter of zeros and data that pack to about a half.
fn write_disk(path: &Path, mib: usize) {
    let mut file = fs::File::create(path).unwrap();
    let mut state = 1_u64;
    for index in 0..mib {
        let mut piece = vec![0_u8; 1 << 20];
        if index % 4 != 3 {
            for word in piece.chunks_exact_mut(8) {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                word[..4].copy_from_slice(&state.to_be_bytes()[..4]);
            }
        }
        if index == 0 {
            piece[510..512].copy_from_slice(&[0x55, 0xaa]);
        }
        file.write_all(&piece).unwrap();
    }
}

/// The smallest stream that ZFS's own receiver takes: blocks of 128 KiB, the size at the end.
fn write_stream(raw: &Path, path: &Path) {
    let mut out = Stream { file: std::io::BufWriter::new(fs::File::create(path).unwrap()), sums: [0; 4] };
    let content = fs::read(raw).unwrap();
    let mut begin = header(0, &[(8, 0x2_f5ba_cbac), (16, 1), (40, 7)]);
    begin[32..36].copy_from_slice(&3_u32.to_le_bytes());
    begin[56..64].copy_from_slice(b"b/v@snap");
    out.put(&begin);
    let object = |number: u64, kind: u32, block: u32| {
        let mut record = header(1, &[(8, number)]);
        record[16..20].copy_from_slice(&kind.to_le_bytes());
        record[24..28].copy_from_slice(&block.to_le_bytes());
        record
    };
    out.summed(object(1, 23, 128 << 10), &[]);
    for (index, block) in content.chunks(128 << 10).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            out.summed(
                header(3, &[(8, 1), (24, (index * (128 << 10)) as u64), (32, block.len() as u64)]),
                block,
            );
        }
    }
    out.summed(object(2, 24, 512), &[]);
    let mut table = vec![0; 512];
    table[..8].copy_from_slice(&0x8000_0000_0000_0003_u64.to_le_bytes());
    table[64..72].copy_from_slice(&(content.len() as u64).to_le_bytes());
    table[78..82].copy_from_slice(b"size");
    out.summed(header(3, &[(8, 2), (32, 512)]), &table);
    let mut end = header(5, &[(40, 7)]);
    for (index, sum) in out.sums.into_iter().enumerate() {
        end[8 + 8 * index..16 + 8 * index].copy_from_slice(&sum.to_le_bytes());
    }
    out.summed(end, &[]);
}

fn header(kind: u32, fields: &[(usize, u64)]) -> [u8; 312] {
    let mut header = [0; 312];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    for (at, value) in fields {
        header[*at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    header
}

struct Stream {
    file: std::io::BufWriter<fs::File>,
    sums: [u64; 4],
}

impl Stream {
    fn put(&mut self, bytes: &[u8]) {
        for word in bytes.as_chunks::<4>().0 {
            self.sums[0] = self.sums[0].wrapping_add(u32::from_le_bytes(*word).into());
            for index in 1..4 {
                self.sums[index] = self.sums[index].wrapping_add(self.sums[index - 1]);
            }
        }
        self.file.write_all(bytes).unwrap();
    }

    /// A record with its checksum.
    fn summed(&mut self, mut record: [u8; 312], payload: &[u8]) {
        self.put(&record[..280]);
        for (index, sum) in self.sums.into_iter().enumerate() {
            record[280 + 8 * index..288 + 8 * index].copy_from_slice(&sum.to_le_bytes());
        }
        self.put(&record[280..]);
        self.put(payload);
    }
}

fn sh(line: &str) -> Duration {
    let began = Instant::now();
    assert!(Command::new("sh").args(["-c", line]).status().unwrap().success(), "{line}");
    began.elapsed()
}

fn digest(path: &Path) -> String {
    let sums = Command::new("sha256sum").arg(path).output().unwrap();
    format!("sha256:{}", String::from_utf8(sums.stdout).unwrap().split(' ').next().unwrap())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

/// A file system in a file, mounted; unmounted when dropped.
struct Mounted {
    folder: tempfile::TempDir,
    _image: tempfile::NamedTempFile,
}

impl Mounted {
    fn new(kind: &str) -> Option<Self> {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(6 << 30).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let quiet = |program: &str, words: &[&str]| {
            let done = Command::new(program)
                .args(words)
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .status();
            done.is_ok_and(|status| status.success())
        };
        let path = image.path().to_str().unwrap().to_owned();
        let target = folder.path().to_str().unwrap().to_owned();
        let is_made =
            quiet(&format!("mkfs.{kind}"), &["-q", &path]) && quiet("mount", &["-o", "loop", &path, &target]);
        is_made.then_some(Self { folder, _image: image })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.folder.path()).status();
    }
}

async fn clones(what: &str, folder: Option<&Path>, packed: &Path) {
    let zones: Option<PathBuf> = folder.map(|folder| folder.join("zones"));
    let set = zones.as_ref().map(|zones| format!("zones_dir={}", zones.display()));
    let sets: Vec<&str> = set.iter().map(String::as_str).collect();
    let agent = Real::start_with(&sets).await;
    let mut clients = agent.clients().await;
    let image = "00000000-0000-4000-8000-000000000003";
    agent.imgadm_ok(&["import", "-q", "--uuid", image, packed.to_str().unwrap()]);
    let of_image = v1::DiskSpec { image_uuid: Some(image.to_owned()), ..Default::default() };
    let (mut empty, mut cloned) = (vec![], vec![]);
    let mut form = String::new();
    for round in 0..41 {
        let (made, _) = create(&mut clients, disk(1024)).await;
        let (with_image, shown) = create(&mut clients, of_image.clone()).await;
        form = shown;
        if round > 0 {
            empty.push(made);
            cloned.push(with_image);
        }
    }
    let (empty, cloned) = (median(empty), median(cloned));
    println!(
        "clone     {what} ({form}): create {}, with an image {}, {:+.2} ms",
        ms(empty),
        ms(cloned),
        (cloned.as_secs_f64() - empty.as_secs_f64()) * 1000.0
    );
}

async fn create(clients: &mut Clients, disk: v1::DiskSpec) -> (Duration, String) {
    let request =
        v1::CreateVmRequest { vm: Some(v1::VmSpec { disks: vec![disk], ..machine() }), ..Default::default() };
    let began = Instant::now();
    let vm = clients.vms.create_vm(request).await.unwrap().into_inner().vm.unwrap();
    let took = began.elapsed();
    let form = vm.status.unwrap().disks.first().map(|disk| disk.form.clone()).unwrap_or_default();
    clients.delete(&vm.uuid).await.unwrap();
    (took, form)
}
