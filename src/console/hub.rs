//! One inotify instance for all consoles.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures_util::StreamExt as _;
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use tokio_util::task::AbortOnDropHandle;

use super::log::Log;

/// Interval between checks. A hypervisor writes byte by byte, and each byte would wake the agent: a guest
/// that floods its console would occupy a host CPU, whatever its own limits are.
const BEAT: Duration = Duration::from_millis(5);
/// Notifications handled at once.
const BATCH: usize = 1024;

/// Notices the growth of console logs.
#[derive(Clone, Debug)]
pub struct ConsoleHub {
    shared: Arc<Shared>,
    _reader: Arc<AbortOnDropHandle<()>>,
}

struct Shared {
    watches: Mutex<Watches>,
    logs: Mutex<HashMap<WatchDescriptor, Weak<Log>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsoleHub").finish_non_exhaustive()
    }
}

impl ConsoleHub {
    /// Starts the hub. Needs a runtime.
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let shared = Arc::new(Shared { watches: Mutex::new(inotify.watches()), logs: Mutex::default() });
        let mut events = inotify.into_event_stream(vec![0; 16 << 10])?.ready_chunks(BATCH);
        let reader = {
            let shared = shared.clone();
            tokio::spawn(async move {
                while let Some(batch) = events.next().await {
                    let (mut grown, mut missed) = (HashSet::new(), false);
                    for event in batch {
                        match event {
                            Ok(event) if event.mask.contains(EventMask::Q_OVERFLOW) => missed = true,
                            Ok(event) => _ = grown.insert(event.wd),
                            Err(error) => tracing::error!(%error, "cannot read inotify events"),
                        }
                    }
                    let shared = shared.clone();
                    // Trimming a log blocks on its disk.
                    let _ = tokio::task::spawn_blocking(move || match missed {
                        true => shared.notice_all(),
                        false => grown.iter().for_each(|descriptor| shared.notice(descriptor)),
                    })
                    .await;
                    tokio::time::sleep(BEAT).await;
                }
            })
        };
        Ok(Self { shared, _reader: Arc::new(AbortOnDropHandle::new(reader)) })
    }

    pub(super) fn add(&self, log: &Arc<Log>) -> io::Result<()> {
        // Before Linux 6.4 a splice into a file changes only its time attributes.
        let descriptor = lock(&self.shared.watches).add(&log.path, WatchMask::MODIFY | WatchMask::ATTRIB)?;
        lock(&self.shared.logs).insert(descriptor, Arc::downgrade(log));
        // Covers output from before the watch.
        log.on_growth();
        Ok(())
    }

    pub(super) fn remove(&self, log: &Arc<Log>) {
        let mut logs = lock(&self.shared.logs);
        let is_it = |watched: &Weak<Log>| std::ptr::eq(watched.as_ptr(), Arc::as_ptr(log));
        let found = logs.iter().find(|(_, watched)| is_it(watched)).map(|(descriptor, _)| descriptor.clone());
        if let Some(descriptor) = found {
            logs.remove(&descriptor);
            // The log may be gone already, and its watch with it.
            let _ = lock(&self.shared.watches).remove(descriptor);
        }
    }
}

impl Shared {
    /// Some notifications were lost: any log may have grown.
    fn notice_all(&self) {
        let all: Vec<_> = lock(&self.logs).values().filter_map(Weak::upgrade).collect();
        all.iter().for_each(|log| log.on_growth());
    }

    fn notice(&self, descriptor: &WatchDescriptor) {
        let log = lock(&self.logs).get(descriptor).and_then(Weak::upgrade);
        if let Some(log) = log {
            log.on_growth();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
