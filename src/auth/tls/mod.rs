//! TLS 1.3 with required client certificates, reloadable without a restart.
//!
//! ```text
//!   files ──load──▶ ServerConfig + verifier ──swap──▶ current
//!                                                        │ every handshake takes it as a whole
//!   live connections ◀── verified again: at each reload, and now and then for expiry ──▶ cut
//! ```
//!
//! The whole configuration is swapped, and sessions are never resumed: rustls does not verify the
//! client certificate of a resumed session again, so a revoked client would be back for a day. A
//! reload that fails changes nothing.

mod load;

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{
    connection::Connection,
    peer::{Chain, Peer},
    places::Places,
    role::Role,
};
use crate::text::is_hidden;
pub use load::Files;
pub(crate) use load::ReloadError;
use load::{Loaded, load};

#[derive(Debug)]
struct Live {
    chain: Chain,
    cut: CancellationToken,
}

/// The TLS side of the TCP listener.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    trust_domain: String,
    current: ArcSwap<Loaded>,
    live: Mutex<HashMap<u64, Live>>,
    next: AtomicU64,
}

impl Tls {
    /// Loads the files.
    pub fn load(files: Files, trust_domain: String) -> Result<Arc<Self>, ReloadError> {
        let loaded = load(&files, 1, false)?;
        Ok(Arc::new(Self {
            files,
            trust_domain,
            current: ArcSwap::from_pointee(loaded),
            live: Mutex::default(),
            next: AtomicU64::new(0),
        }))
    }

    /// Reads the files again and cuts the connections that they no longer accept. Returns how many were cut.
    pub fn reload(&self) -> Result<usize, ReloadError> {
        let current = self.current.load_full();
        let next = load(&self.files, current.generation + 1, current.revoking)?;
        self.current.store(Arc::new(next));
        Ok(self.sweep())
    }

    /// As [`Self::reload`], if a file changed since.
    pub fn reload_if_changed(&self) -> Result<Option<usize>, ReloadError> {
        if self.files.stamps() == self.current.load().stamps {
            return Ok(None);
        }
        self.reload().map(Some)
    }

    /// Cuts the live connections whose certificate is not (or no longer) accepted: revoked, of a dropped
    /// root, or expired meanwhile.
    pub fn sweep(&self) -> usize {
        let verifier = self.current.load().verifier.clone();
        let now = UnixTime::now();
        let refused = |live: &&Live| match live.chain.split_first() {
            Some((leaf, rest)) => verifier.verify_client_cert(leaf, rest, now).is_err(),
            None => true,
        };
        let live = self.live();
        live.values().filter(refused).map(|live| live.cut.cancel()).count()
    }

    /// Cuts every live connection: the end of a drain that took too long.
    pub fn cut_all(&self) -> usize {
        let live = self.live();
        live.values().for_each(|live| live.cut.cancel());
        live.len()
    }

    fn live(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Authenticates a TCP connection.
    pub(super) async fn handshake(
        self: Arc<Self>,
        tcp: TcpStream,
        places: &Places,
    ) -> io::Result<Connection> {
        tcp.set_nodelay(true)?;
        let loaded = self.current.load_full();
        let io = TlsAcceptor::from(loaded.config.clone()).accept(tcp).await?;
        let chain: Chain = io
            .get_ref()
            .1
            .peer_certificates()
            .map(|chain| chain.iter().map(|cert| cert.clone().into_owned()).collect())
            .unwrap_or_default();
        let peer = match chain.first() {
            Some(leaf) => identify(leaf, &self.trust_domain).map_err(io::Error::other)?,
            None => return Err(io::Error::other("no client certificate")),
        };
        let place = places.enter(&peer).ok_or_else(|| io::Error::other("too many connections"))?;
        let standing = self.watch(chain.clone());
        // A reload between the handshake and the registration would have missed this one.
        if self.current.load().generation != loaded.generation {
            self.sweep();
        }
        let cut = standing.cut();
        peer.activity.insist(cut.clone());
        Ok(Connection::tls(io, Peer { chain: Some(chain), ..peer }, cut, Box::new((standing, place))))
    }

    /// Accepts TLS from a client that is authenticated without a certificate.
    pub(crate) async fn open_handshake(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        tcp.set_nodelay(true)?;
        TlsAcceptor::from(self.current.load().open.clone()).accept(tcp).await
    }

    /// Watches work in the name of a client outside of its own connection; cuts it at once if the client's
    /// certificate is no longer accepted.
    pub(crate) fn vouch(self: &Arc<Self>, chain: Chain) -> Standing {
        let standing = self.watch(chain);
        self.sweep();
        standing
    }

    fn watch(self: &Arc<Self>, chain: Chain) -> Standing {
        let cut = CancellationToken::new();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.live().insert(number, Live { chain, cut: cut.clone() });
        Standing { tls: self.clone(), number, cut }
    }
}

/// Lasts while a client's certificate is accepted. Leaves the list of connections to cut when dropped.
#[derive(Debug)]
pub(crate) struct Standing {
    tls: Arc<Tls>,
    number: u64,
    cut: CancellationToken,
}

impl Standing {
    /// Cancelled when the certificate is no longer accepted.
    pub(crate) fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.tls.live().remove(&self.number);
    }
}

/// The caller that a verified certificate names: `spiffe://<trust domain>/<role>/<name>`.
fn identify(leaf: &CertificateDer<'_>, trust_domain: &str) -> Result<Peer, String> {
    let cert = webpki::EndEntityCert::try_from(leaf).map_err(|error| format!("bad certificate: {error}"))?;
    let uris: Vec<&str> = cert.valid_uri_names().collect();
    let [uri] = uris.as_slice() else {
        return Err(format!("the certificate has {} URI names, one is needed", uris.len()));
    };
    let path = uri
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.strip_prefix(trust_domain))
        .and_then(|rest| rest.strip_prefix('/'))
        .ok_or_else(|| format!("{uri:?} is not of the trust domain {trust_domain:?}"))?;
    match path.split('/').collect::<Vec<_>>().as_slice() {
        [role, name] if !name.is_empty() && !name.contains(is_hidden) => {
            Ok(Peer::new(Arc::from(*uri), role.parse::<Role>()?))
        }
        _ => Err(format!("{uri:?} is not spiffe://{trust_domain}/<role>/<name>")),
    }
}
