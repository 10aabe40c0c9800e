//! All VMs of the host, by UUID.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::{actor::Command, error::Error};
use crate::{console::Console, store::VmRecord};

/// The way to a VM's actor.
#[derive(Clone, Debug)]
pub(super) struct VmHandle {
    uuid: Uuid,
    commands: mpsc::Sender<Command>,
    record: watch::Receiver<Arc<VmRecord>>,
    console: Console,
}

impl VmHandle {
    pub(super) fn new(
        uuid: Uuid,
        commands: mpsc::Sender<Command>,
        record: watch::Receiver<Arc<VmRecord>>,
        console: Console,
    ) -> Self {
        Self { uuid, commands, record, console }
    }

    /// As it was last committed.
    pub(super) fn record(&self) -> Arc<VmRecord> {
        self.record.borrow().clone()
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
    },
    There(VmHandle),
}

impl Slot {
    fn zone_index(&self) -> u32 {
        match self {
            Self::Reserved { zone_index } => *zone_index,
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

    pub(super) fn page(&self, after: Option<Uuid>, limit: usize) -> (Vec<Arc<VmRecord>>, bool) {
        let slots = self.read();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut there = slots.range((from, Bound::Unbounded)).filter_map(|(_, slot)| match slot {
            Slot::There(handle) => Some(handle),
            Slot::Reserved { .. } => None,
        });
        let page = there.by_ref().take(limit).map(VmHandle::record).collect();
        (page, there.next().is_some())
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
        slots.insert(uuid, Slot::Reserved { zone_index });
        Ok(Reservation { registry: self.clone(), uuid, zone_index })
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
        if matches!(slots.get(&self.uuid), Some(Slot::Reserved { .. })) {
            slots.remove(&self.uuid);
        }
    }
}
