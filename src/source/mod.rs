//! Where images come from: a URL, an OCI registry, an image server with SmartOS's API, or a folder of this host.
//!
//! ```text
//!   url ─▶ open: who has it, its digest and size ─▶ Content: bytes, forward; a broken connection goes on where it broke
//!             │                                         │
//!             └───────── one HTTP client ───────────────┘
//!                        only allowed addresses, bounded redirects, no credentials to other hosts
//! ```
//!
//! An operator's URL must not reach what the operator can't: each address that is connected to, after each redirect and
//! each look-up of a name, must be in the configured list. A source's answers are bounded and never believed: digests and
//! sizes are the importer's to check.

mod address;
mod content;
mod credentials;
mod error;
mod folder;
mod http;
mod imgapi;
mod oci;
mod settings;
mod sums;

use uuid::Uuid;

pub(crate) use content::Content;
pub(crate) use error::SourceError;
use http::Http;
pub(crate) use settings::Settings;

use crate::spec::image::{Digest, Manifest};

/// What is asked of a source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Digest of the file, if the caller knows it.
    pub(crate) digest: Option<Digest>,
    /// The image, for a server that has many.
    pub(crate) uuid: Option<Uuid>,
}

/// An image at its source.
#[derive(Debug)]
pub(crate) struct Found {
    /// Where it is, if the request did not say.
    pub(crate) server: Option<String>,
    /// The manifest, of a source that has one.
    pub(crate) manifest: Option<Manifest>,
    /// A name for it.
    pub(crate) name: String,
    /// Digests of the file: all must be right. There is at least one.
    pub(crate) digests: Vec<Digest>,
    /// Bytes of the file.
    pub(crate) size: Option<u64>,
    /// The disk is in a tar archive.
    pub(crate) in_archive: bool,
    /// Its bytes.
    pub(crate) content: Content,
}

/// Opens images at their sources.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    settings: Settings,
    http: Http,
}

/// The kinds of sources.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Url(reqwest::Url),
    Oci(oci::Reference),
    Imgapi(reqwest::Url, Uuid),
    Folder(std::path::PathBuf),
}

impl Sources {
    /// As configured.
    pub(crate) fn new(settings: &Settings) -> Result<Self, SourceError> {
        Ok(Self { http: Http::new(settings)?, settings: settings.clone() })
    }

    /// Configured image servers.
    pub(crate) fn servers(&self) -> &[String] {
        &self.settings.servers
    }

    /// Finds an image; an empty `source` asks the configured servers.
    pub(crate) async fn open(&self, source: &str, wanted: &Wanted) -> Result<Found, SourceError> {
        if source.is_empty() {
            let uuid = wanted
                .uuid
                .ok_or_else(|| SourceError::wrong("source", "give a source or the uuid of an image"))?;
            return imgapi::open_anywhere(&self.http, &self.settings.servers, uuid, wanted).await;
        }
        match kind(source, wanted.uuid)? {
            Kind::Url(url) => self.open_url(url, wanted).await,
            Kind::Oci(reference) => oci::open(&self.http, &reference, wanted).await,
            Kind::Imgapi(server, uuid) => imgapi::open(&self.http, &server, uuid, wanted).await,
            Kind::Folder(path) => folder::open(&self.settings.folders, &path, wanted).await,
        }
    }

    async fn open_url(&self, url: reqwest::Url, wanted: &Wanted) -> Result<Found, SourceError> {
        // First, so that a file that is not there is told as that.
        let (content, size) = Content::get(&self.http, url.clone()).await?;
        let digest = match &wanted.digest {
            Some(digest) => digest.clone(),
            None => sums::beside(&self.http, &url).await?,
        };
        let name = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default().to_owned();
        let digests = vec![digest];
        Ok(Found { server: None, manifest: None, name, digests, size, in_archive: false, content })
    }

    /// What a server offers, or each of the configured ones does.
    pub(crate) async fn offers(&self, source: &str, uuid: Option<Uuid>) -> Vec<Offer> {
        let servers = match source {
            "" => self.settings.servers.clone(),
            server => vec![server.to_owned()],
        };
        let mut all = Vec::new();
        for server in servers {
            let manifests = match imgapi::server(&server) {
                Ok(url) => imgapi::offers(&self.http, &url, uuid).await,
                Err(error) => Err(error),
            };
            all.push(Offer { server, manifests });
        }
        all
    }
}

/// The manifests that a server offers, or why it offers none.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) server: String,
    pub(crate) manifests: Result<Vec<Box<serde_json::value::RawValue>>, SourceError>,
}

/// Reads a source.
fn kind(source: &str, uuid: Option<Uuid>) -> Result<Kind, SourceError> {
    let wrong = |why: &str| SourceError::wrong("source", why);
    if let Some(reference) = source.strip_prefix("oci://") {
        return Ok(Kind::Oci(reference.parse().map_err(|why: String| wrong(&why))?));
    }
    if let Some(path) = source.strip_prefix("file://") {
        return Ok(Kind::Folder(path.into()));
    }
    if source.starts_with("imgapi+") {
        let (server, last) = source.rsplit_once('/').unwrap_or((source, ""));
        let (server, uuid) = match (last.parse(), uuid) {
            (Ok(named), _) => (server.trim_end_matches("/images"), Some(named)),
            (Err(_), given) => (source, given),
        };
        let uuid = uuid.ok_or_else(|| wrong("an image server needs the uuid of an image"))?;
        return Ok(Kind::Imgapi(imgapi::server(server)?, uuid));
    }
    Ok(Kind::Url(http::parse(source)?))
}

/// A source without what only its owner may see: it is journaled.
pub(crate) fn shown(source: &str) -> String {
    match reqwest::Url::parse(source) {
        Ok(mut url) => {
            let _ = url.set_username("");
            let _ = url.set_password(None);
            if url.query().is_some() {
                // Signed URLs carry their signature there.
                url.set_query(Some("…"));
            }
            url.set_fragment(None);
            url.to_string().replace("%E2%80%A6", "…")
        }
        Err(_) => source.split(['?', '#']).next().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_apart() {
        let uuid = Uuid::from_u128(0x4444_0000_0000_4000_8000_0000_0000_0001);
        assert!(matches!(kind("https://a/b.img", None), Ok(Kind::Url(_))));
        assert!(matches!(kind("oci://a:5000/b:c", None), Ok(Kind::Oci(_))));
        assert!(
            matches!(kind("file:///a/b", None), Ok(Kind::Folder(path)) if path == std::path::Path::new("/a/b"))
        );
        let server: reqwest::Url = "https://a/x".parse().unwrap();
        for source in [format!("imgapi+https://a/x/{uuid}"), format!("imgapi+https://a/x/images/{uuid}")] {
            assert_eq!(kind(&source, None).unwrap(), Kind::Imgapi(server.clone(), uuid));
        }
        assert_eq!(kind("imgapi+https://a/x", Some(uuid)).unwrap(), Kind::Imgapi(server, uuid));
        for wrong in ["ftp://a/b", "/etc/passwd", "https://u:p@a/b", "imgapi+https://a", "oci://", "x"] {
            kind(wrong, None).unwrap_err();
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(shown("https://u:p@a/b?sig=1#x"), "https://a/b?…");
        assert_eq!(shown("oci://a/b:c"), "oci://a/b:c");
    }
}
