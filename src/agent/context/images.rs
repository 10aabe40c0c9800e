//! The images of the host, by UUID: their records, who uses them, and the imports that are under way.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64},
    },
};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    agent::error::Error,
    model::{ImageRecord, ImageState},
};

/// How far an import is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::agent) struct Progress {
    /// Bytes of the file that have arrived.
    pub(in crate::agent) received: u64,
    /// Of so many, where that is known.
    pub(in crate::agent) total: Option<u64>,
    /// The result; `None` while it is under way.
    pub(in crate::agent) outcome: Option<Result<Arc<ImageRecord>, Error>>,
}

/// An import that is under way.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Import {
    pub(in crate::agent) progress: watch::Receiver<Progress>,
    pub(in crate::agent) cancel: CancellationToken,
    /// Where its bytes are sent, if a client uploads them.
    pub(in crate::agent) upload: Option<Seat>,
}

/// The place of the one client that sends an image's bytes.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Seat {
    pub(in crate::agent) sender: mpsc::Sender<Bytes>,
    /// Bytes that were taken over.
    pub(in crate::agent) received: Arc<AtomicU64>,
    pub(in crate::agent) is_taken: Arc<AtomicBool>,
    /// Bytes of the file.
    pub(in crate::agent) size: u64,
    /// It is a raw disk, whatever it looks like.
    pub(in crate::agent) is_raw: bool,
}

#[derive(Debug)]
struct Entry {
    record: Arc<ImageRecord>,
    /// Creations of VMs and imports of differences that need it to stay.
    held: usize,
    /// It is about to be deleted.
    is_leaving: bool,
    import: Option<Import>,
}

/// The images.
#[derive(Clone, Debug, Default)]
pub(in crate::agent) struct Images(Arc<Mutex<BTreeMap<Uuid, Entry>>>, Arc<Mutex<HashSet<Uuid>>>);

impl Images {
    /// Any image.
    pub(in crate::agent) fn get(&self, uuid: Uuid) -> Result<Arc<ImageRecord>, Error> {
        self.lock()
            .get(&uuid)
            .map(|entry| entry.record.clone())
            .ok_or(Error::ImageNotFound { image: uuid.to_string() })
    }

    /// An image that can be used.
    pub(in crate::agent) fn active(&self, uuid: Uuid) -> Option<Arc<ImageRecord>> {
        self.get(uuid).ok().filter(|image| image.state == ImageState::Active)
    }

    /// The first active image that `is_wanted` says.
    pub(in crate::agent) fn find(
        &self,
        is_wanted: impl Fn(&ImageRecord) -> bool,
    ) -> Option<Arc<ImageRecord>> {
        self.lock().values().map(|entry| &entry.record).find(|image| is_wanted(image)).cloned()
    }

    /// At most `limit` images after `after`, and whether there are more.
    pub(in crate::agent) fn page(&self, after: Option<Uuid>, limit: usize) -> (Vec<Arc<ImageRecord>>, bool) {
        let images = self.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = images.range((from, Bound::Unbounded)).map(|(_, entry)| entry.record.clone());
        let page = rest.by_ref().take(limit).collect();
        (page, rest.next().is_some())
    }

    /// Images that are a difference from this one.
    pub(in crate::agent) fn derived(&self, uuid: Uuid) -> Vec<Uuid> {
        let images = self.lock();
        let is_derived = |entry: &&Entry| entry.record.manifest.origin() == Some(uuid);
        images.values().filter(is_derived).map(|entry| entry.record.uuid).collect()
    }

    /// The import of an image, while it is under way.
    pub(in crate::agent) fn import(&self, uuid: Uuid) -> Option<Import> {
        self.lock().get(&uuid)?.import.clone()
    }

    /// Reserves the UUID of a new image until its record is known; fails if it is taken.
    pub(in crate::agent) fn reserve(&self, uuid: Uuid) -> Result<ReservedImage, Error> {
        let images = self.lock();
        let mut reserved = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        if images.contains_key(&uuid) || !reserved.insert(uuid) {
            let message = format!("image {uuid} exists, or another request is importing it");
            return Err(Error::ImageExists { uuid, message });
        }
        Ok(ReservedImage { reserved: self.1.clone(), uuid })
    }

    /// Records an image as it is now, with its import while that is under way.
    pub(in crate::agent) fn put(&self, record: Arc<ImageRecord>, import: Option<Import>) {
        let mut images = self.lock();
        match images.get_mut(&record.uuid) {
            Some(entry) => (entry.record, entry.import) = (record, import),
            None => drop(images.insert(record.uuid, Entry { record, held: 0, is_leaving: false, import })),
        }
    }

    /// Forgets an image.
    pub(in crate::agent) fn remove(&self, uuid: Uuid) {
        self.lock().remove(&uuid);
    }

    /// Keeps an active image from deletion until the guard is dropped.
    pub(in crate::agent) fn hold(&self, uuid: Uuid) -> Result<HeldImage, Error> {
        let mut images = self.lock();
        let entry = images
            .get_mut(&uuid)
            .filter(|entry| entry.record.state == ImageState::Active && !entry.is_leaving);
        let entry = entry.ok_or(Error::ImageNotFound { image: uuid.to_string() })?;
        entry.held += 1;
        Ok(HeldImage { images: self.clone(), record: entry.record.clone() })
    }

    /// Lets nobody hold the image from here on; fails while somebody does.
    pub(in crate::agent) fn leave(&self, uuid: Uuid) -> Result<(), Error> {
        let mut images = self.lock();
        let entry = images.get_mut(&uuid).ok_or(Error::ImageNotFound { image: uuid.to_string() })?;
        if entry.held > 0 || entry.is_leaving {
            let message = format!("image {uuid} is in use by a request that is under way; try again later");
            return Err(Error::ImageInUse { uuid, vms: Vec::new(), images: Vec::new(), message });
        }
        entry.is_leaving = true;
        Ok(())
    }

    /// It stays after all.
    pub(in crate::agent) fn stay(&self, uuid: Uuid) {
        if let Some(entry) = self.lock().get_mut(&uuid) {
            entry.is_leaving = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reserved UUID.
#[derive(Debug)]
pub(in crate::agent) struct ReservedImage {
    reserved: Arc<Mutex<HashSet<Uuid>>>,
    uuid: Uuid,
}

impl Drop for ReservedImage {
    fn drop(&mut self) {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.uuid);
    }
}

/// An image that stays.
#[derive(Debug)]
pub(in crate::agent) struct HeldImage {
    images: Images,
    /// Its record.
    pub(in crate::agent) record: Arc<ImageRecord>,
}

impl Drop for HeldImage {
    fn drop(&mut self) {
        if let Some(entry) = self.images.lock().get_mut(&self.record.uuid) {
            entry.held = entry.held.saturating_sub(1);
        }
    }
}
