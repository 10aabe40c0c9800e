//! Loads the PEM files into rustls configurations.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    RootCertStore, ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject};

use crate::auth::Settings;

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
    pub fn new(settings: &Settings) -> Self {
        let at = |path: &Path| settings.dir.join(path);
        Self {
            cert: at(&settings.cert),
            key: at(&settings.key),
            client_ca: at(&settings.client_ca),
            crl: at(&settings.crl),
        }
    }

    /// When each was last changed.
    pub(super) fn stamps(&self) -> [Option<SystemTime>; 4] {
        [&self.cert, &self.key, &self.client_ca, &self.crl]
            .map(|path| path.metadata().and_then(|meta| meta.modified()).ok())
    }
}

/// Why the files can't be used. The loaded ones stay in use.
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

/// The result of one load of the files.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) generation: u64,
    pub(super) stamps: [Option<SystemTime>; 4],
    /// Revocation lists are in force.
    pub(super) revoking: bool,
    /// Demands a client certificate, and speaks HTTP/2.
    pub(super) config: Arc<ServerConfig>,
    /// For browsers, which their links authenticate: HTTP/1.1.
    pub(super) open: Arc<ServerConfig>,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
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

/// With `revoking`, revocation lists were in force: then their file must not be missing or empty, or a
/// mistake would admit everybody again.
pub(super) fn load(files: &Files, generation: u64, revoking: bool) -> Result<Loaded, ReloadError> {
    // Before reading: a change during the read counts as a later one.
    let stamps = files.stamps();
    let provider = crate::tls::provider();
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(pem(&files.key))?;
    // Also checks that key and leaf belong together.
    let pair =
        CertifiedKey::from_der(certificates(&files.cert)?, key, &provider).map_err(content(&files.cert))?;
    let revoking = revoking || files.crl.exists();
    let verifier = verifier(files, provider.clone(), revoking)?;
    let resolver = Arc::new(SingleCertAndKey::from(pair));
    let builder = || {
        ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(content(&files.cert))
    };
    let mut config =
        builder()?.with_client_cert_verifier(verifier.clone()).with_cert_resolver(resolver.clone());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut open = builder()?.with_no_client_auth().with_cert_resolver(resolver);
    open.alpn_protocols = vec![b"http/1.1".to_vec()];
    for config in [&mut config, &mut open] {
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
    }
    Ok(Loaded { generation, stamps, revoking, config: Arc::new(config), open: Arc::new(open), verifier })
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
