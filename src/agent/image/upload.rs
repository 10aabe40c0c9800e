//! Uploads of images. An upload outlives its connection: a client that was cut goes on at the byte that it had reached,
//! while the agent that has the converter lives.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{
    import::{self, Plan},
    pieces::{Pieces, Waiting},
};
use crate::{
    agent::{
        Agent,
        context::{
            SEATS, VmContext,
            images::{Import, Seat},
            transition::Transition,
        },
        error::Error,
        request::{call::Call, reply::ImageReply},
    },
    model::{ImageRecord, ImageState, Timestamp},
    spec::image::{Digest, Manifest},
};

/// Pieces that wait for the import.
const PIECES: usize = 1;

/// What is uploaded.
#[derive(Clone, Debug)]
pub(crate) struct ImageUpload {
    /// The image.
    pub(crate) manifest: Manifest,
    /// Of the file.
    pub(crate) digest: Digest,
    /// Bytes of the file.
    pub(crate) size: u64,
    /// Where the first chunk belongs.
    pub(crate) offset: u64,
    /// It is a raw disk, whatever it looks like.
    pub(crate) is_raw: bool,
}

enum Piece {
    Chunk(Bytes),
    End,
}

/// An upload on its way from a caller.
#[derive(Debug)]
pub(crate) struct ImageUploader {
    pieces: mpsc::Sender<Piece>,
    outcome: oneshot::Receiver<Result<ImageReply, Error>>,
}

impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Piece")
    }
}

impl ImageUploader {
    /// Queues the next chunk; `false` when the upload is over and [`Self::finish`] returns how.
    pub(crate) async fn chunk(&self, chunk: Bytes) -> bool {
        self.pieces.send(Piece::Chunk(chunk)).await.is_ok()
    }

    /// Waits until it is over, which may be before its end.
    pub(crate) async fn over(&self) {
        self.pieces.closed().await;
    }

    /// The client said that this was all.
    pub(crate) async fn finish(self) -> Result<Arc<ImageRecord>, Error> {
        let _ = self.pieces.send(Piece::End).await;
        drop(self.pieces);
        self.outcome.await.map_err(|_| Error::Stopping)?.map(|reply| Arc::new(*reply.image))
    }

    /// Cuts the upload; what arrived is kept for a while.
    pub(crate) async fn cut(self) {
        drop(self.pieces);
        let _ = self.outcome.await;
    }
}

impl Agent {
    /// Begins or continues the upload of an image.
    pub(crate) fn import_image(&self, call: Call, upload: ImageUpload) -> ImageUploader {
        let (pieces, queue) = mpsc::channel(PIECES);
        let (sender, outcome) = oneshot::channel();
        let context = self.context.clone();
        self.context.tasks.spawn(async move {
            let work = {
                let context = context.clone();
                move |call: Call| async move { receive(&context, call, upload, queue).await }
            };
            let _ = sender.send(context.once(call, work).await);
        });
        ImageUploader { pieces, outcome }
    }
}

async fn receive(
    context: &VmContext,
    call: Call,
    upload: ImageUpload,
    queue: mpsc::Receiver<Piece>,
) -> Result<ImageReply, Error> {
    let uuid = upload.manifest.uuid();
    let import = match context.images.get(uuid) {
        Ok(image) => match of_existing(context, &image, &upload)? {
            None => return answered(context, &call, image).await,
            Some(import) => import,
        },
        Err(_) => begin(context, &call, &upload).await?,
    };
    let Some(seat) = import.upload.clone() else {
        return Err(exists(uuid, format!("image {uuid} is being fetched")));
    };
    let taken = Taken::take(seat, uuid, &upload)?;
    let mut progress = import.progress.clone();
    tokio::select! {
        sent = send(&taken, upload.offset, queue) => sent?,
        // It may fail before all has come.
        _ = progress.wait_for(|progress| progress.outcome.is_some()) => {}
    }
    let ended = progress.wait_for(|progress| progress.outcome.is_some()).await;
    let outcome = ended.ok().and_then(|progress| progress.outcome.clone());
    let image = outcome.unwrap_or(Err(Error::Stopping))?;
    answered(context, &call, image).await
}

/// The answer for a repeat of the call.
async fn answered(context: &VmContext, call: &Call, image: Arc<ImageRecord>) -> Result<ImageReply, Error> {
    let reply = ImageReply { image: Box::new((*image).clone()) };
    if let Some(answer) = call.answer(&Ok(reply.clone())) {
        Transition::new(context).answers(Some(answer)).only().await?;
    }
    Ok(reply)
}

fn exists(uuid: Uuid, message: String) -> Error {
    Error::ImageExists { uuid, message }
}

/// An image that exists is the uploaded one, is being uploaded, or is another.
fn of_existing(
    context: &VmContext,
    image: &ImageRecord,
    upload: &ImageUpload,
) -> Result<Option<Import>, Error> {
    let is_same = image.digest.as_ref() == Some(&upload.digest);
    match (image.state, is_same) {
        (ImageState::Active, true) => Ok(None),
        (ImageState::Importing, true) => {
            if !is_same_manifest(&image.manifest, &upload.manifest) {
                let message =
                    format!("image {} is being uploaded with another manifest, name or form", image.uuid);
                return Err(exists(image.uuid, message));
            }
            let import = context.images.import(image.uuid);
            import.map(Some).ok_or_else(|| Error::internal("an import without its task"))
        }
        (_, false) => {
            let has = image.digest.as_ref().map(ToString::to_string).unwrap_or_default();
            Err(exists(image.uuid, format!("image {} exists, with digest {has}", image.uuid)))
        }
    }
}

/// Whether two manifests differ in no more than what the agent sets itself.
fn is_same_manifest(one: &Manifest, other: &Manifest) -> bool {
    let own = ["state", "published_at", "image_size"];
    let rest = |manifest: &Manifest| {
        let mut object = manifest.object().clone();
        own.iter().for_each(|key| drop(object.shift_remove(*key)));
        object
    };
    rest(one) == rest(other)
}

/// Begins an import that waits for bytes.
async fn begin(context: &VmContext, call: &Call, upload: &ImageUpload) -> Result<Import, Error> {
    let uuid = upload.manifest.uuid();
    if upload.offset != 0 {
        return Err(wrong_offset(uuid, 0));
    }
    if let Some(origin) = upload.manifest.origin() {
        drop(context.images.hold(origin)?);
    }
    let record = ImageRecord {
        uuid,
        manifest: upload.manifest.clone(),
        state: ImageState::Importing,
        source: "upload".to_owned(),
        fetch: None,
        digest: Some(upload.digest.clone()),
        size: 0,
        guid: None,
        format: String::new(),
        created: Timestamp::now(),
        call: None,
    };
    let sha1 = upload.manifest.file().1.and_then(|sha1| sha1.parse().ok());
    let digests = std::iter::once(upload.digest.clone()).chain(sha1).collect();
    let plan = Plan { record, digests, size: Some(upload.size), is_raw: upload.is_raw, in_archive: false };
    let place = context.upload_seats.clone().try_acquire_owned();
    let place = place.map_err(|_| Error::TooManyUploads { most: SEATS })?;
    let (sender, queue) = mpsc::channel(PIECES);
    let (size, is_raw) = (upload.size, upload.is_raw);
    let seat = Seat { sender, received: Arc::default(), is_taken: Arc::default(), size, is_raw };
    let waiting = Waiting::new(queue, context.settings.upload_keep, upload.size);
    let begun = import::begin(context, call, &plan, Some(seat.clone())).await?;
    let import = begun.import(Some(seat));
    let (context, call) = (context.clone(), call.clone());
    let tasks = context.tasks.clone();
    tasks.spawn(async move {
        let _place = place;
        // Its outcome is in the progress.
        let _ = import::carry_out(&context, &call, plan, Pieces::Upload(waiting), begun).await;
    });
    Ok(import)
}

fn wrong_offset(uuid: Uuid, committed: u64) -> Error {
    let message = format!("the upload of image {uuid} goes on at byte {committed}");
    Error::UploadOffset { path: uuid.to_string(), committed, message }
}

/// The seat of an upload, taken by one client.
struct Taken(Seat, Uuid);

impl Taken {
    fn take(seat: Seat, uuid: Uuid, upload: &ImageUpload) -> Result<Self, Error> {
        if (seat.size, seat.is_raw) != (upload.size, upload.is_raw) {
            return Err(exists(
                uuid,
                format!("image {uuid} is being uploaded with {} bytes, or in another form", seat.size),
            ));
        }
        if seat.is_taken.swap(true, Ordering::AcqRel) {
            let message = format!("another client is uploading image {uuid}");
            return Err(Error::UploadBusy { path: uuid.to_string(), message });
        }
        let taken = Self(seat, uuid);
        let received = taken.received();
        if upload.offset <= received { Ok(taken) } else { Err(wrong_offset(uuid, received)) }
    }

    fn received(&self) -> u64 {
        self.0.received.load(Ordering::Acquire)
    }

    async fn pass_on(&self, chunk: Bytes) -> bool {
        let length = chunk.len() as u64;
        let is_taken = self.0.sender.send(chunk).await.is_ok();
        if is_taken {
            self.0.received.fetch_add(length, Ordering::AcqRel);
        }
        is_taken
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.is_taken.store(false, Ordering::Release);
    }
}

/// Passes chunks on until the client ends the upload. Bytes that came before are passed over.
async fn send(taken: &Taken, mut offset: u64, mut queue: mpsc::Receiver<Piece>) -> Result<(), Error> {
    loop {
        match queue.recv().await {
            Some(Piece::Chunk(mut chunk)) => {
                let known = taken.received().saturating_sub(offset);
                offset += chunk.len() as u64;
                let known = usize::try_from(known).unwrap_or(usize::MAX).min(chunk.len());
                let new = chunk.split_off(known);
                if !new.is_empty() && !taken.pass_on(new).await {
                    // The import has ended, and says why.
                    std::future::pending().await
                }
            }
            Some(Piece::End) if taken.received() >= taken.0.size => return Ok(()),
            // A connection that breaks may look like an end.
            Some(Piece::End) | None => {
                let (received, size) = (taken.received(), taken.0.size);
                let message = format!(
                    "the upload was cut after {received} of {size} bytes; they are kept for a while, and a repeat goes on behind them"
                );
                return Err(Error::UploadBroken { path: taken.1.to_string(), message });
            }
        }
    }
}
