//! What the agent and its zone cost on top of QEMU, in one run:
//!
//!     cargo bench --bench start [-- ROUNDS]
//!
//! - start: StartVm until its caller hears that the hypervisor runs guest code, against a bare QEMU with the same
//!   machine, spawned and talked to until the same point; and until the answer, which is written down durably before.
//!   Rounds alternate, so that drift hits both.
//! - stop: a forced StopVm until it is reported, against SIGKILL and wait.
//! - memory: the agent's, idle and for each of ten running VMs.
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
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use support::{Clients, disk, machine, real::Real};
use zoneward::proto::v1;

fn main() {
    let rounds = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(20);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(run(rounds));
}

async fn run(rounds: usize) {
    let agent = Real::start().await;
    let mut clients = agent.clients().await;
    let idle = agent_memory(&agent);
    let vm = v1::VmSpec {
        disks: vec![disk(64)],
        nics: vec![v1::NicSpec {
            nic_tag: Some("admin".into()),
            model: Some("virtio".into()),
            ..Default::default()
        }],
        ..machine()
    };
    let uuid = clients.create(vm.clone()).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::File::create(dir.path().join("disk.raw")).unwrap().set_len(64 << 20).unwrap();

    let (mut bare_start, mut bare_stop, mut answer, mut stop) = (vec![], vec![], vec![], vec![]);
    let mut steps = Steps::default();
    // One of each that does not count: the zone's ability is found out, files are read in.
    for round in 0..=rounds {
        let began = Instant::now();
        let mut qemu = bare(dir.path());
        let bare_started = began.elapsed();
        let began = Instant::now();
        qemu.kill().unwrap();
        qemu.wait().unwrap();
        let bare_stopped = began.elapsed();

        let (answered, reached) = start_vm(&mut clients, &uuid).await;
        let began = Instant::now();
        clients.stop(&uuid, true).await.unwrap();
        let stopped = began.elapsed();
        if round > 0 {
            bare_start.push(bare_started);
            bare_stop.push(bare_stopped);
            answer.push(answered);
            stop.push(stopped);
            for (phase, at) in reached {
                steps.entry(phase).or_default().push(at);
            }
        }
    }
    println!("{rounds} rounds; medians");
    row("start, bare QEMU", &mut bare_start, None);
    let floor = bare_start[rounds / 2];
    for (phase, times) in &mut steps {
        row(&format!("StartVm until {}", phase.as_str_name()), times, Some(floor));
    }
    row("StartVm until its answer", &mut answer, Some(floor));
    row("kill, bare QEMU", &mut bare_stop, None);
    let floor = bare_stop[rounds / 2];
    row("kill, StopVm by force", &mut stop, Some(floor));

    let before = agent_memory(&agent);
    for _ in 0..10 {
        let uuid = clients.create(vm.clone()).await;
        clients.start(&uuid).await.unwrap();
    }
    let after = agent_memory(&agent);
    println!(
        "agent: {idle} KiB before the first request, {before} KiB after {rounds} rounds, {} KiB for each running VM",
        (after.saturating_sub(before)) / 10
    );
}

/// When the caller heard of each phase.
type Steps = BTreeMap<v1::boot_phase::Phase, Vec<Duration>>;

/// Starts a VM; how long until the answer, and until each phase before.
async fn start_vm(clients: &mut Clients, uuid: &str) -> (Duration, Vec<(v1::boot_phase::Phase, Duration)>) {
    let request = v1::StartVmRequest { uuid: uuid.to_owned(), ..Default::default() };
    let (began, mut phases) = (Instant::now(), Vec::new());
    let mut stream = clients.vms.start_vm(request).await.unwrap().into_inner();
    while let Some(message) = stream.message().await.unwrap() {
        if let Some(v1::start_vm_response::Item::Phase(phase)) = message.item {
            phases.push((phase.phase(), began.elapsed()));
        }
    }
    (began.elapsed(), phases)
}

fn row(what: &str, times: &mut [Duration], floor: Option<Duration>) {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let median = times[times.len() / 2];
    let ratio = floor.map(|floor| format!("  {:.2} x", ms(median) / ms(floor))).unwrap_or_default();
    println!(
        "{what:<38} {:>8.1} ms  ({:.1} to {:.1}){ratio}",
        ms(median),
        ms(times[0]),
        ms(times[times.len() - 1])
    );
}

/// The machine of the agent's VM with nothing around it; returns when guest code runs.
fn bare(dir: &Path) -> Child {
    let socket = dir.join("qmp");
    let _ = std::fs::remove_file(&socket);
    let disk = dir.join("disk.raw");
    let child = Command::new("/usr/bin/qemu-system-x86_64")
        .args([
            "-nodefaults",
            "-no-user-config",
            "-machine",
            "pc,accel=tcg",
            "-cpu",
            "max",
            "-m",
            "256M",
            "-smp",
            "1",
            "-S",
        ])
        .args([
            "-display",
            "none",
            "-vga",
            "std",
            "-vnc",
            "none",
            "-device",
            "piix3-usb-uhci,addr=1.2",
            "-device",
            "usb-tablet",
        ])
        .args([
            "-chardev",
            "null,id=console",
            "-serial",
            "chardev:console",
            "-object",
            "rng-builtin,id=random",
        ])
        .args(["-device", "virtio-rng-pci,rng=random,addr=4", "-device", "pvpanic"])
        .arg("-blockdev")
        .arg(format!("driver=file,node-name=f,filename={}", disk.display()))
        .args(["-blockdev", "driver=raw,node-name=d,file=f", "-device", "virtio-blk-pci,drive=d"])
        .args(["-netdev", "hubport,id=net0,hubid=0", "-device", "virtio-net-pci,netdev=net0"])
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", socket.display()))
        .args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stream = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(_) => std::thread::sleep(Duration::from_micros(200)),
        }
    };
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut stream = stream;
    lines.next().unwrap().unwrap();
    for command in ["qmp_capabilities", "cont"] {
        stream.write_all(format!("{{\"execute\": \"{command}\"}}\n").as_bytes()).unwrap();
        while !lines.next().unwrap().unwrap().contains("\"return\"") {}
    }
    child
}

/// Resident memory of the agent in KiB.
fn agent_memory(agent: &Real) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
