//! The context that all VMs of a host share: mechanisms, the state file, claims on the host, and the
//! registry.
//!
//! Actors hold the context and not the agent: the agent stands above them.

pub(super) mod capacity;
pub(super) mod claims;
pub(super) mod command;
pub(super) mod draining;
pub(super) mod findings;
pub(super) mod handle;
pub(super) mod images;
pub(super) mod registry;
pub(super) mod transition;

use std::{net::IpAddr, ops::Deref, sync::Arc, time::Duration};

use tokio::sync::{RwLock, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use capacity::Budget;
use claims::Claims;
use draining::Draining;
use images::Images;
use registry::Registry;
use transition::Transition;

use super::{
    error::Error,
    request::{call::Call, once::Requests, reply::Reply},
    view::object,
};
use crate::{
    boot::Platform,
    config::{Brands, Config},
    console::ConsoleHub,
    events::Journal,
    hypervisor::Hypervisor,
    layout::{Layout, VmLayout},
    model::{Site, VmRecord},
    source::Sources,
    spec::{Brand, Mac, NicSpec, VmSpec, VmState},
    storage,
    store::{Reader, Store},
};

/// Fetches and uploads of images that run at the same time; others wait.
const IMPORTS: usize = 4;
const UPLOADS: usize = 16;
pub(super) const SEATS: usize = 64;
pub(super) const EXPORTS: usize = 16;

/// The agent's settings for VMs.
#[derive(Clone, Debug)]
pub(super) struct VmSettings {
    /// Which brands run.
    pub(super) brands: Brands,
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
    /// How many VMs autoboot starts at a time; 0 starts none.
    pub(super) autoboot_parallel: usize,
    /// How long an upload waits for its client.
    pub(super) upload_keep: Duration,
    /// Largest disk of an image, in bytes.
    pub(super) image_bytes: u64,
}

impl VmSettings {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            brands: config.brands,
            users: config.zone.uid_count,
            overhead: config.zone.min_overhead,
            console_bytes: config.console.keep_kib << 10,
            vnc_address: config.vnc.address,
            vnc_password: config.vnc.require_password,
            autoboot_parallel: usize::try_from(config.autoboot_parallel).unwrap_or(usize::MAX),
            image_bytes: u64::from(config.images.max_gib) << 30,
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
    pub(super) images: Images,
    pub(super) sources: Sources,
    /// Fetches that may run at the same time.
    pub(super) import_turns: Semaphore,
    /// The same of uploads: slow clients do not hold up fetches.
    pub(super) upload_turns: Semaphore,
    /// Uploads that are there, with those that wait for a turn.
    pub(super) upload_seats: Arc<Semaphore>,
    /// Exports that may run at the same time: each has a thread.
    pub(super) export_turns: Arc<Semaphore>,
    pub(super) draining: Draining,
    pub(super) requests: Requests,
    pub(super) tasks: TaskTracker,
    /// Cancelled when the agent takes no more work.
    pub(super) stopping: CancellationToken,
    store: Store,
    /// Held from a commit until its change is published, so that a reader of "now" can wait for that.
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
        sources: Sources,
    ) -> Self {
        let layout = config.layout();
        Self(Arc::new(Shared {
            settings: VmSettings::of(config),
            claims: Claims::new(Budget::new(&config.capacity, layout.zones())),
            images: Images::default(),
            sources,
            import_turns: Semaphore::new(IMPORTS),
            upload_turns: Semaphore::new(UPLOADS),
            upload_seats: Arc::new(Semaphore::new(SEATS)),
            export_turns: Arc::new(Semaphore::new(EXPORTS)),
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

    /// Returns a VM's committed record.
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

    /// Returns the hypervisor of a VM's brand.
    pub(super) fn hypervisor(&self, vm: &VmRecord) -> &Arc<dyn Hypervisor> {
        self.hypervisor_of(&vm.spec)
    }

    /// Returns the hypervisor of a machine's brand.
    pub(super) fn hypervisor_of(&self, spec: &VmSpec) -> &Arc<dyn Hypervisor> {
        self.platform.hypervisor(spec.brand())
    }

    /// Fails if this host runs no VMs of the brand.
    pub(super) fn check_brand(&self, brand: Brand) -> Result<(), Error> {
        if self.settings.brands.runs(brand) {
            return Ok(());
        }
        let name = brand.as_str();
        Err(Error::Unsupported {
            capability: format!("brand:{name}"),
            message: format!(
                "brand {name} is switched off on this host (brands.{name} in the configuration)"
            ),
        })
    }

    /// Claims a VM's exclusive resources. Claims of failed VMs do not count.
    pub(super) fn claim(&self, uuid: Uuid, spec: &VmSpec, running: &[NicSpec]) -> Result<(), Error> {
        let failed = |owner| self.vm(owner).is_ok_and(|vm| vm.state == VmState::Failed);
        self.claims.take(uuid, spec, running, failed)
    }

    /// Creates a MAC address that no interface has.
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

    /// Journals a call before it acts; about the host if `vm` is `None`. If that fails, as on a full disk,
    /// the call is only logged: nobody is kept from a guest's screen or console.
    pub(super) async fn journal_call(&self, call: &Call, vm: Option<Uuid>, rpc: &str, detail: &str) {
        let event = call.made(vm, rpc, detail.to_owned());
        if let Err(error) = Transition::new(self).event(event).only().await {
            tracing::error!(actor = call.actor, ?vm, rpc, detail, %error, "done without a word in the journal");
        }
    }

    /// Waits until everything committed so far is published.
    pub(super) async fn shown(&self) {
        drop(self.showing.write().await);
    }

    /// Writes a VM's record to `vm.json`, for people. The store is authoritative, so a failure is only
    /// logged.
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
