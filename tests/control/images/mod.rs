//! Images: uploads, sources, and the disks that begin as them.

mod command;
mod disks;
mod fetch;
mod interrupted;
mod registry;
mod upload;

use std::{fs, path::PathBuf};

use prost_types::value::Kind;
use tonic::Status;
use zoneward::proto::v1::{self, import_image_request::Item};

use super::support::{Clients, sha256, simulated::Simulated};

/// A raw disk of 3 MiB that looks like one.
pub(super) fn disk() -> Vec<u8> {
    let mut raw: Vec<u8> = (0..2_000_000_u64).map(|n| u8::try_from(n * n % 251).unwrap()).collect();
    raw[510..512].copy_from_slice(&[0x55, 0xaa]);
    raw.resize(3 << 20, 0);
    raw
}

pub(super) fn digest(content: &[u8]) -> String {
    format!("sha256:{}", sha256(content))
}

pub(super) fn uuid(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// A file of the streams that ZFS itself made.
pub(super) fn stream(name: &str) -> Vec<u8> {
    fs::read(format!("tests/zfs-streams/{name}")).unwrap()
}

/// A manifest of a request.
pub(super) fn manifest(object: serde_json::Value) -> Option<prost_types::Struct> {
    match value(object).kind {
        Some(Kind::StructValue(object)) => Some(object),
        other => panic!("no object: {other:?}"),
    }
}

fn value(json: serde_json::Value) -> prost_types::Value {
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(is) => Kind::BoolValue(is),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.into_iter().map(value).collect() })
        }
        serde_json::Value::Object(object) => Kind::StructValue(prost_types::Struct {
            fields: object.into_iter().map(|(key, json)| (key, value(json))).collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}

/// The header of an upload.
pub(super) fn header(number: u32, content: &[u8]) -> v1::ImportImageHeader {
    v1::ImportImageHeader {
        uuid: uuid(number),
        digest: digest(content),
        size: i64::try_from(content.len()).unwrap(),
        ..Default::default()
    }
}

/// Uploads an image.
pub(super) async fn import(
    clients: &mut Clients,
    header: v1::ImportImageHeader,
    content: &[u8],
) -> Result<v1::Image, Status> {
    let header = v1::ImportImageRequest { item: Some(Item::Header(header)) };
    let chunks = content.chunks(64 << 10);
    let chunks =
        chunks.map(|chunk| v1::ImportImageRequest { item: Some(Item::Chunk(chunk.to_vec().into())) });
    let items: Vec<_> = std::iter::once(header).chain(chunks).collect();
    Ok(clients.images.import_image(tokio_stream::iter(items)).await?.into_inner().image.unwrap())
}

/// Fetches an image to its end.
pub(super) async fn fetch(
    clients: &mut Clients,
    request: v1::FetchImageRequest,
) -> Result<v1::Image, Status> {
    let mut stream = clients.images.fetch_image(request).await?.into_inner();
    loop {
        match stream.message().await?.unwrap().item.unwrap() {
            v1::fetch_image_response::Item::Image(image) => return Ok(image),
            v1::fetch_image_response::Item::Progress(_) => {}
        }
    }
}

pub(super) async fn get(clients: &mut Clients, name: &str) -> Result<v1::Image, Status> {
    Ok(clients
        .images
        .get_image(v1::GetImageRequest { uuid: name.to_owned() })
        .await?
        .into_inner()
        .image
        .unwrap())
}

pub(super) async fn delete(clients: &mut Clients, name: &str) -> Result<(), Status> {
    let request = v1::DeleteImageRequest { uuid: name.to_owned(), ..Default::default() };
    clients.images.delete_image(request).await.map(drop)
}

/// The steps of an image in the journal.
pub(super) async fn steps(clients: &mut Clients, uuid: &str) -> Vec<v1::image_changed::Step> {
    let events = clients.journal().await.into_iter().filter(|event| event.uuid == uuid);
    let step = |event: v1::Event| match event.kind {
        Some(v1::event::Kind::Image(image)) => Some(image.step()),
        _ => None,
    };
    events.filter_map(step).collect()
}

/// What lies in the images' folder.
pub(super) fn left(agent: &Simulated) -> Vec<PathBuf> {
    let folder = fs::read_dir(agent.config.zones_dir.join("images"));
    folder.map(|all| all.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

/// An agent that fetches from loopback, too.
pub(super) async fn local() -> Simulated {
    Simulated::start_with(|config| {
        config.images.allow = vec!["127.0.0.1".parse().unwrap()];
        config.images.timeout_seconds = 1;
        config.images.servers = Vec::new();
    })
    .await
}
