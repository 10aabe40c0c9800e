//! OCI registries: artifacts of ironcore with a disk as a layer, and KubeVirt's container disks with a disk in a tar
//! archive. The client is the agent's own, because each of its requests must pass the guard of addresses.

use std::str::FromStr;

use reqwest::{Method, StatusCode, Url, header};
use serde::Deserialize;
use sha2::{Digest as _, Sha256, Sha512};

use super::{
    Content, Found, Wanted,
    error::SourceError,
    http::{self, Http, at, of_status, read_whole},
};
use crate::spec::image::Digest;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Layers that are a disk, today's and earlier ones.
const DISKS: [&str; 2] =
    ["application/vnd.ironcore.image.rootfs", "application/vnd.ironcore.image.rootfs.v1alpha1.rootfs"];
/// What ironcore's artifacts are told by.
const IRONCORE: &str = "application/vnd.ironcore.image.";

/// An image in a registry: `host[:port]/repository[:tag][@digest]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    host: String,
    repository: String,
    tag: String,
    digest: Option<Digest>,
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not an image in a registry, like oci://registry.example/debian:12".to_owned();
        let (text, digest) = match text.split_once('@') {
            Some((text, digest)) => (text, Some(digest.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let (host, path) = text.split_once('/').ok_or_else(wrong)?;
        let (repository, tag) = path.rsplit_once(':').unwrap_or((path, "latest"));
        let is_plain = |text: &str, others: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
        };
        let is_good = is_plain(host, ".-:[]") && is_plain(repository, "._-/") && is_plain(tag, "._-");
        let is_path = repository.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
        if !is_good || !is_path || matches!(digest, Some(Digest::Sha1(_))) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), repository: repository.to_owned(), tag: tag.to_owned(), digest })
    }
}

impl Reference {
    fn url(&self, path: &str) -> Result<Url, SourceError> {
        // A registry on this host has no certificate, as every client of registries takes it.
        let name = self.host.rsplit_once(':').map_or(self.host.as_str(), |(name, _)| name);
        let scheme = if http::is_local(name) { "http" } else { "https" };
        let text = format!("{scheme}://{}/v2/{}/{path}", self.host, self.repository);
        Url::parse(&text).map_err(|error| SourceError::wrong("source", error.to_string()))
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

/// A manifest, or an index of several.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// This host's architecture, as registries name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Finds the disk of an image.
pub(super) async fn open(http: &Http, reference: &Reference, wanted: &Wanted) -> Result<Found, SourceError> {
    let mut session = Session { http, reference, token: None };
    let first = match &reference.digest {
        Some(digest) => digest.to_string(),
        None => reference.tag.clone(),
    };
    let (mut document, mut digest) = session.document(&first, reference.digest.as_ref()).await?;
    if !document.manifests.is_empty() {
        let chosen = choose(&document.manifests).ok_or_else(|| {
            let wanted = architecture();
            SourceError::Missing(format!("{}: there is none for {wanted}", session.name()))
        })?;
        let pinned = session.pinned(&chosen.digest)?;
        (document, digest) = session.document(&chosen.digest, Some(&pinned)).await?;
    }
    let (layer, in_archive) = disk_of(&document, &session.name())?;
    let layer_digest = session.pinned(&layer.digest)?;
    let is_wanted = |wanted: &Digest| {
        [&layer_digest, &digest].contains(&wanted) || Some(wanted) == reference.digest.as_ref()
    };
    if let Some(wanted) = wanted.digest.as_ref().filter(|wanted| !is_wanted(wanted)) {
        return Err(SourceError::Failed(format!(
            "{}: its digest is {digest}, and that of its disk {layer_digest}, not {wanted}",
            session.name()
        )));
    }
    let size = layer.size;
    let (content, length) = session.blob(&layer.digest).await?;
    if length.is_some_and(|length| length != size) {
        return Err(SourceError::Failed(format!(
            "{}: the registry says that the disk has {size} bytes, and sends {}",
            session.name(),
            length.unwrap_or_default()
        )));
    }
    let name = reference.repository.rsplit('/').next().unwrap_or_default();
    Ok(Found {
        server: None,
        manifest: None,
        name: format!("{name}-{}", reference.tag),
        digests: vec![layer_digest],
        size: Some(size),
        in_archive,
        content,
    })
}

/// The entry for this architecture; one without a platform is for all.
fn choose(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let is_ours = |found: &&Descriptor| match &found.platform {
        Some(platform) => {
            platform.architecture == architecture() && matches!(platform.os.as_str(), "" | "linux")
        }
        None => false,
    };
    let is_open = |found: &&Descriptor| found.platform.as_ref().is_none_or(|p| p.architecture.is_empty());
    manifests.iter().find(is_ours).or_else(|| manifests.iter().find(is_open))
}

/// The layer with the disk, and whether it is a tar archive.
fn disk_of<'d>(document: &'d Document, name: &str) -> Result<(&'d Descriptor, bool), SourceError> {
    if let Some(disk) = document.layers.iter().find(|layer| DISKS.contains(&layer.media_type.as_str())) {
        return Ok((disk, false));
    }
    let config = document.config.as_ref().map(|config| config.media_type.as_str()).unwrap_or_default();
    if config.starts_with(IRONCORE) {
        let layers: Vec<&str> = document.layers.iter().map(|layer| layer.media_type.as_str()).collect();
        let why = format!("{name}: the artifact has no disk (rootfs); it has {}", layers.join(", "));
        return Err(SourceError::Failed(why));
    }
    // A container disk has one layer; of several, the disk makes the largest.
    let is_tar = |layer: &&Descriptor| layer.media_type.contains(".tar");
    let largest = document.layers.iter().filter(is_tar).max_by_key(|layer| layer.size);
    largest.map(|layer| (layer, true)).ok_or_else(|| {
        SourceError::Failed(format!("{name}: neither an artifact with a disk nor a container disk"))
    })
}

/// Requests to one repository, with the token that the registry gave for it.
struct Session<'a> {
    http: &'a Http,
    reference: &'a Reference,
    token: Option<String>,
}

impl Session<'_> {
    fn name(&self) -> String {
        format!("oci://{}/{}", self.reference.host, self.reference.repository)
    }

    fn headers(&self, accept: &str) -> header::HeaderMap {
        let mut headers = http::headers(&[("accept", accept)]);
        if let Some(token) = &self.token
            && let Ok(mut value) = header::HeaderValue::from_str(&format!("Bearer {token}"))
        {
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        headers
    }

    /// A digest in a registry's answer.
    fn pinned(&self, text: &str) -> Result<Digest, SourceError> {
        let failed = |why: &str| SourceError::Failed(format!("{}: {why}", self.name()));
        match text.parse() {
            Ok(Digest::Sha1(_)) => Err(failed("its digest is a SHA-1, which is not secure")),
            digest => digest.map_err(|why: String| failed(&why)),
        }
    }

    /// Gets a manifest or index, and its SHA-256; it must have the digest that it was asked for with.
    async fn document(
        &mut self,
        which: &str,
        pinned: Option<&Digest>,
    ) -> Result<(Document, Digest), SourceError> {
        let url = self.reference.url(&format!("manifests/{which}"))?;
        let accept = [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST].join(", ");
        let response = self.http.send(Method::GET, &url, self.headers(&accept)).await?;
        let response = match response.status() {
            StatusCode::UNAUTHORIZED if self.token.is_none() => {
                let challenge = response.headers().get(header::WWW_AUTHENTICATE).cloned();
                self.token = Some(self.new_token(&url, challenge).await?);
                self.http.get(&url, self.headers(&accept)).await?
            }
            status if status.is_success() => response,
            status => return Err(of_status(&url, status)),
        };
        let bytes = read_whole(response).await?;
        let digest = Digest::Sha256(data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes)));
        let sent = match pinned {
            Some(Digest::Sha512(_)) => {
                Digest::Sha512(data_encoding::HEXLOWER.encode(&Sha512::digest(&bytes)))
            }
            _ => digest.clone(),
        };
        if pinned.is_some_and(|pinned| *pinned != sent) {
            return Err(SourceError::Failed(format!("{}: the registry sent {sent} instead", at(&url))));
        }
        let document = serde_json::from_slice(&bytes)
            .map_err(|error| SourceError::Failed(format!("{}: no manifest: {error}", at(&url))))?;
        Ok((document, digest))
    }

    /// Gets a token from where the registry says.
    async fn new_token(
        &self,
        url: &Url,
        challenge: Option<header::HeaderValue>,
    ) -> Result<String, SourceError> {
        #[derive(Deserialize)]
        struct Token {
            #[serde(default)]
            token: String,
            #[serde(default)]
            access_token: String,
        }
        let refused = || of_status(url, StatusCode::UNAUTHORIZED);
        let challenge = challenge.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default();
        let fields = challenge.strip_prefix("Bearer ").ok_or_else(refused)?;
        let field = |name: &str| {
            let start = fields.find(&format!("{name}=\""))? + name.len() + 2;
            fields.get(start..)?.split('"').next()
        };
        let mut realm = http::parse(field("realm").ok_or_else(refused)?)?;
        let is_weaker = url.scheme() == "https" && realm.scheme() != "https";
        if is_weaker || http::is_open(&realm) {
            return Err(SourceError::Refused(format!(
                "{}: its tokens would come without TLS, from {}",
                at(url),
                at(&realm)
            )));
        }
        let scope = format!("repository:{}:pull", self.reference.repository);
        realm.query_pairs_mut().append_pair("scope", field("scope").unwrap_or(&scope));
        if let Some(service) = field("service") {
            realm.query_pairs_mut().append_pair("service", service);
        }
        let mut headers = header::HeaderMap::new();
        if let Some(login) = self.http.login(url)? {
            use base64::{Engine as _, prelude::BASE64_STANDARD};
            let basic = BASE64_STANDARD.encode(format!("{}:{}", login.user, login.password));
            headers = http::headers(&[("authorization", &format!("Basic {basic}"))]);
        }
        let Token { token, access_token } = self.http.json(&realm, headers).await?;
        let token = if token.is_empty() { access_token } else { token };
        if token.is_empty() { Err(refused()) } else { Ok(token) }
    }

    async fn blob(&self, digest: &str) -> Result<(Content, Option<u64>), SourceError> {
        let url = self.reference.url(&format!("blobs/{digest}"))?;
        Content::get_with(self.http, url, self.headers("*/*")).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read() {
        let read = |text: &str| text.parse::<Reference>();
        let found = read("r.example:5000/a/b:1.2").unwrap();
        assert_eq!(
            (found.host.as_str(), found.repository.as_str(), found.tag.as_str()),
            ("r.example:5000", "a/b", "1.2")
        );
        assert_eq!(found.url("x").unwrap().as_str(), "https://r.example:5000/v2/a/b/x");
        assert_eq!(
            read("localhost:5000/a").unwrap().url("x").unwrap().as_str(),
            "http://localhost:5000/v2/a/x"
        );
        let digest = format!("sha256:{}", "a1".repeat(32));
        assert_eq!(read(&format!("r/a@{digest}")).unwrap().digest.unwrap().to_string(), digest);
        for wrong in ["", "r", "r/", "/a", "r/a:", "r/../a", "r/a b", "r/a@x", "r/a?x", "r/a//b", "u@r/a"] {
            read(wrong).unwrap_err();
        }
    }

    #[test]
    fn the_disk_is_found_by_its_type() {
        let document = |layers: &str, config: &str| -> Document {
            serde_json::from_str(&format!(
                r#"{{"config":{{"mediaType":"{config}","digest":"c"}},"layers":[{layers}]}}"#
            ))
            .unwrap()
        };
        let layer = |kind: &str, digest: &str, size: u64| {
            format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}"#)
        };
        for disk in DISKS {
            let all = [layer("application/vnd.ironcore.image.kernel", "k", 9), layer(disk, "d", 1)].join(",");
            let found = document(&all, "application/vnd.ironcore.image.config.v1+json");
            let (disk, in_archive) = disk_of(&found, "x").unwrap();
            assert_eq!((disk.digest.as_str(), in_archive), ("d", false));
        }
        let tar = "application/vnd.oci.image.layer.v1.tar+gzip";
        let found = document(
            &[layer(tar, "small", 1), layer(tar, "large", 2)].join(","),
            "application/vnd.oci.image.config.v1+json",
        );
        let (disk, in_archive) = disk_of(&found, "x").unwrap();
        assert_eq!((disk.digest.as_str(), in_archive), ("large", true));
        let kernel = document(
            &layer("application/vnd.ironcore.image.kernel", "k", 9),
            "application/vnd.ironcore.image.config.v1+json",
        );
        assert!(disk_of(&kernel, "x").unwrap_err().to_string().contains("no disk"));
        assert!(disk_of(&document("", "x"), "x").is_err());
    }
}
