//! What the VMs of a host share: mechanisms, the state file, claims on the host, and the way to each other.
//!
//! Actors have this and not the agent: the agent stands above them.

pub(super) mod capacity;
pub(super) mod claims;
pub(super) mod command;
pub(super) mod draining;
pub(super) mod findings;
pub(super) mod handle;
pub(super) mod registry;
pub(super) mod transition;

use std::{net::IpAddr, ops::Deref, sync::Arc, time::Duration};

use tokio::sync::RwLock;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use capacity::Budget;
use claims::Claims;
use draining::Draining;
use registry::Registry;
use transition::Transition;

use super::{
    error::Error,
    request::{call::Call, once::Requests, reply::Reply},
    view::object,
};
use crate::{
    boot::Platform,
    config::Config,
    console::ConsoleHub,
    events::Journal,
    hypervisor::Hypervisor,
    layout::{Layout, VmLayout},
    model::{Site, VmRecord},
    spec::{Mac, NicSpec, VmSpec, VmState},
    storage,
    store::{Reader, Store},
};

/// What the agent's configuration says of VMs.
#[derive(Clone, Debug)]
pub(super) struct VmSettings {
    /// How many zones can have a user of their own.
    pub(super) users: u32,
    /// MiB that a zone has beside the guest's memory.
    pub(super) overhead: i32,
    /// Bytes of a console that are kept.
    pub(super) console_bytes: u64,
    /// Where screens are served.
    pub(super) vnc_address: IpAddr,
    /// Whether each screen has a password.
    pub(super) vnc_password: bool,
    /// How many VMs are started with the host at a time; none are when it is 0.
    pub(super) autoboot_parallel: usize,
    /// How long an upload waits for its client.
    pub(super) upload_keep: Duration,
}

impl VmSettings {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            users: config.zone.uid_count,
            overhead: config.zone.min_overhead,
            console_bytes: config.console.keep_kib << 10,
            vnc_address: config.vnc.address,
            vnc_password: config.vnc.require_password,
            autoboot_parallel: usize::try_from(config.autoboot_parallel).unwrap_or(usize::MAX),
            upload_keep: Duration::from_secs(3600).saturating_mul(config.capacity.upload_hours),
        }
    }
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct VmContext(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: VmSettings,
    pub(super) layout: Layout,
    pub(super) platform: Platform,
    /// The host's.
    pub(super) server_uuid: Uuid,
    pub(super) journal: Journal,
    pub(super) consoles: ConsoleHub,
    pub(super) registry: Registry,
    pub(super) claims: Claims,
    pub(super) draining: Draining,
    pub(super) requests: Requests,
    pub(super) tasks: TaskTracker,
    /// Cancelled when the agent takes no more work.
    pub(super) stopping: CancellationToken,
    store: Store,
    /// Held from a commit until what it changed is shown, so that a reader of "now" can wait for that.
    showing: RwLock<()>,
}

impl Deref for VmContext {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl VmContext {
    /// With no VM yet.
    pub(super) fn new(
        config: &Config,
        server_uuid: Uuid,
        platform: Platform,
        consoles: ConsoleHub,
        (store, reader, journal): (Store, Reader, Journal),
    ) -> Self {
        let layout = config.layout();
        Self(Arc::new(Shared {
            settings: VmSettings::of(config),
            claims: Claims::new(Budget::new(&config.capacity, layout.zones())),
            draining: Draining::open(layout.draining(), &platform.host_boot),
            layout,
            platform,
            server_uuid,
            journal,
            consoles,
            registry: Registry::default(),
            requests: Requests::new(reader),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            store,
            showing: RwLock::default(),
        }))
    }

    /// A VM as it was last committed.
    pub(super) fn vm(&self, uuid: Uuid) -> Result<Arc<VmRecord>, Error> {
        Ok(self.registry.get(uuid)?.record())
    }

    /// A VM's places on the host.
    pub(super) fn layout_of(&self, uuid: Uuid) -> VmLayout {
        self.layout.vm(uuid)
    }

    /// Where a VM is.
    pub(super) fn site(&self, uuid: Uuid) -> Site {
        let zonepath = self.layout_of(uuid).zonepath().display().to_string();
        Site { zonepath, server_uuid: self.server_uuid }
    }

    /// The hypervisor of a VM's brand; its creation made sure that there is one.
    pub(super) fn hypervisor(&self, vm: &VmRecord) -> &Arc<dyn Hypervisor> {
        let platform = &self.platform;
        vm.spec.brand.and_then(|brand| platform.hypervisor(brand)).unwrap_or(&platform.kvm)
    }

    /// Claims for a VM what only one may have. VMs that failed don't count.
    pub(super) fn claim(&self, uuid: Uuid, spec: &VmSpec, running: &[NicSpec]) -> Result<(), Error> {
        let failed = |owner| self.vm(owner).is_ok_and(|vm| vm.state == VmState::Failed);
        self.claims.take(uuid, spec, running, failed)
    }

    /// An address that no interface of the host has.
    pub(super) fn new_mac(&self) -> Mac {
        loop {
            let mut octets = [0; 6];
            octets.copy_from_slice(&Uuid::new_v4().as_bytes()[..6]);
            let mac = Mac::local(octets);
            if !self.claims.has_mac(mac) {
                return mac;
            }
        }
    }

    /// Runs a mutation as a tracked task, once for each request id.
    pub(super) async fn once<T: Reply, F>(
        &self,
        call: Call,
        work: impl FnOnce(Call) -> F + Send + 'static,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        if self.stopping.is_cancelled() {
            return Err(Error::Stopping);
        }
        self.requests.once(&self.tasks, call, work).await
    }

    /// Journals what a caller is about to do; of the host when no VM is named. A full disk keeps nobody from looking at a
    /// guest or typing into it: then the log has the word.
    pub(super) async fn journal_call(&self, call: &Call, vm: Option<Uuid>, rpc: &str, detail: &str) {
        let event = call.made(vm, rpc, detail.to_owned());
        if let Err(error) = Transition::new(self).event(event).only().await {
            tracing::error!(actor = call.actor, ?vm, rpc, detail, %error, "done without a word in the journal");
        }
    }

    /// Waits until everything that is committed now is shown.
    pub(super) async fn shown(&self) {
        drop(self.showing.write().await);
    }

    /// Writes a record beside its VM, for people. The truth is in the store, so a failure is only logged.
    pub(super) async fn write_vm_json(&self, record: &VmRecord) {
        let layout = self.layout_of(record.uuid);
        let text = serde_json::to_string_pretty(&object::for_a_file(record, &self.site(record.uuid)))
            .unwrap_or_default();
        let written = tokio::task::spawn_blocking(move || storage::write_vm_json(&layout, &text)).await;
        if let Ok(Err(error)) = written {
            tracing::debug!(vm = %record.uuid, %error, "vm.json could not be written");
        }
    }
}
