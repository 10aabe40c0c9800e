//! Fetching of images from their sources.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::{
    import::{self, Plan},
    pieces::Pieces,
};
use crate::{
    agent::{
        Agent,
        context::{
            VmContext,
            images::{Import, Progress},
            transition::Transition,
        },
        error::Error,
        request::{call::Call, reply::ImageReply},
    },
    model::{Fetch, ImageRecord, ImageState, Timestamp},
    source::{self, Found, Wanted},
    spec::image::{Digest, Manifest},
};

/// Images of a chain of differences that are fetched for one.
const MAX_CHAIN: usize = 16;

/// An image to fetch.
#[derive(Clone, Debug, Default)]
pub(crate) struct FetchRequest {
    /// Its source; empty: the configured servers.
    pub(crate) source: String,
    /// The image.
    pub(crate) uuid: Option<Uuid>,
    /// Of the file.
    pub(crate) digest: Option<Digest>,
    /// For an image that comes without one.
    pub(crate) manifest: Option<Manifest>,
    /// A name, without a manifest.
    pub(crate) name: String,
    /// It is a raw disk, whatever it looks like.
    pub(crate) is_raw: bool,
}

/// How far a fetch is, for its caller: the image, bytes, and of how many.
pub(crate) type FetchProgress = (Uuid, u64, Option<u64>);

impl Agent {
    /// Fetches an image; `progress` is told how far it is.
    pub(crate) async fn fetch_image(
        &self,
        call: Call,
        request: FetchRequest,
        progress: mpsc::Sender<FetchProgress>,
    ) -> Result<Arc<ImageRecord>, Error> {
        let context = self.context.clone();
        let work = move |call: Call| async move {
            let image = fetch_all(&context, &call, request, &progress).await?;
            let reply = ImageReply { image: Box::new((*image).clone()) };
            if let Some(answer) = call.answer(&Ok(reply.clone())) {
                Transition::new(&context).answers(Some(answer)).only().await?;
            }
            Ok(reply)
        };
        let ImageReply { image } = self.context.once(call, work).await?;
        Ok(Arc::new(*image))
    }
}

/// Fetches an image, and first those that it is a difference from.
async fn fetch_all(
    context: &VmContext,
    call: &Call,
    request: FetchRequest,
    progress: &mpsc::Sender<FetchProgress>,
) -> Result<Arc<ImageRecord>, Error> {
    let mut chain = vec![request];
    loop {
        let Some(request) = chain.last().cloned() else { return Err(Error::internal("no image to fetch")) };
        match fetch_one(context, call, &request, progress).await? {
            Fetched::Image(image) if chain.len() == 1 => return Ok(image),
            Fetched::Image(_) => drop(chain.pop()),
            Fetched::Needs(origin)
                if chain.len() < MAX_CHAIN && !chain.iter().any(|r| r.uuid == Some(origin)) =>
            {
                chain.push(of_same_server(&request, origin)?);
            }
            Fetched::Needs(origin) => {
                let message =
                    format!("image {origin} is the origin in a chain of more than {MAX_CHAIN}, or of itself");
                return Err(Error::SourceFailed { message });
            }
        }
    }
}

/// The origin is on the image server that has the difference; other sources name one file only.
fn of_same_server(request: &FetchRequest, origin: Uuid) -> Result<FetchRequest, Error> {
    if !request.source.is_empty() && !request.source.starts_with("imgapi+") {
        return Err(Error::ImageNotFound { image: format!("{origin}, the origin") });
    }
    let server = request.source.strip_suffix(&request.uuid.map(|uuid| uuid.to_string()).unwrap_or_default());
    let source = server.unwrap_or(&request.source).trim_end_matches('/').to_owned();
    Ok(FetchRequest { source, uuid: Some(origin), ..FetchRequest::default() })
}

enum Fetched {
    Image(Arc<ImageRecord>),
    /// Its origin has to be there first.
    Needs(Uuid),
}

async fn fetch_one(
    context: &VmContext,
    call: &Call,
    request: &FetchRequest,
    progress: &mpsc::Sender<FetchProgress>,
) -> Result<Fetched, Error> {
    if let Some(image) = request.uuid.and_then(|uuid| context.images.get(uuid).ok()) {
        is_meant(&image, request)?;
        return join(context, &image, progress).await.map(Fetched::Image);
    }
    let wanted = Wanted { digest: request.digest.clone(), uuid: request.uuid };
    let found = context.sources.open(&request.source, &wanted).await?;
    let (plan, content) = plan(call, request, found)?;
    if let Ok(image) = context.images.get(plan.record.uuid) {
        return join(context, &image, progress).await.map(Fetched::Image);
    }
    if let Some(origin) =
        plan.record.manifest.origin().filter(|origin| context.images.active(*origin).is_none())
    {
        return Ok(Fetched::Needs(origin));
    }
    let uuid = plan.record.uuid;
    let begun = match import::begin(context, call, &plan, None).await {
        // Another request was faster.
        Err(error @ Error::ImageExists { .. }) => {
            let image = context.images.get(uuid).map_err(|_| error)?;
            return join(context, &image, progress).await.map(Fetched::Image);
        }
        begun => begun?,
    };
    let telling = tell(uuid, begun.progress.subscribe(), progress);
    let importing = import::carry_out(context, call, plan, Pieces::Source(content), begun);
    let (image, ()) = tokio::join!(importing, telling);
    image.map(Fetched::Image)
}

/// Fails if an image that exists is another than the requested one, as far as can be told.
fn is_meant(image: &ImageRecord, request: &FetchRequest) -> Result<(), Error> {
    let exists = |why: String| {
        Err(Error::ImageExists { uuid: image.uuid, message: format!("image {} {why}", image.uuid) })
    };
    match (&request.digest, &image.digest) {
        (Some(wanted @ Digest::Sha256(_)), Some(has @ Digest::Sha256(_))) if wanted != has => {
            return exists(format!("exists, with digest {has}"));
        }
        (Some(Digest::Sha256(_)), Some(Digest::Sha256(_))) => return Ok(()),
        _ => {}
    }
    let source = source::shown(&request.source);
    // An image server is asked by UUID: it is the same image wherever it came from.
    if source.is_empty() || source.starts_with("imgapi+") || source == image.source {
        return Ok(());
    }
    let verb = if image.state == ImageState::Active { "exists, from" } else { "is being imported from" };
    exists(format!("{verb} {}", image.source))
}

/// An image that exists, or its import that is under way.
async fn join(
    context: &VmContext,
    image: &Arc<ImageRecord>,
    progress: &mpsc::Sender<FetchProgress>,
) -> Result<Arc<ImageRecord>, Error> {
    let Some(Import { progress: mut under_way, .. }) = context.images.import(image.uuid) else {
        return Ok(image.clone());
    };
    tell(image.uuid, under_way.clone(), progress).await;
    let ended = under_way.wait_for(|progress| progress.outcome.is_some()).await;
    ended.ok().and_then(|progress| progress.outcome.clone()).unwrap_or(Err(Error::Stopping))
}

/// Tells a caller how far an import is, until it ends. A slow caller misses some.
async fn tell(uuid: Uuid, mut under_way: watch::Receiver<Progress>, caller: &mpsc::Sender<FetchProgress>) {
    loop {
        let progress = under_way.borrow_and_update().clone();
        let _ = caller.try_send((uuid, progress.received, progress.total));
        if progress.outcome.is_some() || under_way.changed().await.is_err() {
            return;
        }
    }
}

/// What is imported of what was found.
pub(super) fn plan(
    call: &Call,
    request: &FetchRequest,
    found: Found,
) -> Result<(Plan, source::Content), Error> {
    let Found { server, manifest, name, digests, size, in_archive, content } = found;
    let digest = digests.first().cloned().ok_or_else(|| Error::internal("a source without a digest"))?;
    let given = manifest.as_ref().or(request.manifest.as_ref()).map(Manifest::uuid);
    let uuid = request.uuid.or(given).unwrap_or_else(|| named_after(&digest));
    let mut manifest = manifest.or_else(|| request.manifest.clone()).unwrap_or_else(|| {
        let chosen = Manifest::with_name(uuid, &request.name);
        chosen.unwrap_or_else(|_| Manifest::named(uuid, &name))
    });
    manifest.set("uuid", serde_json::json!(uuid));
    let record = ImageRecord {
        uuid,
        manifest,
        state: ImageState::Importing,
        source: server.unwrap_or_else(|| source::shown(&request.source)),
        fetch: Some(Fetch { url: request.source.clone(), is_raw: request.is_raw }),
        digest: Some(digest),
        size: 0,
        guid: None,
        format: String::new(),
        created: Timestamp::now(),
        call: call.request_id.map(|_| call.waiting(false)),
    };
    Ok((Plan { record, digests, size, is_raw: request.is_raw, in_archive }, content))
}

/// One file has one UUID: the first bytes of its digest, marked as made by a rule of our own.
fn named_after(digest: &Digest) -> Uuid {
    let mut bytes = [0; 16];
    let decoded = data_encoding::HEXLOWER.decode(digest.digits().as_bytes()).unwrap_or_default();
    for (byte, found) in bytes.iter_mut().zip(decoded) {
        *byte = found;
    }
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_a_uuid() {
        let uuid = named_after(&"a1".repeat(32).parse().unwrap());
        assert_eq!(uuid.to_string(), "a1a1a1a1-a1a1-81a1-a1a1-a1a1a1a1a1a1");
    }

    #[test]
    fn an_origin_is_looked_for_where_its_difference_is() {
        let uuid = Uuid::from_u128(7);
        let request = FetchRequest {
            source: format!("imgapi+https://a/{uuid}"),
            uuid: Some(uuid),
            ..FetchRequest::default()
        };
        let origin = Uuid::from_u128(8);
        let found = of_same_server(&request, origin).unwrap();
        assert_eq!((found.source.as_str(), found.uuid), ("imgapi+https://a", Some(origin)));
        assert_eq!(of_same_server(&FetchRequest::default(), origin).unwrap().source, "");
        let url = FetchRequest { source: "https://a/b".to_owned(), ..FetchRequest::default() };
        of_same_server(&url, origin).unwrap_err();
    }
}
