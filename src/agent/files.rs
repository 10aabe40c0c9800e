//! Files in a zone's root.

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{
    Agent,
    call::{Call, FileOutcome, Outcome},
    error::Error,
};
use crate::{
    spec::{VmState, validate::zone_path},
    storage::{Entry, Partial, StorageError, Upload, UploadPlan, ZoneRoot},
    store::{Commit, EventKind, FileAction},
};

/// Chunks that wait for the disk.
const CHUNKS: usize = 4;

/// What is in a folder, and what is on its way.
#[derive(Clone, Debug)]
pub struct FileList {
    /// By name.
    pub entries: Vec<Entry>,
    /// Uploads that were cut, of the whole zone.
    pub uploads: Vec<Partial>,
}

#[derive(Debug)]
enum Piece {
    Chunk(Bytes),
    /// The client said that this was all. A queue that just ends was cut.
    End,
}

/// An upload on its way to the disk.
#[derive(Debug)]
pub struct Uploader {
    pieces: mpsc::Sender<Piece>,
    outcome: oneshot::Receiver<Result<Outcome, Error>>,
}

impl Uploader {
    /// Takes the next chunk; `false` when the upload failed already and [`Self::finish`] says why.
    pub async fn chunk(&self, chunk: Bytes) -> bool {
        self.pieces.send(Piece::Chunk(chunk)).await.is_ok()
    }

    /// The client said that this was all.
    pub async fn finish(self) -> Result<Outcome, Error> {
        let _ = self.pieces.send(Piece::End).await;
        drop(self.pieces);
        self.outcome.await.map_err(|_| Error::Stopping)?
    }

    /// The client is gone; what came is kept.
    pub async fn cut(self) {
        drop(self.pieces);
        let _ = self.outcome.await;
    }
}

fn checked_path(field: &str, path: &str) -> Result<(), Error> {
    zone_path(path).map_err(|why| Error::invalid(field, why))
}

impl Agent {
    /// Begins an upload, or goes on with one.
    pub fn put_file(
        &self,
        call: Call,
        uuid: Uuid,
        plan: UploadPlan,
        offset: u64,
        overwrite: bool,
    ) -> Result<Uploader, Error> {
        checked_path("header.path", &plan.path)?;
        if plan.path == "/" {
            return Err(Error::invalid("header.path", "\"/\" is the zone's root; give the file a name"));
        }
        if plan.sha256.len() != 64
            || !plan.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Err(Error::invalid("header.sha256", "64 lower-case hexadecimal digits are needed"));
        }
        self.has_root(uuid)?;
        let (pieces, queue) = mpsc::channel(CHUNKS);
        let (sender, outcome) = oneshot::channel();
        let agent = self.clone();
        let layout = self.layout().vm(uuid);
        self.inner.tasks.spawn(async move {
            let work = {
                let agent = agent.clone();
                move |call: Call| async move {
                    let upload = blocking(move || Upload::begin(&layout, plan, offset, overwrite)).await?;
                    let upload = receive(upload, queue).await?;
                    let entry = blocking(move || upload.finish()).await?;
                    agent.file_changed(&call, uuid, &entry, FileAction::Put).await
                }
            };
            let _ = sender.send(agent.once(call, work).await);
        });
        Ok(Uploader { pieces, outcome })
    }

    /// What is in a folder of the zone's root.
    pub async fn list_files(&self, uuid: Uuid, path: String) -> Result<FileList, Error> {
        checked_path("path", &path)?;
        self.has_root(uuid)?;
        let layout = self.layout().vm(uuid);
        let list = move || -> Result<FileList, Error> {
            let entries = ZoneRoot::open(&layout.root())?.list(&path)?;
            Ok(FileList { entries, uploads: Upload::unfinished(&layout)? })
        };
        tokio::task::spawn_blocking(list).await.map_err(Error::internal)?
    }

    /// Removes a file or an empty folder.
    pub async fn delete_file(&self, call: Call, uuid: Uuid, path: String) -> Result<(), Error> {
        checked_path("path", &path)?;
        if path == "/" {
            return Err(Error::invalid("path", "\"/\" is the zone's root; it goes with the VM"));
        }
        self.has_root(uuid)?;
        let layout = self.layout().vm(uuid);
        let agent = self.clone();
        let work = move |call: Call| async move {
            let remove = move || ZoneRoot::open(&layout.root())?.remove(&path);
            let entry = tokio::task::spawn_blocking(remove).await.map_err(Error::internal)??;
            agent.file_changed(&call, uuid, &entry, FileAction::Deleted).await
        };
        self.once(call, work).await.map(drop)
    }

    fn has_root(&self, uuid: Uuid) -> Result<(), Error> {
        let state = self.vm(uuid)?.state;
        match state {
            VmState::Provisioning | VmState::Deleting => {
                let message = format!("a VM that is {state} has no files");
                Err(Error::WrongState { uuid, state, message })
            }
            _ => Ok(()),
        }
    }

    async fn file_changed(
        &self,
        call: &Call,
        uuid: Uuid,
        entry: &Entry,
        action: FileAction,
    ) -> Result<Outcome, Error> {
        let outcome = Outcome::File(FileOutcome::from(entry));
        let kind = EventKind::File { path: entry.path.clone(), action, size: entry.size };
        let commit = Commit {
            vm: None,
            events: vec![call.event(uuid, kind)],
            answers: call.answer(&Ok(outcome.clone())).into_iter().collect(),
        };
        self.inner.store.commit(commit).await?;
        Ok(outcome)
    }
}

/// Writes chunks until the client says that this was all. Between them no thread waits: a client that
/// sends nothing costs nothing.
async fn receive(mut upload: Upload, mut queue: mpsc::Receiver<Piece>) -> Result<Upload, Error> {
    loop {
        match queue.recv().await {
            Some(Piece::Chunk(chunk)) => {
                upload = blocking(move || upload.write(&chunk).map(|()| upload)).await?;
            }
            Some(Piece::End) => return Ok(upload),
            None => {
                return Err(Error::UploadBroken {
                    path: String::new(),
                    message: "the upload was cut; what came is kept, and ListFiles tells how much".to_owned(),
                });
            }
        }
    }
}

/// Runs what waits for a disk off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, Error> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(Error::internal)??)
}
