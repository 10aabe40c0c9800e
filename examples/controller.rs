//! A small controller: places a VM on the host with the most free memory, boots it, follows its events and its console,
//! and removes it again.
//!
//!     cargo run --example controller --no-default-features --features client -- \
//!         unix:/run/zoneward/zoneward.sock https://host2.example:9443
//!
//! It stands for the part of a datacenter controller that talks to agents: it keeps nothing, and may be killed at any
//! time. Every change has a request id, so that a repeat is answered and not done again.

use std::{error::Error, io::Write as _};

use uuid::Uuid;
use zoneward::{
    client::{
        Agent, Certificates, ConsoleLog, Endpoint, EventWatcher, Printed, Reason, Watched, persist, reason,
    },
    proto::v1::{self, event::Kind, watch_events_request::Start},
};

type AnyError = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    run(std::env::args().skip(1)).await
}

pub(crate) async fn run(endpoints: impl Iterator<Item = String>) -> Result<(), AnyError> {
    let mut agents = Vec::new();
    for endpoint in endpoints {
        let endpoint = Endpoint::parse(&endpoint, Certificates::default())?;
        agents.push(Agent::connect(&endpoint).await?);
    }
    let agent = place(agents).await?.ok_or("no host was named")?;
    let uuid = create(&agent).await?;
    println!("created {uuid}");
    let followed = tokio::spawn(follow_events(agent.clone(), uuid.clone()));
    boot(&agent, &uuid).await?;
    first_line(&agent, &uuid).await?;
    remove(&agent, &uuid).await?;
    followed.await??;
    Ok(())
}

/// The host with the most memory left for VMs.
async fn place(agents: Vec<Agent>) -> Result<Option<Agent>, AnyError> {
    let mut best: Option<(i64, Agent)> = None;
    for agent in agents {
        let host = agent.host.clone().get_host(v1::GetHostRequest {}).await?.into_inner();
        let ram = host.capacity.iter().find(|capacity| capacity.resource == "ram");
        let free = ram.map_or(0, |ram| ram.limit.unwrap_or(ram.total) - ram.promised);
        if best.as_ref().is_none_or(|(most, _)| free > *most) {
            best = Some((free, agent));
        }
    }
    Ok(best.map(|(_, agent)| agent))
}

async fn create(agent: &Agent) -> Result<String, AnyError> {
    let vm = v1::VmSpec {
        brand: "kvm".into(),
        alias: Some("from-the-controller".into()),
        ram: Some(128),
        autoboot: Some(false),
        disks: vec![v1::DiskSpec { size: Some(16), model: Some("virtio".into()), ..Default::default() }],
        ..Default::default()
    };
    let request =
        v1::CreateVmRequest { vm: Some(vm), request_id: Uuid::new_v4().to_string(), ..Default::default() };
    let created = persist(lost, || {
        let (mut vms, request) = (agent.vms.clone(), request.clone());
        async move { vms.create_vm(request).await }
    });
    match created.await {
        Ok(created) => Ok(created.vm.unwrap_or_default().uuid),
        Err(status) if reason(&status) == Some(Reason::Capacity) => {
            Err("the host is full; try another".into())
        }
        Err(status) => Err(status.into()),
    }
}

/// Boots the VM and prints its phases.
async fn boot(agent: &Agent, uuid: &str) -> Result<(), AnyError> {
    let request = v1::StartVmRequest {
        uuid: uuid.to_owned(),
        request_id: Uuid::new_v4().to_string(),
        ..Default::default()
    };
    let mut phases = agent.vms.clone().start_vm(request).await?.into_inner();
    while let Some(item) = phases.message().await? {
        if let Some(v1::start_vm_response::Item::Phase(phase)) = item.item {
            println!("{} after {} us", phase.phase().as_str_name(), phase.elapsed_us);
        }
    }
    Ok(())
}

/// Prints the first line of the VM's console.
async fn first_line(agent: &Agent, uuid: &str) -> Result<(), AnyError> {
    let mut console = ConsoleLog::follow(agent.consoles.clone(), uuid, 0).await?;
    let mut out = std::io::stdout();
    loop {
        if let Printed::Bytes(bytes) = console.next().await? {
            out.write_all(&bytes)?;
            if bytes.contains(&b'\n') {
                return Ok(out.flush()?);
            }
        }
    }
}

/// Prints what happens to the VM, until it is deleted. A watch that breaks continues from its cursor.
async fn follow_events(agent: Agent, uuid: String) -> Result<(), AnyError> {
    let request = v1::WatchEventsRequest {
        uuids: vec![uuid],
        start: Some(Start::Snapshot(true)),
        ..Default::default()
    };
    let mut watcher = EventWatcher::start(agent.events, request).await?;
    loop {
        let Watched::Event(event) = watcher.next().await? else { continue };
        match event.kind {
            Some(Kind::Modified(modified)) => {
                let paths: Vec<_> = modified.changes.into_iter().map(|change| change.path).collect();
                println!("event {}: changed {}", event.sequence, paths.join(", "));
            }
            Some(Kind::Deleted(_)) => {
                println!("event {}: deleted", event.sequence);
                return Ok(());
            }
            _ => {}
        }
    }
}

async fn remove(agent: &Agent, uuid: &str) -> Result<(), AnyError> {
    let request = v1::DeleteVmRequest {
        uuid: uuid.to_owned(),
        request_id: Uuid::new_v4().to_string(),
        ..Default::default()
    };
    persist(lost, || {
        let (mut vms, request) = (agent.vms.clone(), request.clone());
        async move { vms.delete_vm(request).await }
    })
    .await?;
    Ok(())
}

fn lost() {
    eprintln!("the agent is lost; asking again by the same request id");
}
