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

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime, pem::PemObject,
};
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Connection, Peer},
    role::Role,
};
use crate::config;

/// Where the PEM files are.
#[derive(Clone, Debug)]
pub struct Files {
    /// Chain, leaf first.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Roots of client certificates.
    pub client_ca: PathBuf,
    /// Revocation lists; may be absent.
    pub crl: PathBuf,
}

impl Files {
    /// The files that are configured.
    #[must_use]
    pub fn new(config: &config::Tls) -> Self {
        let at = |path: &Path| config.dir.join(path);
        Self {
            cert: at(&config.cert),
            key: at(&config.key),
            client_ca: at(&config.client_ca),
            crl: at(&config.crl),
        }
    }

    /// When each was last changed.
    fn stamps(&self) -> [Option<SystemTime>; 4] {
        [&self.cert, &self.key, &self.client_ca, &self.crl]
            .map(|path| path.metadata().and_then(|meta| meta.modified()).ok())
    }
}

/// Why the files can't be used. What was in use stays in use.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// A file can't be read.
    #[error("{path}: {source}; `zoneward pki init` makes a set of them")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: rustls_pki_types::pem::Error,
    },
    /// The files do not fit together.
    #[error("{path}: {source}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// The client roots or revocation lists can't be used.
    #[error("{path}: {source}")]
    Verifier {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::server::VerifierBuilderError,
    },
}

#[derive(Debug)]
struct Loaded {
    generation: u64,
    stamps: [Option<SystemTime>; 4],
    /// Revocation lists are in force.
    revoking: bool,
    config: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
}

#[derive(Debug)]
struct Live {
    chain: Vec<CertificateDer<'static>>,
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

    /// Reads the files again and cuts the connections that they do not accept any more. Gives how
    /// many were cut.
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

    /// Cuts the live connections whose certificate is not accepted (any more): revoked, of a dropped
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

    /// Makes an authenticated connection of a TCP one.
    pub(super) async fn handshake(
        self: Arc<Self>,
        tcp: TcpStream,
        place: OwnedSemaphorePermit,
    ) -> io::Result<Connection> {
        tcp.set_nodelay(true)?;
        let loaded = self.current.load_full();
        let io = TlsAcceptor::from(loaded.config.clone()).accept(tcp).await?;
        let chain: Vec<CertificateDer<'static>> = io
            .get_ref()
            .1
            .peer_certificates()
            .map(|chain| chain.iter().map(|cert| cert.clone().into_owned()).collect())
            .unwrap_or_default();
        let peer = match chain.first() {
            Some(leaf) => identify(leaf, &self.trust_domain).map_err(io::Error::other)?,
            None => return Err(io::Error::other("no client certificate")),
        };
        let cut = CancellationToken::new();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.live().insert(number, Live { chain, cut: cut.clone() });
        let registration = Registration { tls: self.clone(), number, _place: place };
        // A reload between the handshake and the registration would have missed this one.
        if self.current.load().generation != loaded.generation {
            self.sweep();
        }
        Ok(Connection::tls(io, peer, cut, Box::new(registration)))
    }
}

/// Takes a connection off the live list when it is dropped.
#[derive(Debug)]
struct Registration {
    tls: Arc<Tls>,
    number: u64,
    _place: OwnedSemaphorePermit,
}

impl Drop for Registration {
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
        [role, name] if !name.is_empty() => Ok(Peer { name: Arc::from(*uri), role: role.parse::<Role>()? }),
        _ => Err(format!("{uri:?} is not spiffe://{trust_domain}/<role>/<name>")),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ReloadError> {
    CertificateDer::pem_file_iter(path).map_err(pem(path))?.collect::<Result<_, _>>().map_err(pem(path))
}

fn pem(path: &Path) -> impl Fn(rustls_pki_types::pem::Error) -> ReloadError + '_ {
    move |source| ReloadError::Pem { path: path.to_owned(), source }
}

fn content(path: &Path) -> impl Fn(rustls::Error) -> ReloadError + '_ {
    move |source| ReloadError::Content { path: path.to_owned(), source }
}

/// With `revoking`, revocation lists were in force: then their file may not be gone or empty, or a slip
/// of the hand would let everybody in again.
fn load(files: &Files, generation: u64, revoking: bool) -> Result<Loaded, ReloadError> {
    // Before reading: a change while we read is seen as one afterwards.
    let stamps = files.stamps();
    let provider = super::pki::provider();
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(pem(&files.key))?;
    // Also checks that key and leaf belong together.
    let pair =
        CertifiedKey::from_der(certificates(&files.cert)?, key, &provider).map_err(content(&files.cert))?;
    let revoking = revoking || files.crl.exists();
    let verifier = verifier(files, provider.clone(), revoking)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(content(&files.cert))?
        .with_client_cert_verifier(verifier.clone())
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Loaded { generation, stamps, revoking, config: Arc::new(config), verifier })
}

fn verifier(
    files: &Files,
    provider: Arc<rustls::crypto::CryptoProvider>,
    revoking: bool,
) -> Result<Arc<dyn ClientCertVerifier>, ReloadError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(&files.client_ca)? {
        roots.add(root).map_err(content(&files.client_ca))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let mut blamed = &files.client_ca;
    if revoking {
        blamed = &files.crl;
        let lists: Vec<CertificateRevocationListDer<'static>> =
            CertificateRevocationListDer::pem_file_iter(&files.crl)
                .map_err(pem(&files.crl))?
                .collect::<Result<_, _>>()
                .map_err(pem(&files.crl))?;
        if lists.is_empty() {
            let source = rustls::Error::General("there is no revocation list in it".to_owned());
            return Err(ReloadError::Content { path: files.crl.clone(), source });
        }
        // An overdue list still refuses what is on it, and does not lock everybody out.
        builder = builder.with_crls(lists).only_check_end_entity_revocation();
    }
    builder.build().map_err(|source| ReloadError::Verifier { path: blamed.clone(), source })
}
