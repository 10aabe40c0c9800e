//! The peer at the other end of a connection, and its activity.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use super::role::Role;

/// A client's certificates, leaf first.
pub(crate) type Chain = Arc<[CertificateDer<'static>]>;

/// A caller. Each request carries it in its extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// As the journal names the caller: a SPIFFE ID, or `unix:uid=0`.
    pub name: Arc<str>,
    /// What the caller may do.
    pub role: Role,
    /// Its certificates; `None` on the UNIX socket.
    pub(crate) chain: Option<Chain>,
    /// Its connection's activity.
    pub(super) activity: Activity,
}

/// The activity on a connection. Not a part of the peer's identity.
#[derive(Clone, Debug, Default)]
pub(super) struct Activity(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    heard: AtomicBool,
    asked: AtomicBool,
    calls: AtomicUsize,
}

impl PartialEq for Activity {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Activity {}

/// A call that is under way, until this is dropped.
#[derive(Debug)]
pub(super) struct UnderWay(Activity);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a connection may take to send its first byte and its first request.
const FIRST_BYTE: Duration = Duration::from_secs(10);
const FIRST_REQUEST: Duration = Duration::from_secs(60);

impl Activity {
    /// Begins a call; `None` when `most` are under way.
    pub(super) fn begin_call(&self, most: usize) -> Option<UnderWay> {
        self.0.asked.store(true, Ordering::Relaxed);
        let before = self.0.calls.fetch_add(1, Ordering::Relaxed);
        let call = UnderWay(self.clone());
        (before < most).then_some(call)
    }

    /// Notes that the client spoke.
    pub(super) fn is_heard(&self) {
        if !self.0.heard.load(Ordering::Relaxed) {
            self.0.heard.store(true, Ordering::Relaxed);
        }
    }

    /// Cuts a connection that sends no byte, or no request, in time.
    pub(super) fn insist(&self, cut: CancellationToken) {
        let this = self.clone();
        let insist = async move {
            tokio::time::sleep(FIRST_BYTE).await;
            if this.0.heard.load(Ordering::Relaxed) {
                tokio::time::sleep(FIRST_REQUEST - FIRST_BYTE).await;
                if this.0.asked.load(Ordering::Relaxed) {
                    return;
                }
            }
            tracing::debug!("a connection that asked for nothing is cut");
            cut.cancel();
        };
        tokio::spawn(insist);
    }
}

impl Peer {
    pub(super) fn new(name: Arc<str>, role: Role) -> Self {
        Self { name, role, chain: None, activity: Activity::default() }
    }
}
