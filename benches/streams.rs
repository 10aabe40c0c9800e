//! Events and consoles: how fast, to how many.
//!
//!     cargo bench --bench streams
//!
//! - kill to event: SIGKILL of a real hypervisor until its VM's event is at a subscriber, against the end of the
//!   same process as the kernel tells it (its zone is taken down before that), and against a QEMU without a zone.
//! - watchers: a thousand of them, while VMs change; nothing may be lost. Against a bare tonic server that sends the
//!   same messages to as many clients of the same kind, and does nothing else.
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
use tokio_stream::StreamExt as _;
use zoneward::proto::{
    Packed,
    v1::{
        self,
        event_service_server::{EventService, EventServiceServer},
        watch_events_request::Start,
        watch_events_response::Item,
    },
};

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        kill_to_event(200).await;
        for (watchers, rate) in [(1, 1000), (100, 1000), (1000, 100), (1000, 1000)] {
            let bare = bare_fan_out(watchers, rate, rate * 3).await;
            fan_out(watchers, rate, rate * 3, bare).await;
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
    let (mut times, mut floor, mut bare_floor, mut shares) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        clients.start(&uuid).await.unwrap();
        // As the bare one below: what ends is a machine that runs, not one that is being made.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let pid = clients.get(&uuid).await.unwrap().status.unwrap().pid.unwrap();
        let process = rustix::process::Pid::from_raw(pid).unwrap();
        let pidfd = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).unwrap();
        let ended = std::thread::spawn({
            let pidfd = pidfd.try_clone().unwrap();
            move || {
                let mut wait = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
                rustix::event::poll(&mut wait, None).unwrap();
                Instant::now()
            }
        });
        let began = Instant::now();
        rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
        loop {
            let item = stream.message().await.unwrap().unwrap().item;
            if let Some(Item::Event(v1::Event { kind: Some(v1::event::Kind::Modified(modified)), .. })) = item
                && modified.vm.unwrap().status.unwrap().state() == v1::VmState::Stopped
            {
                break;
            }
        }
        times.push(began.elapsed());
        floor.push(ended.join().unwrap() - began);
        shares.push(times.last().unwrap().saturating_sub(*floor.last().unwrap()));
        let mut bare = std::process::Command::new("qemu-system-x86_64")
            .args(["-display", "none", "-nodefaults", "-S", "-m", "256"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let began = Instant::now();
        bare.kill().unwrap();
        bare.wait().unwrap();
        bare_floor.push(began.elapsed());
    }
    println!("kill to wait, QEMU without a zone      {}", percentiles(bare_floor));
    println!("kill to the end of the process         {}", percentiles(floor));
    println!("kill to event at a subscriber          {}", percentiles(times));
    println!("what the agent adds                    {}", percentiles(shares));
}

/// When each event was made, by the alias that it gives its VM.
type Sent = Arc<Mutex<HashMap<String, Instant>>>;

/// Opens that many watches, a few on a connection, as a controller would; each ends after `events` and gives how
/// old they were. Returns when all are open.
async fn watch_all(
    watchers: usize,
    events: usize,
    sent: &Sent,
    connect: impl AsyncFn() -> Clients,
) -> tokio::task::JoinSet<Vec<Duration>> {
    let request = v1::WatchEventsRequest { start: Some(Start::Now(true)), ..Default::default() };
    let mut tasks = tokio::task::JoinSet::new();
    let (ready, mut all_ready) = tokio::sync::mpsc::channel(watchers);
    let mut shared = connect().await;
    for index in 0..watchers {
        if index % 50 == 0 {
            shared = connect().await;
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
    tasks
}

/// A server of the contract that only sends.
#[allow(clippy::disallowed_types, reason = "a floor may skip; it fails then")]
struct Bare(tokio::sync::broadcast::Sender<Packed>);

#[tonic::async_trait]
impl EventService for Bare {
    type WatchEventsStream =
        std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<Packed, tonic::Status>> + Send>>;

    async fn watch_events(
        &self,
        _: tonic::Request<v1::WatchEventsRequest>,
    ) -> Result<tonic::Response<Self::WatchEventsStream>, tonic::Status> {
        let events = tokio_stream::wrappers::BroadcastStream::new(self.0.subscribe());
        let events = events.map(|event| event.map_err(|lag| tonic::Status::data_loss(lag.to_string())));
        Ok(tonic::Response::new(Box::pin(events)))
    }

    async fn list_events(
        &self,
        _: tonic::Request<v1::ListEventsRequest>,
    ) -> Result<tonic::Response<v1::ListEventsResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("a floor"))
    }
}

/// Gives how many messages a second the bare server carried.
async fn bare_fan_out(watchers: usize, rate: usize, events: usize) -> f64 {
    // What an agent sends when a VM changes.
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let uuid = clients.create(machine()).await;
    let vm = v1::VmSpec { alias: Some("a".to_owned()), ..Default::default() };
    let request = v1::UpdateVmRequest { uuid, vm: Some(Box::new(vm)), ..Default::default() };
    clients.vms.update_vm(request).await.unwrap();
    let sample = clients.journal().await.pop().unwrap();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    #[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a floor may skip; it fails then")]
    let (sender, _) = tokio::sync::broadcast::channel(1 << 16);
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let serving = tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(EventServiceServer::new(Bare(sender.clone())))
            .serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(listener)),
    );
    let sent = Sent::default();
    let connect = async || Clients::new(support::connect_unix(path.clone()).await);
    let watches = watch_all(watchers, events, &sent, connect).await;
    let began = Instant::now();
    for index in 0..events {
        let due = began + Duration::from_secs_f64(index as f64 / rate as f64);
        tokio::time::sleep_until(due.into()).await;
        let mut event = sample.clone();
        event.sequence = i64::try_from(index).unwrap() + 1;
        let alias = format!("a{index}");
        if let Some(v1::event::Kind::Modified(modified)) = &mut event.kind {
            modified.vm.as_mut().unwrap().spec.as_mut().unwrap().alias = Some(alias.clone());
        }
        sent.lock().unwrap().insert(alias, Instant::now());
        let message = v1::WatchEventsResponse { cursor: "c".repeat(28), item: Some(Item::Event(event)) };
        let _ = sender.send(Packed::from(&message));
    }
    let times: Vec<Duration> = watches.join_all().await.into_iter().flatten().collect();
    let carried = times.len() as f64 / began.elapsed().as_secs_f64();
    println!(
        "{watchers:>5} watchers of a bare server, {rate} events/s     event made to event seen: {}; {carried:.0} messages/s",
        percentiles(times)
    );
    serving.abort();
    carried
}

async fn fan_out(watchers: usize, rate: usize, events: usize, bare: f64) {
    let agent = Simulated::start().await;
    let mut clients = agent.clients().await;
    let mut uuids = Vec::new();
    for _ in 0..32 {
        uuids.push(clients.create(machine()).await);
    }
    // A stalled one among them: it opens its stream and never reads.
    let request = v1::WatchEventsRequest { start: Some(Start::Now(true)), ..Default::default() };
    let _stalled = clients.events.watch_events(request.clone()).await.unwrap();
    let sent = Sent::default();
    let tasks = watch_all(watchers, events, &sent, async || agent.clients().await).await;
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
        "{watchers:>5} watchers, {made:>5.0} of {rate} events/s     update sent to event seen: {}; {carried:.0} messages/s ({:.2} of the bare server's), none lost; {} KiB",
        percentiles(times),
        carried / bare,
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
