//! The one HTTP client: only allowed addresses, bounded redirects and answers.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use reqwest::{
    Client, Method, Response, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::de::DeserializeOwned;

use super::{
    address::{self, Allowed},
    credentials,
    error::SourceError,
    settings::Settings,
};

/// Redirects that are followed.
const REDIRECTS: usize = 5;
/// Bytes of an answer that is read as a whole.
const MAX_ANSWER: u64 = 16 << 20;
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// The client. Cheap to clone. It is made when it is first used: an agent without images needs none.
#[derive(Clone, Debug)]
pub(super) struct Http {
    client: Arc<OnceLock<Client>>,
    settings: Arc<Settings>,
    allowed: Arc<[Allowed]>,
    credentials: PathBuf,
}

fn wrong(key: &str, why: &dyn std::fmt::Display) -> SourceError {
    SourceError::Refused(format!("images.{key}: {why}"))
}

impl Http {
    pub(super) fn new(settings: &Settings) -> Result<Self, SourceError> {
        proxy(settings)?;
        authorities(settings)?;
        Ok(Self {
            client: Arc::default(),
            settings: Arc::new(settings.clone()),
            allowed: settings.allow.clone().into(),
            credentials: settings.credentials.clone(),
        })
    }

    fn client(&self) -> Result<&Client, SourceError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = self.new_client()?;
        Ok(self.client.get_or_init(|| client))
    }

    fn new_client(&self) -> Result<Client, SourceError> {
        let (settings, allowed) = (&self.settings, self.allowed.clone());
        let mut builder = Client::builder()
            .user_agent(concat!("zoneward/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(Duration::from_secs(settings.timeout_seconds.into()))
            .redirect(redirects(allowed.clone()))
            .referer(false)
            .dns_resolver(Arc::new(Guarded(allowed)))
            .tls_backend_preconfigured(tls(settings)?)
            .no_proxy();
        if let Some(proxy) = proxy(settings)? {
            builder = builder.proxy(proxy);
        }
        builder.build().map_err(|error| SourceError::request("starting the HTTP client", &error))
    }

    /// Sends a request; the answer may be any.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
    ) -> Result<Response, SourceError> {
        check_literal(&self.allowed, url)?;
        let mut request = self.client()?.request(method, url.clone()).headers(headers.clone());
        let is_logged_in = headers.contains_key(reqwest::header::AUTHORIZATION);
        if let Some(login) = self.login(url)?.filter(|_| !is_logged_in) {
            request = request.basic_auth(login.user, Some(login.password));
        }
        request.send().await.map_err(|error| SourceError::request(&at(url), &error.without_url()))
    }

    /// The login for a URL's host.
    pub(super) fn login(&self, url: &Url) -> Result<Option<credentials::Login>, SourceError> {
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        credentials::login(&self.credentials, &host, is_open(url))
    }

    /// Gets an answer that must be good.
    pub(super) async fn get(&self, url: &Url, headers: HeaderMap) -> Result<Response, SourceError> {
        let response = self.send(Method::GET, url, headers).await?;
        match response.status() {
            status if status.is_success() => Ok(response),
            status => Err(of_status(url, status)),
        }
    }

    /// Gets a document.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        url: &Url,
        headers: HeaderMap,
    ) -> Result<T, SourceError> {
        let bytes = read_whole(self.get(url, headers).await?).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            SourceError::Failed(format!("{}: the answer is not as it should be: {error}", at(url)))
        })
    }
}

fn proxy(settings: &Settings) -> Result<Option<reqwest::Proxy>, SourceError> {
    let given = Some(&settings.proxy).filter(|proxy| !proxy.is_empty());
    given.map(|proxy| reqwest::Proxy::all(proxy).map_err(|error| wrong("proxy", &error))).transpose()
}

/// Certificates that the configuration adds to the host's.
fn authorities(settings: &Settings) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    if settings.ca.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let read = CertificateDer::pem_file_iter(&settings.ca).and_then(Iterator::collect);
    read.map_err(|error: rustls_pki_types::pem::Error| {
        wrong("ca", &format!("{}: {error}", settings.ca.display()))
    })
}

/// The agent's one TLS provider, with the authorities of the host.
fn tls(settings: &Settings) -> Result<ClientConfig, SourceError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(authorities(settings)?);
    let builder =
        ClientConfig::builder_with_provider(crate::tls::provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| SourceError::request("starting TLS", &error))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Whether others than this host could read what is sent there.
pub(super) fn is_open(url: &Url) -> bool {
    url.scheme() != "https" && !is_local(url.host_str().unwrap_or_default())
}

/// Whether a host's name is this host's.
pub(super) fn is_local(host: &str) -> bool {
    let is_loopback = |address: IpAddr| address.is_loopback();
    host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(is_loopback)
}

/// Where a request went, for errors.
pub(super) fn at(url: &Url) -> String {
    super::shown(url.as_str())
}

/// The error of an answer that is none.
pub(super) fn of_status(url: &Url, status: StatusCode) -> SourceError {
    match status {
        StatusCode::NOT_FOUND => SourceError::Missing(format!("{}: there is no such thing (404)", at(url))),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => SourceError::Failed(format!(
            "{}: the server wants another login ({}); images.credentials has those",
            at(url),
            status.as_u16()
        )),
        status => SourceError::Failed(format!("{}: the server answered {status}", at(url))),
    }
}

/// Reads an answer of bounded length.
pub(super) async fn read_whole(mut response: Response) -> Result<Vec<u8>, SourceError> {
    let url = response.url().clone();
    let mut all = Vec::new();
    while let Some(chunk) =
        response.chunk().await.map_err(|error| SourceError::request(&at(&url), &error.without_url()))?
    {
        if (all.len() + chunk.len()) as u64 > MAX_ANSWER {
            return Err(SourceError::Failed(format!("{}: the answer has over {MAX_ANSWER} bytes", at(&url))));
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

/// Reads a URL that a caller gave.
pub(super) fn parse(text: &str) -> Result<Url, SourceError> {
    let wrong = |why: &str| SourceError::wrong("source", why);
    let is_web = |url: &Url| matches!(url.scheme(), "http" | "https") && url.host().is_some();
    let url = Url::parse(text).ok().filter(is_web).ok_or_else(|| {
        wrong("not a source: http://, https://, oci://, imgapi+https:// or file:// and a path")
    })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(
            "a user name or password in it would be journaled; images.credentials is their place",
        ));
    }
    Ok(url)
}

pub(super) fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let header = |(name, value): &(&'static str, &str)| {
        Some((HeaderName::from_static(name), HeaderValue::from_str(value).ok()?))
    };
    pairs.iter().filter_map(header).collect()
}

/// An address in a URL is not looked up, and so is checked here.
fn check_literal(allowed: &[Allowed], url: &Url) -> Result<(), SourceError> {
    let host = url.host_str().unwrap_or_default();
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => address::check(allowed, address, &address.to_string()),
        Err(_) => Ok(()),
    }
}

fn redirects(allowed: Arc<[Allowed]>) -> Policy {
    Policy::custom(move |attempt| {
        if attempt.previous().len() > REDIRECTS {
            return attempt.error(SourceError::Failed(format!("more than {REDIRECTS} redirects")));
        }
        let was_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
        if was_secure && attempt.url().scheme() != "https" {
            let url = at(attempt.url());
            return attempt.error(SourceError::Refused(format!("a redirect from https to {url}")));
        }
        match check_literal(&allowed, attempt.url()) {
            Ok(()) => attempt.follow(),
            Err(error) => attempt.error(error),
        }
    })
}

/// Looks names up, and gives allowed addresses only.
#[derive(Debug)]
struct Guarded(Arc<[Allowed]>);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let mut refused = None;
            let mut good = Vec::new();
            for address in found {
                match address::check(&allowed, address.ip(), &host) {
                    Ok(()) => good.push(address),
                    Err(error) => refused = Some(error),
                }
            }
            match refused {
                Some(error) if good.is_empty() => Err(error.into()),
                _ => Ok(Box::new(good.into_iter()) as Addrs),
            }
        })
    }
}
