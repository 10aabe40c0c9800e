//! `ImageService`.

use std::pin::Pin;

use serde_json::{json, value::RawValue};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::{
    request::{actor, bytes, call, call_of, invalid, page_size, uuid, uuid_at},
    status::status,
};
use crate::{
    agent::{Agent, Error, FetchProgress, FetchRequest, ImageUpload, ImageUploader, ImageView, Offer},
    proto::{
        image_to_proto, json_to_struct, offset, struct_to_json,
        v1::{self, image_service_server::ImageService, import_image_request::Item},
    },
    spec::image::{Digest, Manifest},
};

/// Largest chunk of an upload.
const MAX_CHUNK: usize = 1 << 20;
/// Steps of progress that wait for a client.
const STEPS: usize = 4;
/// Manifests of a server in one message.
const MANIFESTS: usize = 50;
/// Bytes of those, but for the last one.
const MANIFEST_BYTES: usize = 512 << 10;
/// Bytes of an answer with manifests.
const MAX_MANIFESTS: usize = 3 << 20;

/// Serves images.
#[derive(Clone, Debug)]
pub(super) struct ImagesApi {
    agent: Agent,
}

type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl ImagesApi {
    pub(super) fn new(agent: Agent) -> Self {
        Self { agent }
    }
}

fn image(view: &ImageView) -> v1::Image {
    let names = |uuids: &[Uuid]| uuids.iter().map(ToString::to_string).collect();
    v1::Image {
        used: offset(view.used),
        received: offset(view.received.0),
        total: offset(view.received.1.unwrap_or_default()),
        vms: names(&view.vms),
        derived: names(&view.derived),
        ..image_to_proto(&view.record)
    }
}

/// An optional field.
fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn digest(field: &str, text: &str) -> Result<Digest, Status> {
    text.parse().map_err(|why: String| invalid(field, why))
}

/// The manifest of a request; its UUID is the request's, if that has one.
fn manifest(object: Option<prost_types::Struct>, uuid: Option<Uuid>) -> Result<Option<Manifest>, Status> {
    let Some(object) = object else { return Ok(None) };
    let mut object = struct_to_json(object);
    if let Some(uuid) = uuid {
        object.insert("uuid".to_owned(), json!(uuid));
    }
    Manifest::read(object).map(Some).map_err(|found| status(Error::Invalid(found)))
}

/// The manifest of an image with this name; without one its UUID is its name.
fn named(uuid: Uuid, name: &str, at: &str) -> Result<Manifest, Status> {
    match given(name) {
        Some(name) => Manifest::with_name(uuid, name).map_err(|why| invalid(at, why)),
        None => Ok(Manifest::named(uuid, &uuid.to_string())),
    }
}

fn upload(header: v1::ImportImageHeader, limit: u64) -> Result<ImageUpload, Status> {
    let uuid = given(&header.uuid).map(|text| uuid_at("header.uuid", text)).transpose()?;
    let manifest = match (manifest(header.manifest, uuid)?, uuid) {
        (Some(_), _) if !header.name.is_empty() => {
            return Err(invalid("header.name", "the manifest has the name; give one of the two"));
        }
        (Some(manifest), _) => manifest,
        (None, Some(uuid)) => named(uuid, &header.name, "header.name")?,
        (None, None) => return Err(invalid("header.uuid", "required, here or in the manifest")),
    };
    let size = bytes("header.size", header.size)?;
    if size == 0 {
        return Err(invalid("header.size", "required: the bytes of the file, which must not be empty"));
    }
    if size > limit {
        let most = format!("{size} bytes; {limit} are the most here (images.max_gib)");
        return Err(invalid("header.size", most));
    }
    if let Some(told) = manifest.file().0.filter(|told| *told != size) {
        return Err(invalid(
            "header.size",
            format!("{size} bytes, and the manifest says {told} (files.0.size)"),
        ));
    }
    Ok(ImageUpload {
        manifest,
        digest: digest("header.digest", &header.digest)?,
        size,
        offset: bytes("header.offset", header.offset)?,
        is_raw: header.raw,
    })
}

async fn receive(
    uploader: ImageUploader,
    stream: &mut Streaming<v1::ImportImageRequest>,
) -> Result<std::sync::Arc<crate::model::ImageRecord>, Status> {
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            // Also a client that sends nothing learns of it.
            () = uploader.over() => Ok(None),
        };
        let item = match message {
            Ok(Some(message)) => message.item,
            Ok(None) => return uploader.finish().await.map_err(status),
            Err(error) => {
                uploader.cut().await;
                return Err(error);
            }
        };
        match item {
            Some(Item::Chunk(chunk)) if chunk.len() <= MAX_CHUNK => {
                if !uploader.chunk(chunk).await {
                    return uploader.finish().await.map_err(status);
                }
            }
            Some(Item::Chunk(chunk)) => {
                uploader.cut().await;
                return Err(invalid("chunk", format!("{} bytes; {MAX_CHUNK} are the most", chunk.len())));
            }
            Some(Item::Header(_)) | None => {
                uploader.cut().await;
                return Err(invalid("chunk", "every message but the first has a chunk"));
            }
        }
    }
}

#[tonic::async_trait]
impl ImageService for ImagesApi {
    async fn import_image(
        &self,
        request: Request<Streaming<v1::ImportImageRequest>>,
    ) -> Result<Response<v1::ImportImageResponse>, Status> {
        let actor = actor(&request)?;
        let mut stream = request.into_inner();
        let Some(Item::Header(header)) = stream.message().await?.and_then(|message| message.item) else {
            return Err(invalid("header", "the first message must be the header"));
        };
        // Where it goes on is not what is asked for.
        let content = v1::ImportImageHeader { offset: 0, ..header.clone() };
        let call = call_of(actor, "ImportImage", content)?;
        let uploader = self.agent.import_image(call, upload(header, self.agent.image_limit())?);
        let record = receive(uploader, &mut stream).await?;
        let image = image(&self.agent.view_of_image(record));
        Ok(Response::new(v1::ImportImageResponse { image: Some(image) }))
    }

    type FetchImageStream = Items<v1::FetchImageResponse>;

    async fn fetch_image(
        &self,
        request: Request<v1::FetchImageRequest>,
    ) -> Result<Response<Self::FetchImageStream>, Status> {
        use v1::fetch_image_response::Item;
        let call = call(&request, "FetchImage")?;
        let request = request.into_inner();
        let uuid_of = given(&request.uuid).map(uuid).transpose()?;
        let described = manifest(request.manifest, uuid_of)?;
        if described.is_some() && !request.name.is_empty() {
            return Err(invalid("name", "the manifest has the name; give one of the two"));
        }
        named(uuid_of.unwrap_or_default(), &request.name, "name")?;
        let wanted = FetchRequest {
            manifest: described,
            digest: given(&request.digest).map(|text| digest("digest", text)).transpose()?,
            source: request.source,
            uuid: uuid_of,
            name: request.name,
            is_raw: request.raw,
        };
        let (told, mut steps) = mpsc::channel::<FetchProgress>(STEPS);
        let (items, stream) = mpsc::channel(STEPS);
        let agent = self.agent.clone();
        let item = |item| Ok(v1::FetchImageResponse { item: Some(item) });
        tokio::spawn(async move {
            let telling = async {
                while let Some((uuid, received, total)) = steps.recv().await {
                    let (uuid, received) = (Uuid::to_string(&uuid), offset(received));
                    let progress =
                        v1::FetchProgress { uuid, received, total: offset(total.unwrap_or_default()) };
                    let _ = items.try_send(item(Item::Progress(progress)));
                }
            };
            let (fetched, ()) = tokio::join!(agent.fetch_image(call, wanted, told), telling);
            let last = match fetched {
                Ok(record) => item(Item::Image(image(&agent.view_of_image(record)))),
                Err(error) => Err(status(error)),
            };
            let _ = items.send(last).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        let request = request.into_inner();
        let after = given(&request.page_token).map(|token| uuid_at("page_token", token)).transpose()?;
        let (limit, agent) = (page_size(request.page_size)?, self.agent.clone());
        let (views, more) = tokio::task::spawn_blocking(move || agent.images(after, limit))
            .await
            .map_err(|_| Status::internal("listing failed"))?;
        let mut images: Vec<v1::Image> = views.iter().map(image).collect();
        let whole = images.len();
        let mut room = MAX_MANIFESTS;
        images = images
            .into_iter()
            .take_while(|image| {
                let size = prost::Message::encoded_len(image);
                let fits = size <= room;
                room = room.saturating_sub(size);
                fits
            })
            .collect();
        let is_last = !more && images.len() == whole;
        let next_page_token =
            images.last().filter(|_| !is_last).map(|image| image.uuid.clone()).unwrap_or_default();
        Ok(Response::new(v1::ListImagesResponse { images, next_page_token }))
    }

    async fn get_image(
        &self,
        request: Request<v1::GetImageRequest>,
    ) -> Result<Response<v1::GetImageResponse>, Status> {
        let view = self.agent.image(&request.get_ref().uuid).map_err(status)?;
        Ok(Response::new(v1::GetImageResponse { image: Some(image(&view)) }))
    }

    async fn delete_image(
        &self,
        request: Request<v1::DeleteImageRequest>,
    ) -> Result<Response<v1::DeleteImageResponse>, Status> {
        let call = call(&request, "DeleteImage")?;
        self.agent.delete_image(call, uuid(&request.get_ref().uuid)?).await.map_err(status)?;
        Ok(Response::new(v1::DeleteImageResponse {}))
    }

    type ExportImageStream = Items<v1::ExportImageResponse>;

    async fn export_image(
        &self,
        request: Request<v1::ExportImageRequest>,
    ) -> Result<Response<Self::ExportImageStream>, Status> {
        use v1::export_image_response::Item;
        let (call, uuid) = (call(&request, "ExportImage")?, uuid(&request.get_ref().uuid)?);
        let (view, pieces) = self.agent.export_image(uuid).await.map_err(status)?;
        self.agent.journal_call(&call, None, "ExportImage", &uuid.to_string()).await;
        let first = Item::Image(image(&view));
        let item = |item| v1::ExportImageResponse { item: Some(item) };
        let rest = ReceiverStream::new(pieces).map(move |piece| match piece {
            Ok(piece) => Ok(item(Item::Chunk(piece))),
            Err(error) => Err(status(Error::internal(error))),
        });
        let stream = tokio_stream::once(Ok(item(first))).chain(rest);
        Ok(Response::new(Box::pin(stream)))
    }

    type ListRemoteImagesStream = Items<v1::ListRemoteImagesResponse>;

    async fn list_remote_images(
        &self,
        request: Request<v1::ListRemoteImagesRequest>,
    ) -> Result<Response<Self::ListRemoteImagesStream>, Status> {
        let request = request.into_inner();
        let wanted = given(&request.uuid).map(uuid).transpose()?;
        let offers = self.agent.remote_images(&request.source, wanted).await;
        if let [only] = offers.as_slice()
            && let Err(error) = &only.manifests
        {
            return Err(status(error.clone().into()));
        }
        // Each message is made when the client takes it.
        let messages = offers.into_iter().flat_map(|Offer { server: source, manifests }| {
            let (manifests, problem) = match manifests {
                Ok(manifests) => (parts(manifests), String::new()),
                Err(error) => (vec![Vec::new()], error.to_string()),
            };
            manifests.into_iter().map(move |part| {
                let read = |manifest: Box<RawValue>| serde_json::from_str(manifest.get()).ok();
                let manifests = part.into_iter().filter_map(read).map(json_to_struct).collect();
                let (source, problem) = (source.clone(), problem.clone());
                Ok(v1::ListRemoteImagesResponse { manifests, source, problem })
            })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn list_image_sources(
        &self,
        _: Request<v1::ListImageSourcesRequest>,
    ) -> Result<Response<v1::ListImageSourcesResponse>, Status> {
        let sources = self.agent.image_sources().to_vec();
        Ok(Response::new(v1::ListImageSourcesResponse { sources }))
    }
}

/// Cuts a list of manifests into pieces for a message each.
fn parts(manifests: Vec<Box<RawValue>>) -> Vec<Vec<Box<RawValue>>> {
    let mut parts: Vec<Vec<Box<RawValue>>> = Vec::new();
    let mut bytes = 0;
    for manifest in manifests {
        let is_full = |part: &Vec<_>| part.len() >= MANIFESTS || bytes > MANIFEST_BYTES;
        if parts.last().is_none_or(is_full) {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += manifest.get().len();
        if let Some(part) = parts.last_mut() {
            part.push(manifest);
        }
    }
    parts
}
