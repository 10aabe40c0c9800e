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
//! A caller that leaves changes nothing: it only stops waiting. A VM that is stuck keeps its own
//! queue waiting and nobody else's.

mod actor;
mod acts;
mod adoption;
mod autoboot;
mod call;
mod calls;
mod capacity;
mod change;
mod claims;
mod completion;
mod create;
mod disks;
mod drain;
mod error;
mod exit;
mod files;
mod findings;
mod late_phases;
mod leaks;
mod links;
mod machine;
mod metadata;
mod nic_tags;
mod registry;
mod reply;
mod requests;
mod transition;
mod uploads;
mod wanted;

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::fs::FlockOperation;
use tokio::sync::RwLock;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub use acts::Refusals;
pub use call::{BootProgress, Call};
pub use capacity::{Capacity, Resource};
pub use drain::Drained;
pub use error::Error;
pub use files::{FileList, Uploader};
pub use leaks::{Leak, LeakKind};
pub use registry::View;
pub use reply::{FileReply, Reclaimed, UpdateReply, VmReply};
pub use wanted::Wanted;

use crate::{
    boot::Platform,
    config::Config,
    console::{Console, ConsoleHub},
    events::Journal,
    hypervisor::{Description, Hypervisor},
    layout::Layout,
    metadata::seed,
    model::VmRecord,
    spec::{Enforcement, LimitReport, Mac, NicSpec, VmSpec, VmState, filter::Filter, place, secret},
    storage,
    store::{Keep, Store},
};
use capacity::Budget;
use claims::Claims;
use drain::Drain;
use registry::Registry;
use requests::Requests;

/// The agent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Agent {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    layout: Layout,
    platform: Platform,
    store: Store,
    journal: Journal,
    consoles: ConsoleHub,
    registry: Registry,
    claims: Claims,
    drain: Drain,
    requests: Requests,
    tasks: TaskTracker,
    stopping: CancellationToken,
    /// Held from a commit until what it changed is shown, so that who asks can wait for that.
    showing: RwLock<()>,
    /// Locked for as long as the agent lives.
    _locks: Vec<File>,
}

/// Why the agent can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A folder can't be used.
    #[error("{path}: {source}")]
    Folder {
        /// Which.
        path: std::path::PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another agent has the folders.
    #[error("another agent is using the directory {0}; give this agent its own directories")]
    Locked(std::path::PathBuf),
    /// The state file can't be used.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// No notifications.
    #[error("cannot watch consoles: {0}")]
    Consoles(#[source] io::Error),
}

impl Agent {
    /// Opens the state, takes over what an earlier agent left, and is ready to serve.
    pub async fn start(config: Config, platform: Platform) -> Result<Self, StartError> {
        let layout = config.layout();
        for (folder, mode) in [(layout.zones(), 0o755), (layout.state(), 0o700), (layout.run(), 0o755)] {
            make_folder(folder, mode)?;
        }
        let locks = locks(&layout).await?;
        if let Err(error) = storage::close_state(&layout) {
            // A disk that can only be read keeps no agent from its guests.
            tracing::error!(%error, folder = %layout.state().display(), "others may read the state");
        }
        // The database itself would only say that it can't be opened.
        let database = OpenOptions::new().append(true).create(true).mode(0o600).open(layout.database());
        database.map_err(|source| StartError::Folder { path: layout.database(), source })?;
        let (store, reader, journal) = Journal::open(&layout.database(), keep(&config))?;
        let consoles = ConsoleHub::new().map_err(StartError::Consoles)?;
        let records = mended(reader.vms()?, &config);
        let drain = Drain::open(layout.draining(), &platform.host_boot);
        let claims = Claims::new(Budget::new(&config.capacity, layout.zones()));
        let agent = Self {
            inner: Arc::new(Inner {
                config,
                layout,
                platform,
                requests: Requests::new(reader),
                store,
                journal,
                consoles,
                registry: Registry::default(),
                claims,
                drain,
                tasks: TaskTracker::new(),
                stopping: CancellationToken::new(),
                showing: RwLock::default(),
                _locks: locks,
            }),
        };
        adoption::adopt_all(&agent, records).await;
        autoboot::begin(&agent);
        agent.inner.tasks.spawn(nic_tags::watch_tags(agent.clone()));
        agent.inner.tasks.spawn(uploads::expire(agent.clone()));
        let looker = agent.clone();
        agent.inner.tasks.spawn(async move { leaks::report(&looker).await });
        // Finding out what the host can do may take seconds; it is done when the first VM is started.
        let platform = agent.inner.platform.clone();
        agent.inner.tasks.spawn(async move {
            platform.zone.enforcements().await;
            platform.kvm.describe().await
        });
        Ok(agent)
    }

    /// Takes no more work, and waits for what was accepted. Guests go on.
    pub async fn stop(&self) {
        self.inner.stopping.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Waits until everything that is committed now is shown. Who takes a place in the journal first, and looks at
    /// the VMs afterwards, misses nothing.
    pub async fn shown(&self) {
        drop(self.inner.showing.write().await);
    }

    /// Set when the agent takes no more work.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.inner.stopping.clone()
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Where things are.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// Where a VM's zone is on the host.
    #[must_use]
    pub fn zonepath(&self, uuid: Uuid) -> String {
        self.inner.layout.vm(uuid).zonepath().display().to_string()
    }

    /// The journal of this host.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.inner.journal
    }

    /// A VM.
    pub fn vm(&self, uuid: Uuid) -> Result<Arc<VmRecord>, Error> {
        Ok(self.inner.registry.get(uuid)?.record())
    }

    /// At most `limit` VMs that meet all filters, with UUIDs after `after`, in order; and whether there may
    /// be more.
    #[must_use]
    pub fn vms(&self, after: Option<Uuid>, limit: usize, filters: &[Filter]) -> (Vec<Arc<View>>, bool) {
        self.inner.registry.page(after, limit, filters)
    }

    /// A VM's console.
    pub fn console(&self, uuid: Uuid) -> Result<Console, Error> {
        Ok(self.inner.registry.get(uuid)?.console().clone())
    }

    /// The hypervisor of the kvm brand on this host.
    pub async fn describe_kvm(&self) -> Description {
        self.inner.platform.kvm.describe().await
    }

    /// What zones on this host keep a hypervisor from.
    pub async fn enforcements(&self) -> Vec<Enforcement> {
        self.inner.platform.zone.enforcements().await
    }

    /// What zones on this host can bound.
    pub async fn limits(&self) -> Vec<LimitReport> {
        self.inner.platform.zone.limits().await
    }

    /// What the host has for VMs, and what is left of it.
    #[must_use]
    pub fn capacity(&self) -> Vec<Capacity> {
        self.inner.claims.capacity()
    }

    /// What runs a VM; its creation made sure that there is one.
    fn hypervisor(&self, vm: &VmRecord) -> &Arc<dyn Hypervisor> {
        let platform = &self.inner.platform;
        vm.spec.brand.and_then(|brand| platform.hypervisor(brand)).unwrap_or(&platform.kvm)
    }

    /// Takes what only one VM may have. VMs that failed don't count.
    fn claim(&self, uuid: Uuid, spec: &VmSpec, running: &[NicSpec]) -> Result<(), Error> {
        let failed = |owner| self.vm(owner).is_ok_and(|vm| vm.state == VmState::Failed);
        self.inner.claims.take(uuid, spec, running, failed)
    }

    /// An address that no interface of the host has.
    fn new_mac(&self) -> Mac {
        loop {
            let mut octets = [0; 6];
            octets.copy_from_slice(&Uuid::new_v4().as_bytes()[..6]);
            let mac = Mac::local(octets);
            if !self.inner.claims.has_mac(mac) {
                return mac;
            }
        }
    }

    /// Writes a record beside its VM, for people. The truth is in the store, so a failure is only
    /// logged.
    async fn write_vm_json(&self, record: &VmRecord) {
        let layout = self.inner.layout.vm(record.uuid);
        let text = serde_json::to_string_pretty(&change::for_a_file(record, &self.zonepath(record.uuid)))
            .unwrap_or_default();
        let written = tokio::task::spawn_blocking(move || storage::write_vm_json(&layout, &text)).await;
        if let Ok(Err(error)) = written {
            tracing::debug!(vm = %record.uuid, %error, "vm.json could not be written");
        }
    }
}

/// Records with what an agent of an earlier kind, or with another configuration, did not give them.
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

fn make_folder(path: &Path, mode: u32) -> Result<(), StartError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|source| StartError::Folder { path: path.to_owned(), source })
}

/// A program that an agent was just starting when it was killed has its lock for a moment longer.
const LINGER: Duration = Duration::from_secs(2);

/// An agent has each of its folders for itself. They are locked, and not files in them: a full disk, or one that can
/// only be read, keeps no agent from its guests.
async fn locks(layout: &Layout) -> Result<Vec<File>, StartError> {
    let began = Instant::now();
    let mut locks = Vec::new();
    for folder in [layout.state(), layout.zones(), layout.run()] {
        let failed = |source| StartError::Folder { path: folder.to_owned(), source };
        let file = File::open(folder).map_err(failed)?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < LINGER => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(StartError::Locked(folder.to_owned())),
                Err(error) => return Err(failed(error.into())),
            }
        }
        locks.push(file);
    }
    Ok(locks)
}
