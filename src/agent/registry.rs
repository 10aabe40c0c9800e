//! All VMs of the host, by UUID.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use prost::Message as _;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::{actor::command::Command, change, error::Error};
use crate::{
    console::Console,
    model::VmRecord,
    proto::{spec_to_proto, v1},
    spec::{filter::Filter, secret},
};

/// Bytes of machines on a page: less than what a client takes in one message.
const MAX_PAGE: usize = 3 << 20;
/// VMs that are looked at while creations wait.
const CHUNK: usize = 256;

/// The way to a VM's actor.
#[derive(Clone, Debug)]
pub(super) struct VmHandle {
    uuid: Uuid,
    zonepath: String,
    commands: mpsc::Sender<Command>,
    record: watch::Receiver<Arc<VmRecord>>,
    console: Console,
    view: Arc<Mutex<Option<Arc<View>>>>,
}

/// A VM as it is shown, made when somebody looks and kept until it changes.
#[derive(Debug)]
pub struct View {
    /// As it was last committed.
    pub record: Arc<VmRecord>,
    /// Where its zone is on the host.
    pub zonepath: String,
    /// vmadm's flat object.
    pub object: Map<String, Value>,
    /// The machine in the contract's form.
    pub spec: v1::VmSpec,
}

impl VmHandle {
    pub(super) fn new(
        uuid: Uuid,
        zonepath: String,
        commands: mpsc::Sender<Command>,
        record: watch::Receiver<Arc<VmRecord>>,
        console: Console,
    ) -> Self {
        Self { uuid, zonepath, commands, record, console, view: Arc::default() }
    }

    /// As it was last committed.
    pub(super) fn record(&self) -> Arc<VmRecord> {
        self.record.borrow().clone()
    }

    /// As it is shown. Making it takes some time, so it is kept.
    pub(super) fn view(&self) -> Arc<View> {
        let record = self.record();
        let mut kept = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.as_ref().filter(|view| view.record.generation == record.generation) {
            Some(view) => view.clone(),
            None => {
                let (object, spec) =
                    (change::object(&record, &self.zonepath), spec_to_proto(&secret::shown(&record.spec)));
                let zonepath = self.zonepath.clone();
                kept.insert(Arc::new(View { record, zonepath, object, spec })).clone()
            }
        }
    }

    pub(super) fn console(&self) -> &Console {
        &self.console
    }

    /// Queues a command; an error when the queue is full or the VM is gone.
    pub(super) fn send(&self, command: Command) -> Result<(), Error> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::QueueFull { uuid: self.uuid },
            mpsc::error::TrySendError::Closed(_) => Error::VmNotFound { uuid: self.uuid },
        })
    }
}

#[derive(Debug)]
enum Slot {
    /// Taken by a creation that is under way.
    Reserved {
        zone_index: u32,
        /// Of the reservation, so that an old one does not give back another's.
        token: Uuid,
    },
    There(VmHandle),
}

impl Slot {
    fn zone_index(&self) -> u32 {
        match self {
            Self::Reserved { zone_index, .. } => *zone_index,
            Self::There(handle) => handle.record().zone_index,
        }
    }
}

/// The VMs.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry {
    slots: Arc<RwLock<BTreeMap<Uuid, Slot>>>,
}

impl Registry {
    pub(super) fn get(&self, uuid: Uuid) -> Result<VmHandle, Error> {
        match self.read().get(&uuid) {
            Some(Slot::There(handle)) => Ok(handle.clone()),
            Some(Slot::Reserved { .. }) | None => Err(Error::VmNotFound { uuid }),
        }
    }

    /// Whether the UUID is a VM's, or taken for one.
    pub(super) fn knows(&self, uuid: Uuid) -> bool {
        self.read().contains_key(&uuid)
    }

    /// At most `limit` VMs that meet all filters, in order, from behind `after`; and whether there may be
    /// more. The lock is held for a few handles at a time only.
    pub(super) fn page(
        &self,
        mut after: Option<Uuid>,
        limit: usize,
        filters: &[Filter],
    ) -> (Vec<Arc<View>>, bool) {
        let (mut page, mut bytes) = (Vec::new(), 0);
        loop {
            let handles = self.handles(after, CHUNK);
            for handle in &handles {
                let view = handle.view();
                if !filters.iter().all(|filter| filter.matches(&view.object)) {
                    continue;
                }
                bytes += view.spec.encoded_len();
                if page.len() == limit || (bytes > MAX_PAGE && !page.is_empty()) {
                    return (page, true);
                }
                page.push(view);
            }
            match handles.last() {
                Some(last) if handles.len() == CHUNK => after = Some(last.uuid),
                _ => return (page, false),
            }
        }
    }

    /// Every VM's UUID.
    pub(super) fn uuids(&self) -> Vec<Uuid> {
        self.all().iter().map(|handle| handle.record().uuid).collect()
    }

    /// All of them, in order.
    pub(super) fn all(&self) -> Vec<VmHandle> {
        self.handles(None, usize::MAX)
    }

    fn handles(&self, after: Option<Uuid>, limit: usize) -> Vec<VmHandle> {
        let slots = self.read();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let there = slots.range((from, Bound::Unbounded)).filter_map(|(_, slot)| match slot {
            Slot::There(handle) => Some(handle.clone()),
            Slot::Reserved { .. } => None,
        });
        there.take(limit).collect()
    }

    /// Takes a UUID for a VM that is being created; given back when the guard is dropped.
    /// `users` is how many zones can have a user of their own.
    pub(super) fn reserve(&self, uuid: Uuid, users: u32) -> Result<Reservation, Error> {
        let mut slots = self.write();
        if slots.contains_key(&uuid) {
            return Err(Error::VmExists { uuid });
        }
        // The lowest that nobody has.
        let taken: HashSet<u32> = slots.values().map(Slot::zone_index).collect();
        let free = (0..users).find(|index| !taken.contains(index));
        let zone_index = free.ok_or(Error::UsersExhausted { users })?;
        let token = Uuid::new_v4();
        slots.insert(uuid, Slot::Reserved { zone_index, token });
        Ok(Reservation { registry: self.clone(), uuid, zone_index, token })
    }

    pub(super) fn insert(&self, handle: VmHandle) {
        self.write().insert(handle.uuid, Slot::There(handle));
    }

    pub(super) fn remove(&self, uuid: Uuid) {
        self.write().remove(&uuid);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<Uuid, Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<Uuid, Slot>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A UUID that is taken.
#[derive(Debug)]
pub(super) struct Reservation {
    registry: Registry,
    uuid: Uuid,
    zone_index: u32,
    token: Uuid,
}

impl Reservation {
    /// The VM's place in the host's range of zone users.
    pub(super) fn zone_index(&self) -> u32 {
        self.zone_index
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut slots = self.registry.write();
        if matches!(slots.get(&self.uuid), Some(Slot::Reserved { token, .. }) if *token == self.token) {
            slots.remove(&self.uuid);
        }
    }
}
