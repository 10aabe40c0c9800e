//! The way to the agent: its UNIX socket, or TLS with a client certificate.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::{arguments::Arguments, error::CliError};
use crate::{auth::pki::provider, config::Config};

/// Between signs of life of the agent, and how long one may take.
const ALIVE: Duration = Duration::from_secs(20);
/// How long a connection may take to come about.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the agent is.
#[derive(Debug)]
pub(super) enum Target {
    Unix(PathBuf),
    Tls { authority: String, ca: PathBuf, cert: PathBuf, key: PathBuf },
}

impl Target {
    pub(super) fn from(arguments: &Arguments) -> Result<Self, CliError> {
        let Some(endpoint) = &arguments.endpoint else {
            return Ok(Self::Unix(Config::default().socket_path()));
        };
        if let Some(path) = endpoint.strip_prefix("unix:") {
            return Ok(Self::Unix(path.trim_start_matches("//").into()));
        }
        let bad = || {
            CliError::usage(format!(
                "--endpoint {endpoint}: give unix:/path/to/socket or https://host:port; there is no plaintext TCP"
            ))
        };
        let uri: Uri = endpoint.parse().map_err(|_| bad())?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("https")).ok_or_else(bad)?;
        let dir = arguments.certs.clone().unwrap_or_else(|| Config::default().tls.dir);
        let file = |given: &Option<PathBuf>, name: &str| given.clone().unwrap_or_else(|| dir.join(name));
        Ok(Self::Tls {
            authority: authority.to_string(),
            ca: file(&arguments.ca, "ca.pem"),
            cert: file(&arguments.cert, "admin.pem"),
            key: file(&arguments.key, "admin.key"),
        })
    }
}

/// Connects now, so that what is wrong is told in plain words.
pub(super) async fn connect(target: Target) -> Result<Channel, CliError> {
    match target {
        Target::Unix(path) => {
            let shown = path.display().to_string();
            let connector = service_fn(move |_: Uri| {
                let path = path.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
            });
            let endpoint = Endpoint::from_static("http://localhost").connect_timeout(PATIENCE);
            endpoint.connect_with_connector(connector).await.map_err(|error| {
                CliError::failed(format!(
                    "the agent can't be reached at {shown}: {}; is `zoneward serve` running, and are you root?",
                    innermost(&error)
                ))
            })
        }
        Target::Tls { authority, ca, cert, key } => {
            let config = Arc::new(client_config(&ca, &cert, &key)?);
            let uri: Uri = format!("https://{authority}")
                .parse()
                .map_err(|error| CliError::usage(format!("--endpoint: {error}")))?;
            let connector = service_fn(move |uri: Uri| handshake(uri, config.clone()));
            // A host that lost its power says nothing; who only listens has to ask.
            let endpoint = Endpoint::from(uri)
                .connect_timeout(PATIENCE)
                .http2_keep_alive_interval(ALIVE)
                .keep_alive_timeout(ALIVE)
                .keep_alive_while_idle(true);
            endpoint.connect_with_connector(connector).await.map_err(|error| {
                CliError::failed(format!("the agent can't be reached at {authority}: {}", innermost(&error)))
            })
        }
    }
}

async fn handshake(
    uri: Uri,
    config: Arc<ClientConfig>,
) -> io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let tcp = TcpStream::connect((host, uri.port_u16().unwrap_or(9443))).await?;
    tcp.set_nodelay(true)?;
    Ok(TokioIo::new(TlsConnector::from(config).connect(name, tcp).await?))
}

fn client_config(ca: &Path, cert: &Path, key: &Path) -> Result<ClientConfig, CliError> {
    let bad = |path: &Path, error: &dyn std::fmt::Display| {
        CliError::failed(format!(
            "{}: {error}; give --certs, or --ca, --cert and --key (`zoneward pki issue` makes a pair)",
            path.display()
        ))
    };
    let read = |path: &Path| -> Result<Vec<CertificateDer<'static>>, CliError> {
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| bad(path, &error))
    };
    let mut roots = RootCertStore::empty();
    for root in read(ca)? {
        roots.add(root).map_err(|error| bad(ca, &error))?;
    }
    let pair_key = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, &error))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| bad(ca, &error))?
        .with_root_certificates(roots)
        .with_client_auth_cert(read(cert)?, pair_key)
        .map_err(|error| bad(cert, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
