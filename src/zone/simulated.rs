//! Zones without processes, for tests of everything above and for load.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _, Write as _},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
};

use async_trait::async_trait;
use tokio::sync::watch;
use uuid::Uuid;

use super::{Ended, Found, Group, Launch, Process, Zone, ZoneError};
use crate::{
    layout::VmLayout,
    spec::{Enforcement, LimitReport, Limits, Restriction},
};

/// A host that only pretends. It outlives the agents that use it, as a real one does.
#[derive(Clone, Debug, Default)]
pub struct SimulatedHost {
    guests: Arc<Mutex<HashMap<Uuid, Arc<SimulatedProcess>>>>,
    next_pid: Arc<AtomicI32>,
    groups: Arc<Mutex<Vec<Group>>>,
    blind: Arc<AtomicBool>,
}

/// A pretended hypervisor process.
#[derive(Debug)]
pub struct SimulatedProcess {
    pid: i32,
    console: Mutex<File>,
    /// None once it ended.
    input: Mutex<Option<File>>,
    ended: watch::Sender<Option<Ended>>,
    bounds: Mutex<Limits>,
    /// The program's arguments.
    pub arguments: Vec<String>,
}

impl SimulatedHost {
    /// Hides which processes live.
    pub fn set_blind(&self, blind: bool) {
        self.blind.store(blind, Ordering::Relaxed);
    }

    /// Sets its control groups.
    pub fn set_groups(&self, groups: Vec<Group>) {
        *self.groups.lock().unwrap_or_else(PoisonError::into_inner) = groups;
    }

    /// Returns a VM's process, alive or not.
    #[must_use]
    pub fn process(&self, uuid: Uuid) -> Option<Arc<SimulatedProcess>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner).get(&uuid).cloned()
    }
}

impl SimulatedProcess {
    /// Prints as the guest.
    pub fn print(&self, text: &str) {
        let mut console = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = console.write_all(text.as_bytes()) {
            tracing::warn!(%error, "console write failed");
        }
    }

    /// Reads, as the guest, all unread input.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(input) = input.as_mut() else { return Ok(Vec::new()) };
        let mut typed = Vec::new();
        let waits = rustix::io::ioctl_fionread(&*input)?;
        input.take(waits).read_to_end(&mut typed)?;
        Ok(typed)
    }

    /// Returns the number of unread bytes.
    #[must_use]
    pub fn unread(&self) -> u64 {
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        input.as_ref().and_then(|input| rustix::io::ioctl_fionread(input).ok()).unwrap_or(0)
    }

    /// Ends the process.
    pub fn end(&self, how: Ended) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(how);
            first
        });
        self.input.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Returns its limits.
    #[must_use]
    pub fn bounds(&self) -> Limits {
        *self.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it lives.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.ended.borrow().is_none()
    }

    /// Waits until it is gone.
    pub async fn until_ended(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        ended.wait_for(Option::is_some).await.ok().and_then(|how| *how).unwrap_or(Ended::Unseen)
    }
}

/// A pretended host pretends to enforce everything.
fn enforcements() -> Vec<Enforcement> {
    let enforced = |(_, restriction): &(&str, Restriction)| Enforcement {
        restriction: *restriction,
        mechanisms: vec!["simulated".to_owned()],
        reason: String::new(),
    };
    Restriction::ALL.iter().map(enforced).collect()
}

/// Properties that it pretends to bound, in the order of a real host's.
const PROPERTIES: [&str; 6] =
    ["cpu_cap", "cpu_shares", "max_physical_memory", "max_swap", "max_lwps", "zfs_io_priority"];

fn limit(property: &str, value: String) -> LimitReport {
    LimitReport {
        property: property.to_owned(),
        mechanism: format!("simulated{value}"),
        reason: String::new(),
    }
}

/// Reports a process's limits as enforced.
fn bounded(limits: &Limits) -> Vec<LimitReport> {
    let values = [
        limits.cpu_cap.unwrap_or(0).into(),
        limits.cpu_shares.into(),
        limits.memory >> 20,
        limits.memory_and_swap >> 20,
        limits.threads.into(),
        limits.io_priority.into(),
    ];
    PROPERTIES.iter().zip(values).map(|(property, value)| limit(property, format!("={value}"))).collect()
}

#[async_trait]
impl Zone for SimulatedHost {
    async fn enforcements(&self) -> Vec<Enforcement> {
        enforcements()
    }

    async fn limits(&self) -> Vec<LimitReport> {
        PROPERTIES.map(|property| limit(property, String::new())).into()
    }

    fn user(&self, index: u32) -> u32 {
        index
    }

    async fn spawn(&self, layout: &VmLayout, launch: Launch) -> Result<Arc<dyn Process>, ZoneError> {
        std::fs::write(layout.process(), "{}").map_err(ZoneError::at("writing process.json"))?;
        let process = Arc::new(SimulatedProcess {
            pid: 100_000 + self.next_pid.fetch_add(1, Ordering::Relaxed),
            console: Mutex::new(launch.output),
            input: Mutex::new(Some(launch.input)),
            ended: watch::channel(None).0,
            bounds: Mutex::new(launch.limits),
            arguments: launch.arguments,
        });
        self.guests.lock().unwrap_or_else(PoisonError::into_inner).insert(launch.uuid, process.clone());
        Ok(Arc::new(SimulatedHandle::new(process)))
    }

    fn find(&self, uuid: Uuid, layout: &VmLayout) -> Found {
        match self.process(uuid) {
            _ if self.blind.load(Ordering::Relaxed) => Found::Unknown("simulated blindness".to_owned()),
            Some(process) if process.is_alive() && layout.process().exists() => {
                Found::Alive(Arc::new(SimulatedHandle::new(process)))
            }
            Some(process) => Found::Gone(process.ended.borrow().unwrap_or(Ended::Unseen)),
            None => Found::Gone(Ended::Unseen),
        }
    }

    async fn forget(&self, _uuid: Uuid, layout: &VmLayout) {
        let _ = std::fs::remove_file(layout.process());
    }

    async fn groups(&self) -> Vec<Group> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn remove_group(&self, group: &Path) -> Result<(), ZoneError> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| other.path != group);
        Ok(())
    }
}

#[derive(Debug)]
struct SimulatedHandle {
    process: Arc<SimulatedProcess>,
    enforcements: Vec<Enforcement>,
    limits: Vec<LimitReport>,
}

impl SimulatedHandle {
    fn new(process: Arc<SimulatedProcess>) -> Self {
        let limits = bounded(&process.bounds());
        Self { process, enforcements: enforcements(), limits }
    }
}

#[async_trait]
impl Process for SimulatedHandle {
    fn pid(&self) -> i32 {
        self.process.pid
    }

    fn enforcements(&self) -> &[Enforcement] {
        &self.enforcements
    }

    fn limits(&self) -> &[LimitReport] {
        &self.limits
    }

    fn bound(&self, limits: &Limits) -> Vec<LimitReport> {
        *self.process.bounds.lock().unwrap_or_else(PoisonError::into_inner) = *limits;
        bounded(limits)
    }

    async fn ended(&self) -> Ended {
        self.process.until_ended().await
    }

    fn signal(&self, signal: rustix::process::Signal) -> Result<(), ZoneError> {
        let deadly = [rustix::process::Signal::TERM, rustix::process::Signal::KILL];
        if deadly.contains(&signal) {
            self.process.end(Ended::Signal(signal.as_raw()));
        }
        Ok(())
    }

    fn kill(&self) -> Result<(), ZoneError> {
        self.process.end(Ended::Signal(9));
        Ok(())
    }
}
