//! Files in a zone's root.

pub(super) mod journal;
mod uploader;
pub(super) mod uploads;

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::{
    agent::{
        Agent,
        context::VmContext,
        error::Error,
        request::{
            call::{Call, check_etag},
            reply::FileReply,
        },
    },
    model::FileAction,
    spec::{VmState, validate::zone_path},
    storage::{self, Entry, Partial, StorageError, Upload, UploadPlan, ZoneRoot},
};

pub(crate) use uploader::Uploader;
use uploader::{CHUNKS, receive};

/// The entries of a folder, and unfinished uploads.
#[derive(Clone, Debug)]
pub struct FileList {
    /// By name.
    pub entries: Vec<Entry>,
    /// Interrupted uploads, of the whole zone.
    pub uploads: Vec<Partial>,
}

fn checked_path(field: &str, path: &str) -> Result<(), Error> {
    zone_path(path).map_err(|why| Error::invalid(field, why))
}

impl Agent {
    /// Begins or continues an upload.
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
        let context = self.context.clone();
        let layout = self.context.layout_of(uuid);
        self.context.tasks.spawn(async move {
            let work = {
                let context = context.clone();
                move |call: Call| async move {
                    if let Some(outcome) = journal::settle(&context, uuid, &call).await? {
                        return Ok(outcome);
                    }
                    check_root(&context, uuid, &etag)?;
                    context.claims.begin_upload(uuid, plan.size.saturating_sub(offset))?;
                    let owner = journal::owner(&call);
                    let placed = async move {
                        let upload =
                            blocking(move || Upload::begin(&layout, plan, offset, overwrite)).await?;
                        let upload = receive(upload, queue).await?;
                        blocking(move || upload.finish(owner)).await
                    };
                    let placed = placed.await;
                    uploads::count(&context, uuid).await;
                    let (entry, note) = placed?;
                    journal::changed(&context, &call, uuid, &entry, FileAction::Put, note).await
                }
            };
            let _ = sender.send(context.once(call, work).await);
        });
        Ok(Uploader { pieces, outcome })
    }

    /// Lists a folder of the zone's root.
    pub async fn list_files(&self, uuid: Uuid, path: String) -> Result<FileList, Error> {
        checked_path("path", &path)?;
        check_root(&self.context, uuid, "")?;
        let layout = self.context.layout_of(uuid);
        let list = move || -> Result<FileList, Error> {
            let entries = ZoneRoot::open(&layout.root())?.list(&path)?;
            Ok(FileList { entries, uploads: storage::unfinished(&layout)? })
        };
        tokio::task::spawn_blocking(list).await.map_err(Error::internal)?
    }

    /// Removes a file or an empty folder, and its interrupted uploads.
    pub async fn delete_file(&self, call: Call, uuid: Uuid, etag: String, path: String) -> Result<(), Error> {
        checked_path("path", &path)?;
        if path == "/" {
            return Err(Error::invalid("path", "\"/\" is the zone's root; it goes with the VM"));
        }
        self.vm(uuid)?;
        let layout = self.context.layout_of(uuid);
        let context = self.context.clone();
        let work = move |call: Call| async move {
            if let Some(outcome) = journal::settle(&context, uuid, &call).await? {
                return Ok(outcome);
            }
            check_root(&context, uuid, &etag)?;
            let owner = journal::owner(&call);
            let dropped = uploads::drop_cut(&context, &call, uuid, &path).await?;
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
            journal::changed(&context, &call, uuid, &entry, FileAction::Deleted, note).await
        };
        self.context.once(call, work).await.map(drop)
    }
}

/// Fails unless the VM has files and the caller's etag matches.
fn check_root(context: &VmContext, uuid: Uuid, etag: &str) -> Result<(), Error> {
    let vm = context.vm(uuid)?;
    check_etag(&vm, etag)?;
    match vm.state {
        VmState::Provisioning | VmState::Deleting => {
            let message = format!("a VM that is {} has no files", vm.state);
            Err(Error::WrongState { uuid, state: vm.state, message })
        }
        _ => Ok(()),
    }
}

/// Runs blocking disk work off the runtime's threads.
pub(in crate::agent) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, Error> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(Error::internal)??)
}
