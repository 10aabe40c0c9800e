//! Files in a zone's root.

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{
    Agent,
    call::{Call, check_etag},
    error::Error,
    reply::FileReply,
    transition::Transition,
};
use crate::{
    model::{EventKind, FileAction},
    spec::{VmState, validate::zone_path},
    storage::{self, Act, Entry, Note, Partial, StorageError, Upload, UploadPlan, ZoneRoot},
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
    outcome: oneshot::Receiver<Result<FileReply, Error>>,
}

impl Uploader {
    /// Takes the next chunk; `false` when the upload failed already and [`Self::finish`] says why.
    pub async fn chunk(&self, chunk: Bytes) -> bool {
        self.pieces.send(Piece::Chunk(chunk)).await.is_ok()
    }

    /// The client said that this was all.
    pub async fn finish(self) -> Result<FileReply, Error> {
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
        etag: String,
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
        self.vm(uuid)?;
        let (pieces, queue) = mpsc::channel(CHUNKS);
        let (sender, outcome) = oneshot::channel();
        let agent = self.clone();
        let layout = self.layout().vm(uuid);
        self.inner.tasks.spawn(async move {
            let work = {
                let agent = agent.clone();
                move |call: Call| async move {
                    if let Some(outcome) = agent.settle_files(uuid, &call).await? {
                        return Ok(outcome);
                    }
                    agent.check_root(uuid, &etag)?;
                    agent.inner.claims.begin_upload(uuid, plan.size.saturating_sub(offset))?;
                    let owner = owner(&call);
                    let placed = async move {
                        let upload =
                            blocking(move || Upload::begin(&layout, plan, offset, overwrite)).await?;
                        let upload = receive(upload, queue).await?;
                        blocking(move || upload.finish(owner)).await
                    };
                    let placed = placed.await;
                    agent.count_uploads(uuid).await;
                    let (entry, note) = placed?;
                    agent.file_changed(&call, uuid, &entry, FileAction::Put, note).await
                }
            };
            let _ = sender.send(agent.once(call, work).await);
        });
        Ok(Uploader { pieces, outcome })
    }

    /// What is in a folder of the zone's root.
    pub async fn list_files(&self, uuid: Uuid, path: String) -> Result<FileList, Error> {
        checked_path("path", &path)?;
        self.check_root(uuid, "")?;
        let layout = self.layout().vm(uuid);
        let list = move || -> Result<FileList, Error> {
            let entries = ZoneRoot::open(&layout.root())?.list(&path)?;
            Ok(FileList { entries, uploads: storage::unfinished(&layout)? })
        };
        tokio::task::spawn_blocking(list).await.map_err(Error::internal)?
    }

    /// Removes a file or an empty folder, and what was uploaded of it and cut.
    pub async fn delete_file(&self, call: Call, uuid: Uuid, etag: String, path: String) -> Result<(), Error> {
        checked_path("path", &path)?;
        if path == "/" {
            return Err(Error::invalid("path", "\"/\" is the zone's root; it goes with the VM"));
        }
        self.vm(uuid)?;
        let layout = self.layout().vm(uuid);
        let agent = self.clone();
        let work = move |call: Call| async move {
            if let Some(outcome) = agent.settle_files(uuid, &call).await? {
                return Ok(outcome);
            }
            agent.check_root(uuid, &etag)?;
            let owner = owner(&call);
            let dropped = agent.drop_uploads(&call, uuid, &path).await?;
            let removed = {
                let path = path.clone();
                blocking(move || storage::remove_file(&layout, &path, owner)).await
            };
            let (entry, note) = match removed {
                Err(Error::FileNotFound { .. }) if dropped => {
                    return Ok(FileReply { path, size: 0, modified: 0 });
                }
                removed => removed?,
            };
            agent.file_changed(&call, uuid, &entry, FileAction::Deleted, note).await
        };
        self.once(call, work).await.map(drop)
    }

    /// Fails unless the VM has files, and is as the caller knows it.
    fn check_root(&self, uuid: Uuid, etag: &str) -> Result<(), Error> {
        let vm = self.vm(uuid)?;
        check_etag(&vm, etag)?;
        match vm.state {
            VmState::Provisioning | VmState::Deleting => {
                let message = format!("a VM that is {} has no files", vm.state);
                Err(Error::WrongState { uuid, state: vm.state, message })
            }
            _ => Ok(()),
        }
    }

    /// Journals a change that was made. Where that can't be done its note stays, and it is tried again before the
    /// next change, and by the next agent.
    async fn file_changed(
        &self,
        call: &Call,
        uuid: Uuid,
        entry: &Entry,
        action: FileAction,
        note: Option<Note>,
    ) -> Result<FileReply, Error> {
        let outcome = FileReply::from(entry);
        let kind = EventKind::File { path: entry.path.clone(), action, size: entry.size };
        // Under the note's name as well, so that whoever finds the note knows that it is journaled.
        let by_note = Call { request_id: note.as_ref().map(Note::id), ..Call::own() };
        let answers = [call, &by_note].into_iter().filter_map(|call| call.answer(&Ok(outcome.clone())));
        Transition::new(self).event(call.event(uuid, kind)).answers(answers).only().await?;
        if let Some(note) = note {
            tokio::task::spawn_blocking(move || note.remove()).await.map_err(Error::internal)?;
        }
        Ok(outcome)
    }

    /// Journals what was done to a VM's files and was not: the agent ended in between, or the disk was full. Gives
    /// what came of `call`, should that be one of them.
    pub(super) async fn settle_files(&self, uuid: Uuid, call: &Call) -> Result<Option<FileReply>, Error> {
        let layout = self.layout().vm(uuid);
        let mut answer = None;
        for (deed, note) in blocking(move || storage::noted(&layout)).await? {
            if self.inner.requests.knows(note.id()).await? {
                tokio::task::spawn_blocking(move || note.remove()).await.map_err(Error::internal)?;
                continue;
            }
            let owner =
                serde_json::from_value(deed.owner).map(Call::from_waiting).unwrap_or_else(|_| Call::own());
            let action = match deed.act {
                Act::Put { .. } => FileAction::Put,
                Act::Remove => FileAction::Deleted,
            };
            let outcome = self.file_changed(&owner, uuid, &deed.entry, action, Some(note)).await?;
            match call.request_id.filter(|id| owner.request_id == Some(*id)) {
                Some(_) if owner.digest == call.digest => answer = Some(outcome),
                Some(request_id) => return Err(Error::RequestIdReused { request_id }),
                None => {}
            }
        }
        Ok(answer)
    }
}

/// A call, for the agent that has to journal what it did.
fn owner(call: &Call) -> serde_json::Value {
    serde_json::to_value(call.waiting(false)).unwrap_or_default()
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
                    message: "the upload was cut; what came is kept, and a repeat goes on behind it"
                        .to_owned(),
                });
            }
        }
    }
}

/// Runs what waits for a disk off the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, Error> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(Error::internal)??)
}
