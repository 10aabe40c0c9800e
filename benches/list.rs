//! Ten thousand VMs (simulated): lists, filters, lookups and one update.
//!
//!     cargo bench --bench list [-- VMS]
//!
//! The floor of a page is writing and reading the same answer as protobuf, with no agent and no socket.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a benchmark that can't go on panics"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use prost::Message as _;
use support::{Clients, disk, machine, simulated::Simulated};
use zoneward::proto::v1;

fn main() {
    let vms = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(10_000);
    tokio::runtime::Runtime::new().unwrap().block_on(run(vms));
}

async fn run(vms: usize) {
    let agent = Simulated::start().await;
    let clients = agent.clients().await;
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for lane in 0..32 {
        let mut clients = clients.clone();
        tasks.spawn(async move {
            for index in (lane..vms).step_by(32) {
                let nic = v1::NicSpec {
                    nic_tag: Some("admin".into()),
                    model: Some("virtio".into()),
                    ..Default::default()
                };
                let spec = v1::VmSpec {
                    alias: Some(format!("vm-{index}")),
                    disks: vec![disk(1)],
                    nics: vec![nic],
                    ..machine()
                };
                clients.create(spec).await;
            }
        });
    }
    tasks.join_all().await;
    println!("{vms} VMs made in {:.1} s", began.elapsed().as_secs_f64());

    let mut clients = clients;
    let began = Instant::now();
    page(&mut clients, &[]).await;
    show("a page of 1,000, first look", began.elapsed(), None);
    let mut found = v1::ListVmsResponse::default();
    let warm = median(20, async || found = page(&mut clients, &[]).await).await;
    let floor = median(20, async || {
        let bytes = found.encode_to_vec();
        assert_eq!(v1::ListVmsResponse::decode(bytes.as_slice()).unwrap().vms.len(), found.vms.len());
    })
    .await;
    show("a page of 1,000, floor", floor, None);
    show("a page of 1,000", warm, Some(floor));
    let began = Instant::now();
    page(&mut clients, &["alias=nobody"]).await;
    show("a filter that finds none, first look", began.elapsed(), None);
    let none = median(20, async || drop(page(&mut clients, &["alias=nobody"]).await)).await;
    show("a filter that finds none", none, None);
    let one = median(20, async || drop(page(&mut clients, &["alias=~^vm-77$"]).await)).await;
    show("a filter that finds one, by expression", one, None);
    let uuid = found.vms[0].uuid.clone();
    let mut count = 0;
    let update = median(20, async || {
        count += 1;
        let vm = v1::VmSpec { alias: Some(format!("new-{count}")), ..Default::default() };
        let request =
            v1::UpdateVmRequest { uuid: uuid.clone(), vm: Some(Box::new(vm)), ..Default::default() };
        clients.vms.update_vm(request).await.unwrap();
    })
    .await;
    show("one update", update, None);
}

async fn page(clients: &mut Clients, filters: &[&str]) -> v1::ListVmsResponse {
    let filters = filters.iter().map(ToString::to_string).collect();
    let request = v1::ListVmsRequest { filters, ..Default::default() };
    clients.vms.list_vms(request).await.unwrap().into_inner()
}

async fn median(rounds: usize, mut work: impl AsyncFnMut()) -> Duration {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let began = Instant::now();
        work().await;
        times.push(began.elapsed());
    }
    times.sort();
    times[rounds / 2]
}

fn show(what: &str, time: Duration, floor: Option<Duration>) {
    let ratio = floor.map(|floor| format!("  {:.2} x", time.as_secs_f64() / floor.as_secs_f64()));
    println!("{what:<40} {:>8.2} ms{}", time.as_secs_f64() * 1000.0, ratio.unwrap_or_default());
}
