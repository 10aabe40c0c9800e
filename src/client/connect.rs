//! Paths to an agent: its UNIX socket, or TLS with a client certificate.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint as Transport, Uri};
use tower::service_fn;

use super::watcher::CertificateRefused;
use crate::{model::places::CERTIFICATES, tls::provider};

/// Keepalive interval, and how long a reply may take.
const ALIVE: Duration = Duration::from_secs(20);
/// How long connecting may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Files of a client's certificate. They are read again for each new connection, so that a renewed
/// certificate takes effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificates {
    /// Roots of agents' certificates.
    pub ca: PathBuf,
    /// The client's chain, leaf first.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Certificates {
    /// Returns a client's files in one directory, as `zoneward pki` lays them out: `ca.pem`, `NAME.pem` and
    /// `NAME.key`.
    #[must_use]
    pub fn in_dir(dir: &Path, name: &str) -> Self {
        let file = |name: String| dir.join(name);
        Self {
            ca: file("ca.pem".into()),
            cert: file(format!("{name}.pem")),
            key: file(format!("{name}.key")),
        }
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::in_dir(Path::new(CERTIFICATES), "admin")
    }
}

/// Where an agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Its UNIX socket on this host.
    Unix(PathBuf),
    /// TLS 1.3 with a client certificate.
    Tls {
        /// Its name, as in its certificate, or its address.
        host: String,
        /// Its port.
        port: u16,
        /// The client's.
        certificates: Certificates,
    },
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint is invalid.
    #[error("{0}: give unix:/path/to/socket or https://host:port; there is no plaintext TCP")]
    Endpoint(String),
    /// A certificate or a key cannot be used.
    #[error("{path}: {reason}")]
    Certificate {
        /// Its file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The agent does not answer.
    #[error("the agent cannot be reached at {endpoint}: {reason}")]
    Unreachable {
        /// The endpoint.
        endpoint: String,
        /// Why not.
        reason: String,
    },
}

impl Endpoint {
    /// Reads `unix:/path/to/socket` or `https://host:port`; the port is 9443 by default.
    pub fn parse(text: &str, certificates: Certificates) -> Result<Self, ConnectError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.strip_prefix("//").unwrap_or(path).into()));
        }
        let authority = text.strip_prefix("https://").map(|rest| rest.trim_end_matches('/'));
        match authority.and_then(host_and_port) {
            Some((host, port)) => Ok(Self::Tls { host, port, certificates }),
            None => Err(ConnectError::Endpoint(text.to_owned())),
        }
    }

    /// Connects now. The channel reconnects automatically when the connection breaks.
    pub async fn connect(&self) -> Result<Channel, ConnectError> {
        let connected = match self {
            #[cfg(unix)]
            Self::Unix(path) => {
                let path = path.clone();
                let connector = service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
                });
                let transport = Transport::from_static("http://localhost").connect_timeout(PATIENCE);
                transport.connect_with_connector(connector).await
            }
            #[cfg(not(unix))]
            Self::Unix(_) => return Err(self.unreachable("there are no UNIX sockets on this system")),
            Self::Tls { host, port, certificates } => {
                // A fault in the files is reported as such, not as an agent that does not respond.
                client_config(certificates)?;
                let (host, port, certificates) = (host.clone(), *port, certificates.clone());
                let connector = service_fn(move |_: Uri| handshake(host.clone(), port, certificates.clone()));
                // A host that lost power sends nothing; a client that only listens has to probe.
                let transport = Transport::from_static("https://agent")
                    .connect_timeout(PATIENCE)
                    .http2_keep_alive_interval(ALIVE)
                    .keep_alive_timeout(ALIVE)
                    .keep_alive_while_idle(true);
                transport.connect_with_connector(connector).await
            }
        };
        connected.map_err(|error| self.unreachable(&innermost(&error)))
    }

    fn unreachable(&self, reason: &str) -> ConnectError {
        ConnectError::Unreachable { endpoint: self.to_string(), reason: reason.to_owned() }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tls { host, port, .. } => write!(f, "{host} port {port}"),
        }
    }
}

/// `host`, `host:9443`, `10.0.0.1:9443`, `[fd00::1]:9443`, `[fe80::1%eth0]:9443`.
fn host_and_port(authority: &str) -> Option<(String, u16)> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
    };
    let port = match rest.strip_prefix(':') {
        Some(port) => port.parse().ok()?,
        None => rest.is_empty().then_some(9443)?,
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:%".contains(&b);
    (!host.is_empty() && host.bytes().all(plain)).then(|| (host.to_owned(), port))
}

/// How long the agent may take for its first bytes to an accepted client; shorter than `PATIENCE`.
const WELCOME: Duration = Duration::from_secs(5);

async fn handshake(
    host: String,
    port: u16,
    certificates: Certificates,
) -> io::Result<TokioIo<BufReader<TlsStream<TcpStream>>>> {
    let config = Arc::new(client_config(&certificates).map_err(io::Error::other)?);
    // The certificate's name does not include the link through which an address is reached.
    let name = host.split('%').next().unwrap_or_default().to_owned();
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    let mut stream = BufReader::new(TlsConnector::from(config).connect(name, tcp).await?);
    // With TLS 1.3 the agent checks the certificate after the client's handshake is done, so wait for its
    // first bytes.
    let refused = |why: &str| {
        let cert = certificates.cert.display().to_string();
        io::Error::other(CertificateRefused { cert, why: why.to_owned() })
    };
    match timeout(WELCOME, stream.fill_buf()).await {
        Ok(Ok([])) => Err(refused(
            "it closed the connection; the certificate may be revoked, of another trust domain or without a role, or \
             its connections are too many",
        )),
        Ok(Ok(_)) => Ok(TokioIo::new(stream)),
        Ok(Err(error)) => Err(refused(&error.to_string())),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "it does not reply")),
    }
}

fn client_config(certificates: &Certificates) -> Result<ClientConfig, ConnectError> {
    let Certificates { ca, cert, key } = certificates;
    let bad = |path: &Path, error: &dyn std::fmt::Display| ConnectError::Certificate {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let read = |path: &Path| -> Result<Vec<CertificateDer<'static>>, ConnectError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_has_a_host_and_a_port() {
        for (text, wanted) in [
            ("host1", Some(("host1", 9443))),
            ("host1:1", Some(("host1", 1))),
            ("[fd00::1]:2", Some(("fd00::1", 2))),
            ("[fe80::1%eth0]:3", Some(("fe80::1%eth0", 3))),
            ("[fe80::1%eth0]", Some(("fe80::1%eth0", 9443))),
            ("", None),
            ("host:x", None),
            ("[fd00::1", None),
            ("fd00::1", None),
            ("a/b", None),
        ] {
            let wanted = wanted.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(host_and_port(text), wanted, "{text}");
        }
    }
}
