//! Image servers with SmartOS's API: manifests and files by UUID.

use reqwest::{Url, header::HeaderMap};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use uuid::Uuid;

use super::{
    Content, Found, Wanted,
    error::SourceError,
    http::{self, Http, at},
};
use crate::spec::image::{MAX_MANIFEST, Manifest};

/// Most images of one server.
const MOST: usize = 20_000;
/// Most bytes of its manifests.
const MOST_BYTES: usize = 32 << 20;
/// Images on a page: what servers give at most.
const PAGE: usize = 1000;

fn version() -> HeaderMap {
    http::headers(&[("accept-version", "~2")])
}

/// Reads a server's address.
pub(super) fn server(text: &str) -> Result<Url, SourceError> {
    let text = text.strip_prefix("imgapi+").unwrap_or(text).trim_end_matches('/');
    http::parse(text)
}

/// An address below the server's.
fn below(server: &Url, path: &str) -> Result<Url, SourceError> {
    let text = format!("{}/{path}", server.as_str().trim_end_matches('/'));
    Url::parse(&text).map_err(|error| SourceError::Failed(format!("{}: {error}", at(server))))
}

/// Finds an image on the first of the servers that has it.
pub(super) async fn open_anywhere(
    http: &Http,
    servers: &[String],
    uuid: Uuid,
    wanted: &Wanted,
) -> Result<Found, SourceError> {
    let mut last: Option<SourceError> = None;
    for text in servers {
        match open(http, &server(text)?, uuid, wanted).await {
            // That one can't be reached says more than that another has no such image.
            Err(SourceError::Missing(_)) if last.is_some() => {}
            Err(error @ (SourceError::Missing(_) | SourceError::Failed(_))) => last = Some(error),
            found => return found,
        }
    }
    Err(last.unwrap_or_else(|| {
        SourceError::Missing("no image server is configured (images.servers); give a source".to_owned())
    }))
}

/// Finds an image on a server.
pub(super) async fn open(
    http: &Http,
    server: &Url,
    uuid: Uuid,
    wanted: &Wanted,
) -> Result<Found, SourceError> {
    let url = below(server, &format!("images/{uuid}"))?;
    let object: Map<String, Value> = match http.json(&url, version()).await {
        Err(SourceError::Missing(_)) => {
            return Err(SourceError::Missing(format!("{}: the server has no image {uuid}", at(server))));
        }
        object => object?,
    };
    let manifest = Manifest::read(object).map_err(|found| {
        let details: Vec<String> = found.iter().map(ToString::to_string).collect();
        SourceError::Failed(format!("{}: {}", at(&url), details.join("; ")))
    })?;
    if manifest.uuid() != uuid {
        return Err(SourceError::Failed(format!(
            "{}: the manifest is of image {}",
            at(&url),
            manifest.uuid()
        )));
    }
    if let Some(uuid) = wanted.uuid.filter(|wanted| *wanted != uuid) {
        return Err(SourceError::wrong("uuid", format!("the source names another image than {uuid}")));
    }
    let (size, sha1) = manifest.file();
    let digest = sha1.and_then(|sha1| sha1.parse().ok());
    let digest = digest
        .ok_or_else(|| SourceError::Refused(format!("{}: the manifest has no sha1 of its file", at(&url))))?;
    let (content, length) =
        Content::get_with(http, below(server, &format!("images/{uuid}/file"))?, version()).await?;
    if let (Some(size), Some(length)) = (size, length)
        && size != length
    {
        let why = format!("{}: the file has {length} bytes, and the manifest says {size}", at(&url));
        return Err(SourceError::Failed(why));
    }
    Ok(Found {
        name: manifest.name().to_owned(),
        manifest: Some(manifest),
        // The caller's counts, too.
        digests: std::iter::once(digest).chain(wanted.digest.clone()).collect(),
        server: Some(at(&url)),
        size: size.or(length),
        in_archive: false,
        content,
    })
}

/// What is looked at in a manifest before it is passed on.
#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    uuid: String,
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

/// The manifests of a server's active disks, as they came; or of one image. What is too long for a manifest is left out.
pub(super) async fn offers(
    http: &Http,
    server: &Url,
    uuid: Option<Uuid>,
) -> Result<Vec<Box<RawValue>>, SourceError> {
    if let Some(uuid) = uuid {
        let url = below(server, &format!("images/{uuid}"))?;
        return match http.json::<Box<RawValue>>(&url, version()).await {
            Ok(manifest) if manifest.get().len() <= MAX_MANIFEST => Ok(vec![manifest]),
            Ok(_) => Err(SourceError::Failed(format!("{}: the manifest is too long", at(&url)))),
            Err(SourceError::Missing(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
    }
    let (mut all, mut seen, mut bytes) = (Vec::new(), 0, 0);
    let mut marker = String::new();
    loop {
        let mut url = below(server, "images")?;
        url.query_pairs_mut().append_pair("type", "zvol").append_pair("limit", &PAGE.to_string());
        if !marker.is_empty() {
            url.query_pairs_mut().append_pair("marker", &marker);
        }
        let page: Vec<Box<RawValue>> = http.json(&url, version()).await?;
        let count = page.len();
        let mut last = String::new();
        for manifest in page {
            let Ok(named) = serde_json::from_str::<Named>(manifest.get()) else { continue };
            let is_zvol = named.kind.is_none_or(|kind| kind == "zvol");
            // The marker's image comes again.
            if is_zvol && named.uuid != marker && manifest.get().len() <= MAX_MANIFEST {
                bytes += manifest.get().len();
                all.push(manifest);
            }
            last = named.uuid;
        }
        seen += count;
        if bytes > MOST_BYTES || seen > MOST {
            let what = "more images than are listed here; ask for one by its uuid";
            return Err(SourceError::Failed(format!("{}: the server has {what}", at(server))));
        }
        if count < PAGE || last == marker {
            return Ok(all);
        }
        marker = last;
    }
}
