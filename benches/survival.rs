//! What a restart of the agent costs.
//!
//!     cargo bench --bench survival
//!
//! - adoption: the agent is killed with 50 machines running; from the start of the next one until it serves and knows
//!   them all, against the start of an agent that has none. Their processes and consoles must not notice.
//! - memory: of the agent, idle and for each machine.
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
    time::{Duration, Instant},
};

use support::{Clients, machine, real::Real};
use zoneward::proto::v1;

const MACHINES: usize = 50;
const ROUNDS: usize = 10;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut empty = Real::start().await;
        let idle = memory(&empty);
        let mut floor = Vec::new();
        for _ in 0..ROUNDS {
            floor.push(restart(&mut empty, &BTreeMap::new()).await);
        }
        let mut agent = Real::start_with(&["capacity.vcpu_overcommit=0"]).await;
        let mut clients = agent.clients().await;
        for _ in 0..MACHINES {
            let uuid = clients.create(v1::VmSpec { ram: Some(16), vnc_port: Some(0), ..machine() }).await;
            clients.start(&uuid).await.unwrap();
            // What it computes is of no interest here.
            let pause = v1::PauseVmRequest { uuid, ..Default::default() };
            clients.vms.pause_vm(pause).await.unwrap();
        }
        let machines = pids(&mut clients).await;
        assert_eq!(machines.len(), MACHINES);
        let used = memory(&agent);
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            times.push(restart(&mut agent, &machines).await);
        }
        let adopted = memory(&agent);
        println!("start of an agent without machines     {}", show(&mut floor));
        println!("start of one with {MACHINES} that run          {}", show(&mut times));
        println!(
            "for each machine                       {:.2} ms",
            (times[ROUNDS / 2].as_secs_f64() - floor[ROUNDS / 2].as_secs_f64()) * 1000.0 / MACHINES as f64
        );
        println!(
            "memory                                 idle {idle} KiB, {} KiB for each machine, {} KiB once adopted",
            used.saturating_sub(idle) / MACHINES as u64,
            adopted.saturating_sub(idle) / MACHINES as u64,
        );
        for uuid in machines.into_keys() {
            clients = agent.clients().await;
            clients.delete(&uuid).await.unwrap();
        }
    });
}

/// Kills the agent, and gives how long the next one takes until it serves and knows every machine.
async fn restart(agent: &mut Real, machines: &BTreeMap<String, i32>) -> Duration {
    agent.kill();
    let began = Instant::now();
    agent.begin_resume();
    while std::os::unix::net::UnixStream::connect(agent.socket()).is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut clients = agent.clients().await;
    let health = tonic_health::pb::HealthCheckRequest { service: "zoneward.v1.VmService".to_owned() };
    let mut checker = tonic_health::pb::health_client::HealthClient::new(clients.channel.clone());
    let serving = checker.check(health).await.unwrap().into_inner().status();
    assert_eq!(serving, tonic_health::pb::health_check_response::ServingStatus::Serving);
    let found = pids(&mut clients).await;
    let took = began.elapsed();
    assert_eq!(&found, machines, "the same processes");
    took
}

/// The hypervisors of machines that run or are paused.
async fn pids(clients: &mut Clients) -> BTreeMap<String, i32> {
    let vms = clients.vms.list_vms(v1::ListVmsRequest::default()).await.unwrap().into_inner().vms;
    let alive = |vm: v1::Vm| {
        let status = vm.status?;
        let known = matches!(status.state(), v1::VmState::Running | v1::VmState::Paused);
        known.then_some((vm.uuid, status.pid?))
    };
    vms.into_iter().filter_map(alive).collect()
}

fn show(times: &mut [Duration]) -> String {
    times.sort();
    let ms = |time: &Duration| time.as_secs_f64() * 1000.0;
    format!(
        "least {:.0} ms, median {:.0} ms, most {:.0} ms",
        ms(&times[0]),
        ms(&times[times.len() / 2]),
        ms(&times[times.len() - 1])
    )
}

/// Kibibytes of the agent.
fn memory(agent: &Real) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
