//! Events and consoles: how fast, to how many.
//!
//!     cargo bench --bench streams
//!
//! - kill to event: SIGKILL of a real hypervisor until its VM's event is at a subscriber, against the same
//!   kill until a plain parent has waited for it.
//! - watchers: a thousand of them, while VMs change; nothing may be lost.
//! - catch-up: a watcher that begins at the oldest event.
//! - console: one reader, and one with a stalled reader beside it, against reading the same file.
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
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use support::{Clients, machine, real::Real, simulated::Simulated};
use zoneward::proto::v1::{self, watch_events_request::Start, watch_events_response::Item};

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        kill_to_event(40).await;
        for (watchers, rate) in [(1, 1000), (100, 1000), (1000, 100), (1000, 1000)] {
            fan_out(watchers, rate, rate * 3).await;
        }
        catch_up(50_000).await;
        console(1 << 30).await;
    });
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1000.0;
    format!("p50 {:.2} ms, p99 {:.2} ms, worst {:.2} ms", at(50), at(99), at(100))
}

async fn kill_to_event(rounds: usize) {
    let agent = Real::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let request = v1::WatchEventsRequest { start: Some(Start::Now(true)), ..Default::default() };
    let mut stream = clients.events.watch_events(request).await.unwrap().into_inner();
    let (mut times, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        clients.start(&uuid).await.unwrap();
        let pid = clients.get(&uuid).await.unwrap().status.unwrap().pid.unwrap();
        let began = Instant::now();
        let process = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
        loop {
            let item = stream.message().await.unwrap().unwrap().item;
            if let Some(Item::Event(v1::Event { kind: Some(v1::event::Kind::Modified(modified)), .. })) = item
                && modified.vm.unwrap().status.unwrap().state() == v1::VmState::Stopped
            {
                break;
            }
        }
        times.push(began.elapsed());
        let mut bare = std::process::Command::new("qemu-system-x86_64")
            .args(["-display", "none", "-nodefaults", "-S", "-m", "256"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let began = Instant::now();
        bare.kill().unwrap();
        bare.wait().unwrap();
        floor.push(began.elapsed());
    }
    println!("kill to wait, bare QEMU                {}", percentiles(floor));
    println!("kill to event at a subscriber          {}", percentiles(times));
}

async fn fan_out(watchers: usize, rate: usize, events: usize) {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let mut uuids = Vec::new();
    for _ in 0..32 {
        uuids.push(clients.create(machine()).await);
    }
    // A stalled one among them: it opens its stream and never reads.
    let request = v1::WatchEventsRequest { start: Some(Start::Now(true)), ..Default::default() };
    let _stalled = clients.events.watch_events(request.clone()).await.unwrap();
    let sent: Arc<Mutex<HashMap<String, Instant>>> = Arc::default();
    let mut tasks = tokio::task::JoinSet::new();
    let (ready, mut all_ready) = tokio::sync::mpsc::channel(watchers);
    // A few watchers share a connection, as in a controller.
    let mut shared = clients.clone();
    for index in 0..watchers {
        if index % 50 == 0 {
            shared = agent.clients().await;
        }
        let (mut clients, request, sent, ready) =
            (shared.clone(), request.clone(), sent.clone(), ready.clone());
        tasks.spawn(async move {
            let mut stream = clients.events.watch_events(request).await.unwrap().into_inner();
            ready.send(()).await.unwrap();
            let (mut times, mut last) = (Vec::new(), 0);
            while times.len() < events {
                let Some(Item::Event(event)) = stream.message().await.unwrap().unwrap().item else {
                    continue;
                };
                assert!(event.sequence > last, "in order");
                last = event.sequence;
                let Some(v1::event::Kind::Modified(modified)) = event.kind else { continue };
                let alias = modified.vm.unwrap().spec.unwrap().alias.unwrap();
                let began = sent.lock().unwrap()[&alias];
                times.push(began.elapsed());
            }
            times
        });
    }
    for _ in 0..watchers {
        all_ready.recv().await.unwrap();
    }
    let began = Instant::now();
    let mut updates = tokio::task::JoinSet::new();
    for (lane, uuid) in uuids.into_iter().enumerate() {
        let (mut clients, sent) = (clients.clone(), sent.clone());
        updates.spawn(async move {
            for index in (lane..events).step_by(32) {
                let due = began + Duration::from_secs_f64(index as f64 / rate as f64);
                tokio::time::sleep_until(due.into()).await;
                let alias = format!("a{index}");
                sent.lock().unwrap().insert(alias.clone(), Instant::now());
                let vm = v1::VmSpec { alias: Some(alias), ..Default::default() };
                let request =
                    v1::UpdateVmRequest { uuid: uuid.clone(), vm: Some(Box::new(vm)), ..Default::default() };
                clients.vms.update_vm(request).await.unwrap();
            }
        });
    }
    updates.join_all().await;
    let made = events as f64 / began.elapsed().as_secs_f64();
    let times: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
    let carried = times.len() as f64 / began.elapsed().as_secs_f64();
    println!(
        "{watchers:>5} watchers, {made:>5.0} of {rate} events/s     update sent to event seen: {}; {carried:.0} messages/s, none lost; {} KiB",
        percentiles(times),
        memory()
    );
}

/// Of this process: agent and watchers together.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn catch_up(events: usize) {
    let agent = Simulated::start().await;
    let clients = agent.clients().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let mut clients: Clients = clients.clone();
        tasks.spawn(async move {
            let uuid = clients.create(machine()).await;
            for index in 0..events / 64 {
                let vm = v1::VmSpec { alias: Some(format!("a{index}")), ..Default::default() };
                let request =
                    v1::UpdateVmRequest { uuid: uuid.clone(), vm: Some(Box::new(vm)), ..Default::default() };
                clients.vms.update_vm(request).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let mut clients = clients;
    let request = v1::WatchEventsRequest { start: Some(Start::Beginning(true)), ..Default::default() };
    let began = Instant::now();
    let mut stream = clients.events.watch_events(request).await.unwrap().into_inner();
    let mut seen = 0;
    while let Some(Item::Event(_)) = stream.message().await.unwrap().unwrap().item {
        seen += 1;
    }
    println!(
        "catch-up                               {:.0} events/s ({seen})",
        seen as f64 / began.elapsed().as_secs_f64()
    );
}

async fn console(bytes: usize) {
    let agent = Simulated::start_with(|config| config.console.keep_kib = 2 << 20).await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    clients.start(&uuid).await.unwrap();
    let block = "x".repeat(1 << 20);
    for _ in 0..bytes >> 20 {
        agent.process(&uuid).print(&block);
    }
    let path = agent.zonepath(&uuid).join("console.log");
    let began = Instant::now();
    let mut file = std::fs::File::open(&path).unwrap();
    std::io::copy(&mut file, &mut std::io::sink()).unwrap();
    let mut buffer = vec![0; 64 << 10];
    let mut file = std::fs::File::open(&path).unwrap();
    while std::io::Read::read(&mut file, &mut buffer).unwrap() > 0 {}
    let floor = (2 * bytes) as f64 / began.elapsed().as_secs_f64() / 1e6;
    println!("console, reading the file              {floor:.0} MB/s");
    let request = v1::ReadLogRequest { uuid: uuid.clone(), offset: 0, follow: false };
    for stalled in [false, true] {
        let _stalled = match stalled {
            true => Some(agent.clients().await.consoles.read_log(request.clone()).await.unwrap()),
            false => None,
        };
        let began = Instant::now();
        let mut stream = clients.consoles.read_log(request.clone()).await.unwrap().into_inner();
        let mut seen = 0;
        while let Some(message) = stream.message().await.unwrap() {
            if let Some(v1::read_log_response::Item::Data(data)) = message.item {
                seen += data.data.len();
            }
        }
        assert_eq!(seen, bytes);
        let speed = seen as f64 / began.elapsed().as_secs_f64() / 1e6;
        let what = if stalled { "console, a stalled reader beside it" } else { "console, one reader" };
        println!("{what:<38} {speed:.0} MB/s  ({:.2} of the floor)", speed / floor);
    }
}
