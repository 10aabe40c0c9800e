//! The registry of VMs: the only place where state changes.
//!
//! ```text
//!   rpc ──▶ Agent ──▶ Requests::once (a tracked task; a repeat joins it or gets its answer)
//!                        │
//!                        ▼ bounded queue
//!                     Actor of the VM ──▶ boot plan, hypervisor
//!                        │
//!                        ▼ one commit: record + events + answers
//!                     Store ──▶ Journal ──▶ watchers
//! ```
//!
//! A caller that leaves changes nothing: it only stops waiting. A stuck VM delays only its own queue.
//!
//! Its rooms; each uses only those below it:
//!
//! ```text
//!   calls, inspect, watch, refusals   what callers can ask
//!   └─ host      all VMs at once: adoption, autoboot, drain, leaks, nic tags
//!      ├─ image  images: imports, uploads, their end
//!      └─ vm     one VM: its actor, a file for each verb
//!         ├─ guest    metadata, interfaces, late phases
//!         ├─ files    uploads and files of a zone
//!         └─ context  what VMs share: the registry, claims, the one commit
//!            ├─ view     a VM as it is shown, and what differs
//!            └─ request  who asks, the reply, once for each id
//! ```

mod calls;
mod context;
mod error;
mod files;
mod guest;
mod host;
mod image;
mod inspect;
mod refusals;
mod request;
mod view;
mod vm;
mod watch;

use std::{fs::File, fs::OpenOptions, os::unix::fs::OpenOptionsExt as _, sync::Arc};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use context::VmContext;
use host::{adoption, autoboot, folders, nic_tags};

pub(crate) use context::capacity::Capacity;
pub(crate) use error::{Error, StartError};
pub(crate) use files::Uploader;
pub(crate) use host::leaks::{Leak, LeakKind};
pub(crate) use image::{FetchProgress, FetchRequest, ImageUpload, ImageUploader, ImageView, Offer};
pub(crate) use refusals::Refusals;
pub(crate) use request::{
    call::Call,
    reply::{FileReply, Reclaimed, UpdateReply, VmReply},
};
pub(crate) use view::View;
pub(crate) use watch::EventFilter;

use crate::{
    boot::Platform,
    config::Config,
    console::{Console, ConsoleHub},
    events::Journal,
    hypervisor::Description,
    layout::Layout,
    metadata::seed,
    model::{Site, VmRecord},
    network::TagReport,
    source::Sources,
    spec::{Brand, Enforcement, LimitReport, filter::Filter, place, secret},
    storage,
    store::Keep,
};

/// The agent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Agent {
    config: Arc<Config>,
    context: VmContext,
    /// Locked for as long as the agent lives.
    _locks: Arc<[File]>,
}

impl Agent {
    /// Opens the state, adopts what an earlier agent left, and returns ready to serve.
    pub async fn start(config: Config, platform: Platform) -> Result<Self, StartError> {
        let layout = config.layout();
        folders::make(&layout)?;
        let locks = folders::lock(&layout).await?;
        if let Err(error) = storage::close_state(&layout) {
            // A read-only disk must not keep an agent from its guests.
            tracing::error!(%error, folder = %layout.state().display(), "others may read the state");
        }
        // SQLite itself would only report that it can't open the file.
        let database = OpenOptions::new().append(true).create(true).mode(0o600).open(layout.database());
        database.map_err(|source| StartError::Folder { path: layout.database(), source })?;
        let state = Journal::open(&layout.database(), keep(&config))?;
        let records = mended(state.1.vms()?, &config);
        let images = state.1.images()?;
        let sources = Sources::new(&config.images).map_err(|error| StartError::Sources(error.to_string()))?;
        let consoles = ConsoleHub::new().map_err(StartError::Consoles)?;
        let server_uuid = folders::server_uuid(&layout, &config.server_uuid)?;
        let context = VmContext::new(&config, server_uuid, platform, consoles, state, sources);
        image::settle(&context, images);
        adoption::adopt_all(&context, records).await;
        autoboot::begin(&context);
        let agent = Self { config: Arc::new(config), context, _locks: locks.into() };
        agent.begin_chores();
        Ok(agent)
    }

    /// Starts the background tasks that run as long as the agent.
    fn begin_chores(&self) {
        let tasks = &self.context.tasks;
        tasks.spawn(nic_tags::watch_tags(self.context.clone()));
        tasks.spawn(files::uploads::expire(self.context.clone()));
        image::begin_again(&self.context);
        let agent = self.clone();
        tasks.spawn(async move { agent.report_leaks().await });
        // Probing the host may take seconds; this way it is done before the first VM is started.
        let platform = self.context.platform.clone();
        tasks.spawn(async move {
            platform.zone.enforcements().await;
            platform.kvm.describe().await
        });
    }

    /// Accepts no more work, and waits for accepted work. Guests continue.
    pub async fn stop(&self) {
        self.context.stopping.cancel();
        self.context.tasks.close();
        self.context.tasks.wait().await;
    }

    /// Waits until everything committed so far is published. A caller that takes a cursor first, and reads
    /// the VMs afterwards, misses nothing.
    pub async fn shown(&self) {
        self.context.shown().await;
    }

    /// Cancelled when the agent is stopping.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.context.stopping.clone()
    }

    /// Journals a call before it acts; about the host if `vm` is `None`. If that fails, as on a full disk,
    /// the call is only logged: nobody is kept from a guest's screen or console.
    pub async fn journal_call(&self, call: &Call, vm: Option<Uuid>, rpc: &str, detail: &str) {
        self.context.journal_call(call, vm, rpc, detail).await;
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The agent's paths.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.context.layout
    }

    /// Where a VM is.
    #[must_use]
    pub fn site(&self, uuid: Uuid) -> Site {
        self.context.site(uuid)
    }

    /// The host's UUID.
    #[must_use]
    pub fn server_uuid(&self) -> Uuid {
        self.context.server_uuid
    }

    /// The journal of this host.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.context.journal
    }

    /// A VM.
    pub fn vm(&self, uuid: Uuid) -> Result<Arc<VmRecord>, Error> {
        self.context.vm(uuid)
    }

    /// Returns at most `limit` VMs that match all filters, with UUIDs after `after`, in order; and whether
    /// there may be more.
    #[must_use]
    pub fn vms(&self, after: Option<Uuid>, limit: usize, filters: &[Filter]) -> (Vec<Arc<View>>, bool) {
        self.context.registry.page(after, limit, filters)
    }

    /// A VM's console.
    pub fn console(&self, uuid: Uuid) -> Result<Console, Error> {
        Ok(self.context.registry.get(uuid)?.console().clone())
    }

    /// Describes the hypervisor of each enabled brand.
    pub async fn hypervisors(&self) -> Vec<(Brand, Description)> {
        let mut all = Vec::new();
        for (_, brand) in Brand::NAMES.iter().filter(|(_, brand)| self.config.brands.runs(*brand)) {
            all.push((*brand, self.context.platform.hypervisor(*brand).describe().await));
        }
        all
    }

    /// Returns the restrictions that zones here enforce.
    pub async fn enforcements(&self) -> Vec<Enforcement> {
        self.context.platform.zone.enforcements().await
    }

    /// Returns the limits that zones can set.
    pub async fn limits(&self) -> Vec<LimitReport> {
        self.context.platform.zone.limits().await
    }

    /// Returns the host's capacity for VMs, and its use.
    #[must_use]
    pub fn capacity(&self) -> Vec<Capacity> {
        self.context.claims.capacity()
    }

    /// The nic tags of this host.
    pub async fn nic_tags(&self) -> Vec<TagReport> {
        self.context.platform.links.tags().await
    }
}

/// Completes the records of an older agent, or of one with another configuration.
fn mended(mut records: Vec<VmRecord>, config: &Config) -> Vec<VmRecord> {
    for vm in &mut records {
        let seed = seed::files(vm.uuid, &vm.spec).is_some();
        place::assign_as_before(&mut vm.spec, seed);
        vm.vnc_secret = match vm.vnc_secret.take() {
            _ if !config.vnc.require_password => None,
            None => Some(secret::new_password()),
            known => known,
        };
    }
    records
}

fn keep(config: &Config) -> Keep {
    let bytes = i64::from(config.journal.keep_mib) << 20;
    Keep {
        age: i64::from(config.journal.keep_days) * 24 * 3600 * 1000,
        bytes,
        answers: bytes / 8,
        ..Keep::default()
    }
}
