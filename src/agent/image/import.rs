//! One import: bytes in, a disk out, or nothing at all.

use std::{
    io::Write,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{pieces::Pieces, turn::Turn};
use crate::{
    agent::{
        context::{
            VmContext,
            images::{HeldImage, Import, Progress, Seat},
            transition::Transition,
        },
        error::Error,
        files::blocking,
        request::{call::Call, reply::ImageReply},
    },
    crash,
    image::{Conversion, Converted, Converting, Fault, FaultKind, Job},
    layout::ImageLayout,
    model::{EventKind, ImageRecord, ImageState, ImageStep},
    spec::image::Digest,
    storage::{self, StorageError},
};

/// Pieces that wait for the converter.
const PIECES: usize = 8;
/// Bytes after which the room is looked at.
const ROOM_EVERY: u64 = 1 << 20;
/// Interval of events of progress.
const EVERY: Duration = Duration::from_secs(5);

/// What is imported.
pub(super) struct Plan {
    pub(super) record: ImageRecord,
    /// All must be right.
    pub(super) digests: Vec<Digest>,
    /// Bytes of the file.
    pub(super) size: Option<u64>,
    pub(super) is_raw: bool,
    pub(super) in_archive: bool,
}

/// An import that has begun: how far it is, and who cancels it.
pub(super) struct Begun {
    pub(super) progress: watch::Sender<Progress>,
    pub(super) cancel: CancellationToken,
    files: Files,
}

/// An import's turn at its files, which a job has whose caller is gone as well; and whether they are given up.
#[derive(Clone, Default)]
struct Files(Arc<Mutex<bool>>);

impl Files {
    /// Works with them, unless they are given up.
    async fn with<T: Send + 'static>(
        &self,
        uuid: Uuid,
        work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, Error> {
        let files = self.0.clone();
        let work = move || {
            let given_up = files.lock().unwrap_or_else(PoisonError::into_inner);
            if *given_up { Ok(None) } else { work().map(Some) }
        };
        blocking(work).await?.ok_or(Error::ImageCancelled { uuid })
    }

    /// Removes them, after the last work with them.
    async fn give_up(&self, layout: ImageLayout) -> Result<(), Error> {
        let files = self.0.clone();
        blocking(move || {
            *files.lock().unwrap_or_else(PoisonError::into_inner) = true;
            storage::remove_image(&layout)
        })
        .await
    }
}

impl Begun {
    fn new(total: Option<u64>) -> Self {
        Self {
            progress: watch::channel(Progress { total, ..Progress::default() }).0,
            cancel: CancellationToken::new(),
            files: Files::default(),
        }
    }

    /// As others see it.
    pub(super) fn import(&self, upload: Option<Seat>) -> Import {
        Import { progress: self.progress.subscribe(), cancel: self.cancel.clone(), upload }
    }
}

/// Inserts a new image's record. From here on there is an image that is being imported.
pub(super) async fn begin(
    context: &VmContext,
    call: &Call,
    plan: &Plan,
    upload: Option<Seat>,
) -> Result<Begun, Error> {
    let _reserved = context.images.reserve(plan.record.uuid)?;
    let mut record = plan.record.clone();
    record.manifest.set("state", json!("creating"));
    let (begun, record) = (Begun::new(plan.size), Arc::new(record));
    let show = || context.images.put(record.clone(), Some(begun.import(upload)));
    Transition::new(context).put_image(call, &record, ImageStep::Begun, show).await?;
    crash::point("image.begun");
    Ok(begun)
}

/// Begins the import of a known image again: it can be cancelled from here on.
pub(super) fn begin_again(context: &VmContext, record: &Arc<ImageRecord>) -> Begun {
    let begun = Begun::new(None);
    context.images.put(record.clone(), Some(begun.import(None)));
    begun
}

/// Waits for something, unless the import is cancelled or the agent stops meanwhile.
pub(super) async fn unless_cancelled<T>(
    context: &VmContext,
    uuid: Uuid,
    begun: &Begun,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::select! {
        () = begun.cancel.cancelled() => Err(Error::ImageCancelled { uuid }),
        // The next agent goes on: a fetch begins again.
        () = context.stopping.cancelled() => Err(Error::Stopping),
        done = work => done,
    }
}

/// Carries an import out that has begun.
pub(super) async fn carry_out(
    context: &VmContext,
    call: &Call,
    plan: Plan,
    pieces: Pieces,
    begun: Begun,
) -> Result<Arc<ImageRecord>, Error> {
    let uuid = plan.record.uuid;
    let work = transfer(context, call, &plan, pieces, &begun);
    let outcome = match unless_cancelled(context, uuid, &begun, work).await {
        Ok(record) => publish(context, call, record, &begun).await,
        Err(Error::Stopping) => return Err(Error::Stopping),
        Err(error) => {
            give_up(context, call, uuid, &begun, &error).await;
            Err(error)
        }
    };
    end(&begun, outcome.clone());
    outcome
}

/// Tells everybody who waits how an import ended.
pub(super) fn end(begun: &Begun, outcome: Result<Arc<ImageRecord>, Error>) {
    begun.progress.send_modify(|progress| progress.outcome = Some(outcome));
}

pub(super) fn broken(uuid: Uuid, fault: &str, message: impl Into<String>) -> Error {
    Error::ImageBroken { uuid, fault: fault.to_owned(), message: message.into() }
}

fn of_fault(uuid: Uuid, fault: &Fault) -> Error {
    match fault.kind {
        FaultKind::NoRoom => Error::NoRoom { what: fault.to_string() },
        FaultKind::Host => Error::Internal { message: fault.to_string() },
        kind => {
            let name = json!(kind).as_str().unwrap_or_default().to_owned();
            broken(uuid, &name, fault.to_string())
        }
    }
}

/// Commits a complete image.
async fn publish(
    context: &VmContext,
    call: &Call,
    record: ImageRecord,
    begun: &Begun,
) -> Result<Arc<ImageRecord>, Error> {
    let record = Arc::new(record);
    let reply = ImageReply { image: Box::new((*record).clone()) };
    let waiting = record.call.clone().map(Call::from_waiting).unwrap_or_else(|| call.clone());
    let transition = Transition::new(context).answers(waiting.answer(&Ok(reply)));
    let show = || context.images.put(record.clone(), None);
    match transition.put_image(call, &record, ImageStep::Imported, show).await {
        Ok(()) => Ok(record),
        Err(error) => {
            give_up(context, call, record.uuid, begun, &error).await;
            Err(error)
        }
    }
}

/// Removes what an import left, and then its record.
pub(super) async fn give_up(context: &VmContext, call: &Call, uuid: Uuid, begun: &Begun, error: &Error) {
    if let Err(error) = begun.files.give_up(context.layout.image(uuid)).await {
        tracing::error!(image = %uuid, %error, "the remains of an import stay until the next start");
        return;
    }
    crash::point("image.given_up");
    let step = ImageStep::Failed { reason: error.to_string() };
    let gone = || context.images.remove(uuid);
    if let Err(error) = Transition::new(context).delete_image(call, uuid, step, gone).await {
        tracing::error!(image = %uuid, %error, "the record of a failed import stays until the next start");
    }
}

async fn transfer(
    context: &VmContext,
    call: &Call,
    plan: &Plan,
    mut pieces: Pieces,
    begun: &Begun,
) -> Result<ImageRecord, Error> {
    let uuid = plan.record.uuid;
    let mut turn = Turn::of(context, &pieces);
    // Nothing is begun for a client or a source that sends nothing.
    let mut first = Some(pieces.next().await?);
    turn.take().await?;
    let origin = plan.record.manifest.origin().map(|origin| context.images.hold(origin)).transpose()?;
    let conversion = Conversion {
        limit: context.settings.image_bytes,
        origin: origin.as_ref().map(guid_of).transpose()?,
        is_raw: plan.is_raw,
        in_archive: plan.in_archive,
    };
    let (layout, below) =
        (context.layout.image(uuid), origin.as_ref().map(|origin| context.layout.image(origin.record.uuid)));
    let draft = begun.files.with(uuid, move || storage::begin_image(&layout, below.as_ref())).await?;
    let disk = draft.disk.try_clone().map_err(Error::internal)?;
    let job = Job { conversion, output: draft.disk, scratch: draft.scratch };
    let converting = context.platform.converter.begin(job).await.map_err(|fault| of_fault(uuid, &fault))?;
    let Converting { input, mut outcome } = converting;

    let (sender, queue) = mpsc::channel(PIECES);
    let hashing = Hashing::of(&plan.digests);
    let feeding = tokio::task::spawn_blocking(move || feed(queue, input, hashing));
    let mut teller = Teller { context, call, uuid, told: Instant::now() };
    let mut converted = None;
    let (mut received, most) = (0, most_bytes(context));
    loop {
        let next = async {
            match first.take() {
                Some(piece) => Ok(piece),
                None => turn.next(&mut pieces).await,
            }
        };
        let piece = tokio::select! {
            biased;
            // Content that is refused at its beginning is not fetched to its end.
            done = &mut outcome, if converted.is_none() => {
                converted = Some(done.map_err(|fault| of_fault(uuid, &fault))?);
                continue;
            }
            piece = next => piece?,
        };
        let Some(piece) = piece else { break };
        let length = piece.len() as u64;
        received += length;
        if received > most {
            return Err(broken(uuid, "too-large", format!("the file has more than {most} bytes")));
        }
        if let Some(size) = plan.size.filter(|size| received > *size) {
            return Err(broken(
                uuid,
                "length",
                format!("the file has more than the {size} bytes that were announced"),
            ));
        }
        begun.progress.send_modify(|progress| progress.received = received);
        if received / ROOM_EVERY != (received - length) / ROOM_EVERY {
            storage::check_image_room(&context.layout.image(uuid))?;
        }
        teller.tell(received, plan.size).await;
        if sender.send(piece).await.is_err() {
            return Err(Error::internal("the converter's feeder ended"));
        }
    }
    drop(sender);
    if let Some(size) = plan.size.filter(|size| received < *size) {
        return Err(broken(uuid, "truncated", format!("the file ended after {received} of {size} bytes")));
    }
    let digests = feeding.await.map_err(Error::internal)?;
    let digest = digests.check(&plan.digests).map_err(|why| broken(uuid, "digest", why))?;
    crash::point("image.received");
    let converted = match converted {
        Some(converted) => converted,
        None => outcome.await.map_err(|fault| of_fault(uuid, &fault))?,
    };
    check_manifest(&plan.record, &converted)?;
    let record = complete(&plan.record, &converted, digest);
    let (layout, mebibytes) = (context.layout.image(uuid), record.mebibytes());
    begun.files.with(uuid, move || storage::finish_image(&layout, &disk, mebibytes)).await?;
    Ok(record)
}

/// Bytes of a file that can hold the largest disk, in any form.
fn most_bytes(context: &VmContext) -> u64 {
    context.settings.image_bytes.saturating_mul(2).saturating_add(1 << 30)
}

fn guid_of(origin: &HeldImage) -> Result<u64, Error> {
    origin.record.guid.ok_or_else(|| {
        let uuid = origin.record.uuid;
        broken(
            uuid,
            "needs-origin",
            format!("image {uuid} did not come as a ZFS stream: no difference can build on it"),
        )
    })
}

/// What a manifest says of its disk must be so.
fn check_manifest(record: &ImageRecord, converted: &Converted) -> Result<(), Error> {
    let (manifest, mebibytes) = (record.manifest.object(), converted.size.div_ceil(1 << 20));
    let told = manifest.get("image_size").and_then(serde_json::Value::as_u64);
    if let Some(told) = told.filter(|told| *told != mebibytes) {
        let why = format!("the disk has {mebibytes} MiB, and the manifest says {told} (image_size)");
        return Err(broken(record.uuid, "manifest", why));
    }
    let file = manifest.get("files").and_then(|files| files.get(0));
    let told =
        file.and_then(|file| file.get("dataset_guid")).and_then(|guid| guid.as_str()?.parse::<u64>().ok());
    match (told, converted.guid) {
        (Some(told), Some(found)) if told != found => {
            let why = format!("the stream's guid is {found}, and the manifest says {told} (dataset_guid)");
            Err(broken(record.uuid, "manifest", why))
        }
        _ => Ok(()),
    }
}

/// The record of an image whose content is known.
fn complete(record: &ImageRecord, converted: &Converted, digest: Digest) -> ImageRecord {
    let mut record = record.clone();
    let name = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let (format, container) = (name(json!(converted.format)), name(json!(converted.container)));
    record.format = if container == "none" { format } else { format!("{format}+{container}") };
    (record.state, record.digest) = (ImageState::Active, Some(digest));
    (record.size, record.guid) = (converted.size, converted.guid);
    // It may be signed, and nobody needs it any more.
    record.fetch = None;
    let mebibytes = record.mebibytes();
    record.manifest.set("image_size", json!(mebibytes));
    record.manifest.set("state", json!("active"));
    if record.manifest.text("published_at").is_none() {
        record.manifest.set("published_at", json!(record.created.iso()));
    }
    record
}

/// Hashes the pieces, and gives them to the converter as long as it takes any.
fn feed(mut queue: mpsc::Receiver<Bytes>, input: Box<dyn Write + Send>, mut hashing: Hashing) -> Hashing {
    let mut input = Some(input);
    while let Some(piece) = queue.blocking_recv() {
        // The converter works while this hashes.
        if input.as_mut().is_some_and(|input| input.write_all(&piece).is_err()) {
            // It has what it needs, or has given up and says why.
            input = None;
        }
        hashing.update(&piece);
    }
    hashing
}

/// The digests of a file: SHA-256 always, others where they are asked for.
struct Hashing {
    sha256: Sha256,
    sha512: Option<Sha512>,
    sha1: Option<Sha1>,
}

impl Hashing {
    fn of(wanted: &[Digest]) -> Self {
        let wants = |is_it: fn(&Digest) -> bool| wanted.iter().any(is_it);
        Self {
            sha256: Sha256::new(),
            sha512: wants(|digest| matches!(digest, Digest::Sha512(_))).then(Sha512::new),
            sha1: wants(|digest| matches!(digest, Digest::Sha1(_))).then(Sha1::new),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
        if let Some(sha1) = &mut self.sha1 {
            sha1.update(bytes);
        }
    }

    /// Compares with the wanted digests; returns the SHA-256.
    fn check(self, wanted: &[Digest]) -> Result<Digest, String> {
        let sha256 = Digest::Sha256(HEXLOWER.encode(&self.sha256.finalize()));
        let sha512 = self.sha512.map(|hash| Digest::Sha512(HEXLOWER.encode(&hash.finalize())));
        let sha1 = self.sha1.map(|hash| Digest::Sha1(HEXLOWER.encode(&hash.finalize())));
        for wanted in wanted {
            let found = match wanted {
                Digest::Sha256(_) => Some(&sha256),
                Digest::Sha512(_) => sha512.as_ref(),
                Digest::Sha1(_) => sha1.as_ref(),
            };
            if found != Some(wanted) {
                let found = found.map(ToString::to_string).unwrap_or_default();
                return Err(format!("the file's digest is {found}, and not {wanted}"));
            }
        }
        Ok(sha256)
    }
}

/// Journals the progress now and then.
struct Teller<'a> {
    context: &'a VmContext,
    call: &'a Call,
    uuid: Uuid,
    told: Instant,
}

impl Teller<'_> {
    async fn tell(&mut self, received: u64, total: Option<u64>) {
        if self.told.elapsed() < EVERY {
            return;
        }
        self.told = Instant::now();
        let step = ImageStep::Progress { received, total };
        let event = self.call.event(self.uuid, EventKind::Image { step, image: None });
        Transition::new(self.context).event(event).soon().await;
    }
}
