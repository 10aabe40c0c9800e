//! Limits on connections, by identity.
//!
//! ```text
//!   TCP ──▶ on the way in (a few hundred; the newest pushes out the oldest of the address that has most)
//!              │ handshake                              UNIX ──▶ places of its own
//!              ▼
//!           in: so many of one identity, so many that are no admin's; the rest is kept for admins
//! ```
//!
//! Nobody waits for a place: a connection without one is closed, and that is logged now and then.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{peer::Peer, role::Role};

/// Connections at once over TCP; those that are no admin's, and of one identity, admin or not.
const ALL: usize = 1024;
const ALL_OTHERS: usize = 768;
const OF_ADMIN: usize = 256;
const OF_OTHER: usize = 64;
/// Connections at once on the UNIX socket.
const UNIX: usize = 256;
/// Connections at once that are not yet authenticated.
const ON_THE_WAY: usize = 256;
/// Interval of log lines about connections that were sent away.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The places of one agent.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    next: u64,
    /// In the order in which they came.
    on_the_way: Vec<Coming>,
    by_identity: HashMap<Arc<str>, usize>,
    all: usize,
    others: usize,
    unix: usize,
    complaints: Complaints,
}

#[derive(Debug)]
struct Coming {
    number: u64,
    address: IpAddr,
    out: CancellationToken,
}

/// A place, released when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    OnTheWay(u64),
    In(Arc<str>, Role),
    Unix,
}

impl Places {
    /// Takes a place on the way in; its token is cancelled to make room.
    pub(super) fn come(&self, address: IpAddr) -> (Place, CancellationToken) {
        let mut held = self.lock();
        if held.on_the_way.len() >= ON_THE_WAY {
            held.push_out();
        }
        held.next += 1;
        let (number, out) = (held.next, CancellationToken::new());
        held.on_the_way.push(Coming { number, address, out: out.clone() });
        (Place { places: self.clone(), kind: Kind::OnTheWay(number) }, out)
    }

    /// Takes a place for an authenticated peer, if one is free.
    pub(super) fn enter(&self, peer: &Peer) -> Option<Place> {
        let mut held = self.lock();
        let is_admin = peer.role == Role::Admin;
        let own = held.by_identity.get(&peer.name).copied().unwrap_or_default();
        let most = if is_admin { OF_ADMIN } else { OF_OTHER };
        if own >= most || held.all >= ALL || (!is_admin && held.others >= ALL_OTHERS) {
            held.complaints.tell(&format!("{} has {own} connections, of {most} at most", peer.name));
            return None;
        }
        *held.by_identity.entry(peer.name.clone()).or_default() += 1;
        held.all += 1;
        held.others += usize::from(!is_admin);
        Some(Place { places: self.clone(), kind: Kind::In(peer.name.clone(), peer.role) })
    }

    /// Takes a place on the UNIX socket, if one is free.
    pub(super) fn enter_unix(&self) -> Option<Place> {
        let mut held = self.lock();
        if held.unix >= UNIX {
            held.complaints.tell(&format!("the UNIX socket has {UNIX} connections"));
            return None;
        }
        held.unix += 1;
        Some(Place { places: self.clone(), kind: Kind::Unix })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Closes the oldest connection of the address that has most on the way.
    fn push_out(&mut self) {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for coming in &self.on_the_way {
            *counts.entry(coming.address).or_default() += 1;
        }
        let Some((address, count)) = counts.into_iter().max_by_key(|(_, count)| *count) else { return };
        if let Some(oldest) = self.on_the_way.iter().position(|coming| coming.address == address) {
            self.on_the_way.remove(oldest).out.cancel();
        }
        self.complaints.tell(&format!("{count} connections from {address} are silent"));
    }
}

/// Logs the connections that are not served: now and then one line for all.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    told: Option<Instant>,
    untold: u64,
}

impl Complaints {
    pub(super) fn tell(&mut self, why: &str) {
        self.untold += 1;
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            tracing::warn!(sent_away = self.untold, why, "connections were sent away");
            (self.told, self.untold) = (Some(Instant::now()), 0);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.lock();
        match &self.kind {
            Kind::OnTheWay(number) => held.on_the_way.retain(|coming| coming.number != *number),
            Kind::Unix => held.unix -= 1,
            Kind::In(name, role) => {
                held.all -= 1;
                held.others -= usize::from(*role != Role::Admin);
                if let Some(own) = held.by_identity.get_mut(name) {
                    *own -= 1;
                    if *own == 0 {
                        held.by_identity.remove(name);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(role: Role, name: &str) -> Peer {
        Peer::new(name.into(), role)
    }

    #[test]
    fn one_identity_leaves_places_for_others_and_all_others_for_admins() {
        let places = Places::default();
        let mut held = Vec::new();
        for viewer in 0..ALL_OTHERS / OF_OTHER {
            let viewer = peer(Role::Viewer, &format!("v{viewer}"));
            held.extend((0..OF_OTHER).map(|_| places.enter(&viewer).unwrap()));
            assert!(places.enter(&viewer).is_none());
        }
        assert!(places.enter(&peer(Role::Operator, "o")).is_none(), "no place that is no admin's");
        let admin = peer(Role::Admin, "a");
        held.extend((0..OF_ADMIN).map(|_| places.enter(&admin).unwrap()));
        assert!(places.enter(&admin).is_none());
        let unix: Vec<_> = (0..UNIX).map(|_| places.enter_unix().unwrap()).collect();
        assert!(places.enter_unix().is_none());
        drop((held, unix));
        let empty = places.lock();
        assert_eq!((empty.all, empty.others, empty.unix, empty.by_identity.len()), (0, 0, 0, 0));
    }

    #[test]
    fn the_newest_comes_in_on_the_way() {
        let places = Places::default();
        let (many, one): (IpAddr, IpAddr) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let (_first, stays) = places.come(one);
        let silent: Vec<_> = (1..ON_THE_WAY).map(|_| places.come(many)).collect();
        assert!(silent.iter().all(|(_, out)| !out.is_cancelled()));
        let (_newest, newest) = places.come(many);
        assert!(silent[0].1.is_cancelled() && !silent[1].1.is_cancelled());
        assert!(!stays.is_cancelled() && !newest.is_cancelled());
        drop(silent);
        assert_eq!(places.lock().on_the_way.len(), 2);
    }
}
