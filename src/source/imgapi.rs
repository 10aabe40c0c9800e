//! Image servers with SmartOS's API: manifests and files by UUID.

use reqwest::{Url, header::HeaderMap};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    Content, Found,
    error::SourceError,
    http::{self, Http, at},
};
use crate::spec::{image::Manifest, violation};

/// Most images of one server.
const MOST: usize = 20_000;
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
pub(super) async fn open_anywhere(http: &Http, servers: &[String], uuid: Uuid) -> Result<Found, SourceError> {
    let mut last = None;
    for text in servers {
        match open(http, &server(text)?, uuid).await {
            Err(error @ (SourceError::Missing(_) | SourceError::Failed(_))) => last = Some(error),
            found => return found,
        }
    }
    Err(last.unwrap_or_else(|| {
        SourceError::Missing("no image server is configured (images.servers); give a source".to_owned())
    }))
}

/// Finds an image on a server.
pub(super) async fn open(http: &Http, server: &Url, uuid: Uuid) -> Result<Found, SourceError> {
    let url = below(server, &format!("images/{uuid}"))?;
    let object: Map<String, Value> = match http.json(&url, version()).await {
        Err(SourceError::Missing(_)) => {
            return Err(SourceError::Missing(format!("{}: the server has no image {uuid}", at(server))));
        }
        object => object?,
    };
    let state = object.get("state").and_then(Value::as_str).unwrap_or("active").to_owned();
    let manifest = Manifest::read(object).map_err(|found| {
        let details: Vec<String> = found.iter().map(ToString::to_string).collect();
        SourceError::Failed(format!("{}: {}: {}", at(&url), violation::summary(&found), details.join("; ")))
    })?;
    if manifest.uuid() != uuid {
        return Err(SourceError::Failed(format!(
            "{}: the manifest is of image {}",
            at(&url),
            manifest.uuid()
        )));
    }
    if state != "active" {
        return Err(SourceError::Failed(format!("{}: the image is {state}, not active", at(&url))));
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
        digests: vec![digest],
        size: size.or(length),
        in_archive: false,
        content,
    })
}

/// The manifests of a server's active disks; or of one image.
pub(super) async fn offers(
    http: &Http,
    server: &Url,
    uuid: Option<Uuid>,
) -> Result<Vec<Map<String, Value>>, SourceError> {
    if let Some(uuid) = uuid {
        let url = below(server, &format!("images/{uuid}"))?;
        return match http.json(&url, version()).await {
            Ok(object) => Ok(vec![object]),
            Err(SourceError::Missing(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
    }
    let mut all: Vec<Map<String, Value>> = Vec::new();
    let mut marker = String::new();
    loop {
        let mut url = below(server, "images")?;
        url.query_pairs_mut().append_pair("type", "zvol").append_pair("limit", &PAGE.to_string());
        if !marker.is_empty() {
            url.query_pairs_mut().append_pair("marker", &marker);
        }
        let page: Vec<Map<String, Value>> = http.json(&url, version()).await?;
        let count = page.len();
        let uuid_of = |image: &Map<String, Value>| {
            image.get("uuid").and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let last = page.last().map(uuid_of).unwrap_or_default();
        let is_zvol = |image: &Map<String, Value>| image.get("type").is_none_or(|kind| kind == "zvol");
        // The marker's image comes again.
        all.extend(page.into_iter().filter(|image| uuid_of(image) != marker && is_zvol(image)));
        if count < PAGE || last == marker || all.len() > MOST {
            all.truncate(MOST);
            return Ok(all);
        }
        marker = last;
    }
}
