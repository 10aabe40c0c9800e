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
mod adoption;
mod call;
mod change;
mod claims;
mod create;
mod error;
mod files;
mod machine;
mod registry;
mod requests;

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    sync::Arc,
};

use rustix::fs::FlockOperation;
use serde_json::{Map, Value};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub use call::{BootProgress, Call, Outcome};
pub use change::shown;
pub use error::Error;
pub use files::{FileList, Uploader};
pub use registry::View;

use crate::{
    boot::Platform,
    config::Config,
    console::{Console, ConsoleHub},
    events::Journal,
    hypervisor::{Description, Hypervisor},
    layout::Layout,
    spec::{
        BootOptions, Enforcement, LimitReport, Mac, Violation, VmSpec, VmState, filter::Filter, validate,
    },
    storage,
    store::{Keep, Store, VmRecord},
};
use actor::{
    Command,
    control::{Control, parse_signal},
};
use claims::Claims;
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
    requests: Requests,
    tasks: TaskTracker,
    stopping: CancellationToken,
    /// Locked for as long as the agent lives.
    _lock: File,
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
    #[error("another agent runs with the state folder {0}; give this one folders of its own")]
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
        let layout = Layout::new(&config);
        for (folder, mode) in [(layout.zones(), 0o755), (layout.state(), 0o700), (layout.run(), 0o755)] {
            make_folder(folder, mode)?;
        }
        let lock = lock(&layout)?;
        let (store, reader, journal) = Journal::open(&layout.database(), keep(&config))?;
        let consoles = ConsoleHub::new().map_err(StartError::Consoles)?;
        let records = reader.vms()?;
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
                claims: Claims::default(),
                tasks: TaskTracker::new(),
                stopping: CancellationToken::new(),
                _lock: lock,
            }),
        };
        adoption::adopt_all(&agent, records).await;
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

    /// Whether a VM meets all filters now; nothing when it is not there.
    #[must_use]
    pub fn matches(&self, uuid: Uuid, filters: &[Filter]) -> Option<bool> {
        let view = self.inner.registry.get(uuid).ok()?.view();
        Some(filters.iter().all(|filter| filter.matches(&view.object)))
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

    /// What runs a VM; its creation made sure that there is one.
    fn hypervisor(&self, vm: &VmRecord) -> &Arc<dyn Hypervisor> {
        let platform = &self.inner.platform;
        vm.spec.brand.and_then(|brand| platform.hypervisor(brand)).unwrap_or(&platform.kvm)
    }

    /// Everything that is wrong with a machine, as [`Self::create`] would find it.
    #[must_use]
    pub fn validate(&self, spec: &VmSpec) -> Vec<Violation> {
        validate::check(spec)
    }

    /// Makes a VM.
    pub async fn create(&self, call: Call, spec: VmSpec, validate_only: bool) -> Result<VmRecord, Error> {
        create::create(self, call, spec, validate_only).await
    }

    /// Starts a VM; `progress` hears of the phases.
    pub async fn start_vm(
        &self,
        call: Call,
        uuid: Uuid,
        etag: String,
        options: BootOptions,
        progress: BootProgress,
    ) -> Result<Outcome, Error> {
        let invalid = options.check();
        if !invalid.is_empty() {
            return Err(Error::Invalid(invalid));
        }
        self.command(call, uuid, move |call, reply| Command::Start { call, etag, options, progress, reply })
            .await
    }

    /// Stops a VM: by the power button and, after `timeout_seconds`, by force; or by force at once.
    pub async fn stop_vm(
        &self,
        call: Call,
        uuid: Uuid,
        etag: String,
        force: bool,
        timeout_seconds: u32,
    ) -> Result<Outcome, Error> {
        self.command(call, uuid, move |call, reply| Command::Stop {
            call,
            etag,
            force,
            timeout_seconds,
            reply,
        })
        .await
    }

    /// Stops a VM and starts it again; or presses reset.
    pub async fn reboot_vm(
        &self,
        call: Call,
        uuid: Uuid,
        etag: String,
        force: bool,
    ) -> Result<Outcome, Error> {
        self.command(call, uuid, move |call, reply| Command::Reboot { call, etag, force, reply }).await
    }

    /// Changes a VM by vmadm's update payload.
    pub async fn update_vm(
        &self,
        call: Call,
        uuid: Uuid,
        etag: String,
        payload: Map<String, Value>,
        validate_only: bool,
    ) -> Result<Outcome, Error> {
        self.command(call, uuid, move |call, reply| Command::Update {
            call,
            etag,
            payload,
            validate_only,
            reply,
        })
        .await
    }

    /// Sends a signal to a VM's hypervisor; gives its name.
    pub async fn kill_vm(&self, call: Call, uuid: Uuid, etag: String, signal: &str) -> Result<String, Error> {
        let signal = if signal.is_empty() { "TERM" } else { signal };
        let (name, signal) = parse_signal(signal)?;
        self.control(call, uuid, etag, Control::Kill(signal)).await?;
        Ok(name)
    }

    /// Interrupts a guest.
    pub async fn inject_nmi(&self, call: Call, uuid: Uuid) -> Result<Outcome, Error> {
        self.control(call, uuid, String::new(), Control::Nmi).await
    }

    /// Wakes a guest's screen and leaves a picture of it in the zone.
    pub async fn sysrq_screenshot(&self, call: Call, uuid: Uuid) -> Result<Outcome, Error> {
        self.control(call, uuid, String::new(), Control::Screenshot).await
    }

    /// Halts a guest.
    pub async fn pause_vm(&self, call: Call, uuid: Uuid, etag: String) -> Result<Outcome, Error> {
        self.control(call, uuid, etag, Control::Pause).await
    }

    /// Lets a halted guest go on.
    pub async fn resume_vm(&self, call: Call, uuid: Uuid, etag: String) -> Result<Outcome, Error> {
        self.control(call, uuid, etag, Control::Resume).await
    }

    /// Puts `path` into the drive that has `drive`; an empty `path` takes out what is there.
    pub async fn change_media(
        &self,
        call: Call,
        uuid: Uuid,
        etag: String,
        drive: String,
        path: String,
    ) -> Result<Outcome, Error> {
        self.control(call, uuid, etag, Control::Media { drive, path }).await
    }

    async fn control(
        &self,
        call: Call,
        uuid: Uuid,
        etag: String,
        control: Control,
    ) -> Result<Outcome, Error> {
        self.command(call, uuid, move |call, reply| Command::Control { call, etag, control, reply }).await
    }

    /// Takes what only one VM may have. VMs that failed don't count.
    fn claim(&self, uuid: Uuid, spec: &VmSpec) -> Result<(), Error> {
        let failed = |owner| self.vm(owner).is_ok_and(|vm| vm.state == VmState::Failed);
        self.inner.claims.take(uuid, spec, failed)
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

    /// Removes a VM and its disks.
    pub async fn delete_vm(&self, call: Call, uuid: Uuid, etag: String) -> Result<Outcome, Error> {
        self.command(call, uuid, move |call, reply| Command::Delete { call, etag, reply }).await
    }

    /// Writes a record beside its VM, for people. The truth is in the store, so a failure is only
    /// logged.
    async fn write_vm_json(&self, record: &VmRecord) {
        let layout = self.inner.layout.vm(record.uuid);
        let text = serde_json::to_string_pretty(&change::public(record)).unwrap_or_default();
        let written = tokio::task::spawn_blocking(move || storage::write_vm_json(&layout, &text)).await;
        if let Ok(Err(error)) = written {
            tracing::debug!(vm = %record.uuid, %error, "vm.json");
        }
    }

    /// Queues a command with the VM's actor, as a task that outlives the caller.
    async fn command(
        &self,
        call: Call,
        uuid: Uuid,
        command: impl FnOnce(Call, actor::Reply) -> Command + Send + 'static,
    ) -> Result<Outcome, Error> {
        let registry = self.inner.registry.clone();
        self.once(call, move |call| async move {
            let handle = registry.get(uuid)?;
            let (reply, answer) = tokio::sync::oneshot::channel();
            handle.send(command(call, reply))?;
            answer.await.map_err(|_| Error::Stopping)?
        })
        .await
    }

    /// Runs a mutation as a tracked task, once for each request id.
    async fn once<F>(
        &self,
        call: Call,
        work: impl FnOnce(Call) -> F + Send + 'static,
    ) -> Result<Outcome, Error>
    where
        F: Future<Output = Result<Outcome, Error>> + Send + 'static,
    {
        if self.inner.stopping.is_cancelled() {
            return Err(Error::Stopping);
        }
        self.inner.requests.once(&self.inner.tasks, call, work).await
    }
}

fn keep(config: &Config) -> Keep {
    Keep {
        age: i64::from(config.journal.keep_days) * 24 * 3600 * 1000,
        bytes: i64::from(config.journal.keep_mib) << 20,
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

fn lock(layout: &Layout) -> Result<File, StartError> {
    let failed = |source| StartError::Folder { path: layout.lock(), source };
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(layout.lock()).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::Locked(layout.state().to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}
