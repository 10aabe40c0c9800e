//! A guest's network under the agent, against a bare QEMU on a tap of the same bridge.
//!
//!     cargo bench --bench network -- 5
//!
//! Both guests run the same kernel on the same bridge; the same program of the host talks to the one and to the
//! other in turn: a byte there and back, and as much as goes in either direction. Beside the ratio there is what the
//! rules of the agent's guest are: what they cost is in it.
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
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use support::{
    net::{Guest, Net},
    real::guest,
};

const AGENTS: &str = "10.0.0.5";
const BARE: &str = "10.0.0.6";
const MIB: usize = 48;

fn main() {
    let rounds = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(5);
    tokio::runtime::Runtime::new().unwrap().block_on(run(rounds));
}

async fn run(rounds: usize) {
    let Some(net) = Net::new().await else { return };
    net.ok(&["ip", "link", "add", "br0", "type", "bridge"]);
    net.ok(&["ip", "addr", "add", "10.0.0.1/24", "dev", "br0"]);
    net.ok(&["ip", "link", "set", "br0", "up"]);
    let agent = net.agent(&["network.tags.host.kind=bridge", "network.tags.host.link=br0"]).await;
    let nic = json!({"nic_tag": "host", "model": "virtio", "ips": [format!("{AGENTS}/24")]});
    let mut ours = Guest::boot(&agent, json!({"nics": [nic], "firewall_enabled": false})).await;
    ours.run(&agent, &serve(AGENTS), "serving\r").await;
    let dir = tempfile::tempdir().unwrap();
    let mut bare = Bare::boot(&net, dir.path());
    bare.run(&serve(BARE), "serving\r");

    println!("{:<28} {:>12} {:>12}  ratio", "", "agent", "bare QEMU");
    let (mut rtt, mut to, mut from) = (vec![], vec![], vec![]);
    for _ in 0..rounds {
        for (at, ip) in [AGENTS, BARE].into_iter().enumerate() {
            let [a, b, c] = talk(&net, ip);
            rtt.push((at, a));
            to.push((at, b));
            from.push((at, c));
        }
    }
    row("a byte and back, median", "us", &rtt);
    row("to the guest", "MiB/s", &to);
    row("from the guest", "MiB/s", &from);
    bare.qemu.kill().unwrap();
    bare.qemu.wait().unwrap();
}

/// A guest's side: it sends back what it hears, swallows what it hears, and says what it can.
fn serve(ip: &str) -> String {
    format!(
        "ip addr add {ip}/24 dev eth0; ip link set eth0 up; ip link set lo up; \
         (while :; do nc -l -p 9 -e cat; done) & (while :; do nc -l -p 10 >/dev/null; done) & \
         (while :; do nc -l -p 11 </dev/zero; done) & until grep -q ':000B .* 0A ' /proc/net/tcp*; do :; done; echo serv''ing"
    )
}

/// The host's side: microseconds there and back, MiB a second to the guest, and from it.
const TALK: &str = "
import socket, sys, time
ip, mib = sys.argv[1], int(sys.argv[2])
def reach(port):
    for _ in range(100):
        try:
            s = socket.create_connection((ip, port), 5)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return s
        except OSError:
            time.sleep(0.1)
    sys.exit('not reached')
s, times = reach(9), []
for _ in range(300):
    began = time.perf_counter()
    s.sendall(b'x')
    assert s.recv(1) == b'x'
    times.append(time.perf_counter() - began)
s.close()
print(sorted(times)[150] * 1e6)
s, block, began = reach(10), b'x' * 65536, time.perf_counter()
for _ in range(mib * 16):
    s.sendall(block)
s.shutdown(socket.SHUT_WR)
s.recv(1)
print(mib / (time.perf_counter() - began))
s.close()
s, left, began = reach(11), mib << 20, time.perf_counter()
while left > 0:
    left -= len(s.recv(1 << 20))
print(mib / (time.perf_counter() - began))
s.close()
";

fn talk(net: &Net, ip: &str) -> [f64; 3] {
    let said = net.ok(&["python3", "-c", TALK, ip, &MIB.to_string()]);
    let mut numbers = said.lines().map(|line| line.parse().unwrap());
    std::array::from_fn(|_| numbers.next().unwrap())
}

fn row(what: &str, unit: &str, values: &[(usize, f64)]) {
    let median = |of: usize| {
        let mut own: Vec<f64> = values.iter().filter(|(at, _)| *at == of).map(|(_, value)| *value).collect();
        own.sort_by(f64::total_cmp);
        own[own.len() / 2]
    };
    let (ours, bare) = (median(0), median(1));
    println!("{what:<28} {ours:>8.0} {unit:<5} {bare:>6.0} {unit:<5} {:>5.2} x", ours / bare);
}

/// A QEMU with nobody around it.
struct Bare {
    qemu: Child,
    console: UnixStream,
}

impl Bare {
    fn boot(net: &Net, dir: &Path) -> Self {
        net.ok(&["ip", "tuntap", "add", "bare0", "mode", "tap"]);
        net.ok(&["ip", "link", "set", "bare0", "master", "br0", "up"]);
        let socket = dir.join("console");
        let serial = format!("unix:{},server=on,wait=off", socket.display());
        let iso = guest().join("tiny.iso").display().to_string();
        let words = [
            "qemu-system-x86_64",
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
            "-display",
            "none",
            "-vga",
            "std",
            "-serial",
            &serial,
            "-cdrom",
            &iso,
            "-boot",
            "d",
            "-object",
            "rng-builtin,id=random",
            "-device",
            "virtio-rng-pci,rng=random",
            "-netdev",
            "tap,id=net0,ifname=bare0,script=no,downscript=no",
            "-device",
            "virtio-net-pci,netdev=net0,host_mtu=1500",
        ];
        let qemu = net.command(&words).stdin(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let console = loop {
            match UnixStream::connect(&socket) {
                Ok(console) => break console,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        console.set_read_timeout(Some(support::GUEST)).unwrap();
        let mut bare = Self { qemu, console };
        bare.until("/ # ");
        bare
    }

    fn run(&mut self, line: &str, wanted: &str) {
        self.console.write_all(format!("{line}\n").as_bytes()).unwrap();
        self.until(wanted);
    }

    fn until(&mut self, wanted: &str) {
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            let count = self.console.read(&mut buffer).expect("a console");
            assert!(count > 0, "the console ended");
            seen.extend(&buffer[..count]);
        }
    }
}
