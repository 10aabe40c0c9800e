//! Agents in this process, with hypervisors that only pretend.

use std::{path::PathBuf, sync::Arc};

use tempfile::TempDir;
use tokio::{net::UnixListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zoneward::{
    internals::{
        agent::Agent,
        api,
        auth::Listeners,
        boot::Platform,
        config::Config,
        hypervisor::simulated::SimulatedHypervisor,
        image::InThread,
        network::simulated::SimulatedLinks,
        storage::FileVolumes,
        zone::{
            Ended,
            simulated::{SimulatedHost, SimulatedProcess},
        },
    },
    spec::Brand,
};

use super::{Clients, connect_unix, machine};

/// Wires pretended machines to pretended processes.
struct Processes(SimulatedHost);

#[tonic::async_trait]
impl zoneward::internals::hypervisor::simulated::SimulatedProcess for Processes {
    fn end(&self, uuid: Uuid) {
        if let Some(process) = self.0.process(uuid) {
            process.end(Ended::Code(0));
        }
    }

    async fn gone(&self, uuid: Uuid) {
        match self.0.process(uuid) {
            Some(process) => drop(process.until_ended().await),
            None => std::future::pending().await,
        }
    }
}

/// A pretended host, its folders, and the agent that runs on it now.
pub(crate) struct Simulated {
    pub(crate) dir: TempDir,
    pub(crate) host: SimulatedHost,
    pub(crate) hypervisor: SimulatedHypervisor,
    pub(crate) config: Config,
    /// Which boot of the host the next agent finds itself in.
    pub(crate) host_boot: String,
    running: Option<(CancellationToken, JoinHandle<()>, Agent)>,
}

impl Simulated {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// One VM on it, which runs.
    pub(crate) async fn with_a_guest(self) -> (Self, Clients, String) {
        let mut clients = self.clients().await;
        let uuid = clients.create(machine()).await;
        clients.start(&uuid).await.expect("started");
        (self, clients, uuid)
    }

    pub(crate) async fn start_with(edit: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut config = Config {
            zones_dir: dir.path().join("zones"),
            state_dir: dir.path().join("state"),
            run_dir: dir.path().join("run"),
            drain_seconds: 1,
            ..Config::default()
        };
        // Tests make more machines than this host could run.
        let none = (0.0, 0.0, 0.0);
        let capacity = &mut config.capacity;
        (capacity.ram_overcommit, capacity.vcpu_overcommit, capacity.disk_overcommit) = none;
        edit(&mut config);
        let host = SimulatedHost::default();
        let hypervisor = SimulatedHypervisor::new(Processes(host.clone()));
        let mut simulated =
            Self { dir, host, hypervisor, config, host_boot: "first".to_owned(), running: None };
        simulated.resume().await;
        simulated
    }

    pub(crate) fn platform(&self) -> Platform {
        Platform {
            zone: Arc::new(self.host.clone()),
            kvm: Arc::new(self.hypervisor.clone()),
            bhyve: Arc::new(self.hypervisor.of(Brand::Bhyve)),
            volumes: Arc::new(FileVolumes),
            converter: Arc::new(InThread),
            links: Arc::new(SimulatedLinks::new(&self.config.network)),
            host_boot: self.host_boot.clone(),
        }
    }

    /// Starts an agent on the folders that are there.
    pub(crate) async fn resume(&mut self) {
        let agent = Agent::start(self.config.clone(), self.platform()).await.expect("agent");
        let _ = std::fs::remove_file(self.socket());
        let unix = Some(UnixListener::bind(self.socket()).expect("socket"));
        let stop = CancellationToken::new();
        let serving = {
            let (agent, stop) = (agent.clone(), stop.clone());
            tokio::spawn(async move {
                api::serve(agent, Listeners { unix, tcp: None, links: None }, stop).await.expect("served");
            })
        };
        self.running = Some((stop, serving, agent));
    }

    /// Stops the agent; the pretended guests go on.
    pub(crate) async fn stop(&mut self) {
        let (stop, serving, agent) = self.running.take().expect("running");
        stop.cancel();
        serving.await.expect("served");
        agent.stop().await;
    }

    pub(crate) fn agent(&self) -> &Agent {
        &self.running.as_ref().expect("running").2
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.config.socket_path()
    }

    pub(crate) async fn clients(&self) -> Clients {
        Clients::new(connect_unix(self.socket()).await)
    }

    /// The pretended process of a VM.
    pub(crate) fn process(&self, uuid: &str) -> Arc<SimulatedProcess> {
        self.host.process(uuid.parse().expect("uuid")).expect("process")
    }

    /// The guest reads as much of what is typed.
    pub(crate) async fn typed(&self, uuid: &str, size: usize) -> Vec<u8> {
        let (process, mut read) = (self.process(uuid), Vec::new());
        super::eventually("all of it is typed", || {
            read.extend(process.read().expect("read"));
            let all = (read.len() >= size).then(|| std::mem::take(&mut read));
            async move { all }
        })
        .await
    }

    pub(crate) fn zonepath(&self, uuid: &str) -> PathBuf {
        self.config.zones_dir.join(uuid)
    }

    pub(crate) fn uuid(uuid: &str) -> Uuid {
        uuid.parse().expect("uuid")
    }
}
