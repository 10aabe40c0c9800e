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
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::{arguments::Arguments, error::CliError};
use crate::{
    client::CertificateRefused,
    model::places::{CERTIFICATES, SOCKET},
    tls::provider,
};

/// Between signs of life of the agent, and how long one may take.
const ALIVE: Duration = Duration::from_secs(20);
/// How long a connection may take to come about.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the agent is.
#[derive(Debug)]
pub(super) enum Target {
    Unix(PathBuf),
    Tls { host: String, port: u16, ca: PathBuf, cert: PathBuf, key: PathBuf },
}

impl Target {
    pub(super) fn from(arguments: &Arguments) -> Result<Self, CliError> {
        let Some(endpoint) = &arguments.endpoint else {
            return Ok(Self::Unix(SOCKET.into()));
        };
        if let Some(path) = endpoint.strip_prefix("unix:") {
            return Ok(Self::Unix(path.trim_start_matches("//").into()));
        }
        let bad = || {
            CliError::usage(format!(
                "--endpoint {endpoint}: give unix:/path/to/socket or https://host:port; there is no plaintext TCP"
            ))
        };
        let authority = endpoint.strip_prefix("https://").map(|rest| rest.trim_end_matches('/'));
        let (host, port) = authority.and_then(host_and_port).ok_or_else(bad)?;
        let dir = arguments.certs.clone().unwrap_or_else(|| CERTIFICATES.into());
        let file = |given: &Option<PathBuf>, name: &str| given.clone().unwrap_or_else(|| dir.join(name));
        Ok(Self::Tls {
            host,
            port,
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
        Target::Tls { host, port, ca, cert, key } => {
            let config = Arc::new(client_config(&ca, &cert, &key)?);
            let agent = format!("{host} port {port}");
            let connector = service_fn(move |_: Uri| {
                handshake(host.clone(), port, config.clone(), cert.display().to_string())
            });
            // A host that lost its power says nothing; who only listens has to ask.
            let endpoint = Endpoint::from_static("https://agent")
                .connect_timeout(PATIENCE)
                .http2_keep_alive_interval(ALIVE)
                .keep_alive_timeout(ALIVE)
                .keep_alive_while_idle(true);
            endpoint.connect_with_connector(connector).await.map_err(|error| {
                CliError::failed(format!("the agent can't be reached at {agent}: {}", innermost(&error)))
            })
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

/// By when the agent has said its first word to who was let in.
const WELCOME: Duration = Duration::from_secs(10);

async fn handshake(
    host: String,
    port: u16,
    config: Arc<ClientConfig>,
    cert: String,
) -> io::Result<TokioIo<BufReader<tokio_rustls::client::TlsStream<TcpStream>>>> {
    // Through which link an address is reached is no part of the name that its certificate has.
    let name = host.split('%').next().unwrap_or_default().to_owned();
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    let mut stream = BufReader::new(TlsConnector::from(config).connect(name, tcp).await?);
    // With TLS 1.3 the agent judges the certificate when the client believes to be through, so its first word is
    // waited for.
    let refused =
        |why: &str| io::Error::other(CertificateRefused { cert: cert.clone(), why: why.to_owned() });
    match timeout(WELCOME, stream.fill_buf()).await {
        Ok(Ok([])) => Err(refused(
            "it closed the connection; the certificate may be revoked, of another trust domain or without a role, or \
             its connections are too many",
        )),
        Ok(Ok(_)) => Ok(TokioIo::new(stream)),
        Ok(Err(error)) => Err(refused(&error.to_string())),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "it says nothing")),
    }
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
