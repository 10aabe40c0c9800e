//! All VMs of the host, by UUID.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
    sync::{Arc, PoisonError, RwLock},
};

use prost::Message as _;
use uuid::Uuid;

use crate::{
    agent::{context::handle::VmHandle, error::Error, view::View},
    spec::filter::Filter,
};

/// Bytes of machines on a page: less than a client accepts in one message.
const MAX_PAGE: usize = 3 << 20;
/// VMs read at once, while creations wait.
const CHUNK: usize = 256;

#[derive(Debug)]
enum Slot {
    /// Reserved by a creation that is under way.
    Reserved {
        zone_index: u32,
        /// The reservation's own, so that an old one does not release another.
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
pub(in crate::agent) struct Registry {
    slots: Arc<RwLock<BTreeMap<Uuid, Slot>>>,
}

impl Registry {
    pub(in crate::agent) fn get(&self, uuid: Uuid) -> Result<VmHandle, Error> {
        match self.read().get(&uuid) {
            Some(Slot::There(handle)) => Ok(handle.clone()),
            Some(Slot::Reserved { .. }) | None => Err(Error::VmNotFound { uuid }),
        }
    }

    /// Returns whether the UUID is a VM's or reserved.
    pub(in crate::agent) fn knows(&self, uuid: Uuid) -> bool {
        self.read().contains_key(&uuid)
    }

    /// Returns at most `limit` VMs after `after` that match all filters, in order; and whether there may be
    /// more. Holds the lock for only a few handles at a time.
    pub(in crate::agent) fn page(
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
                Some(last) if handles.len() == CHUNK => after = Some(last.uuid()),
                _ => return (page, false),
            }
        }
    }

    /// Every VM's UUID.
    pub(in crate::agent) fn uuids(&self) -> Vec<Uuid> {
        self.all().iter().map(|handle| handle.uuid()).collect()
    }

    /// All of them, in order.
    pub(in crate::agent) fn all(&self) -> Vec<VmHandle> {
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

    /// Reserves a UUID for a VM that is being created, until the guard is dropped. `users` is how many zones
    /// can have a user of their own.
    pub(in crate::agent) fn reserve(&self, uuid: Uuid, users: u32) -> Result<Reservation, Error> {
        let mut slots = self.write();
        if slots.contains_key(&uuid) {
            return Err(Error::VmExists { uuid });
        }
        // The lowest free index.
        let taken: HashSet<u32> = slots.values().map(Slot::zone_index).collect();
        let free = (0..users).find(|index| !taken.contains(index));
        let zone_index = free.ok_or(Error::UsersExhausted { users })?;
        let token = Uuid::new_v4();
        slots.insert(uuid, Slot::Reserved { zone_index, token });
        Ok(Reservation { registry: self.clone(), uuid, zone_index, token })
    }

    pub(in crate::agent) fn insert(&self, handle: VmHandle) {
        self.write().insert(handle.uuid(), Slot::There(handle));
    }

    pub(in crate::agent) fn remove(&self, uuid: Uuid) {
        self.write().remove(&uuid);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<Uuid, Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<Uuid, Slot>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reserved UUID.
#[derive(Debug)]
pub(in crate::agent) struct Reservation {
    registry: Registry,
    uuid: Uuid,
    zone_index: u32,
    token: Uuid,
}

impl Reservation {
    /// The VM's place in the host's range of zone users.
    pub(in crate::agent) fn zone_index(&self) -> u32 {
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
