//! Interrupted uploads: their share of the host, and how long they are kept.

use std::{collections::HashSet, time::Duration};

use uuid::Uuid;

use crate::{
    agent::{
        context::{VmContext, transition::Transition},
        error::Error,
        files::blocking,
        request::call::Call,
    },
    model::{EventKind, FileAction},
    storage::{self, Partial},
};

/// The interval between checks for abandoned uploads.
const EVERY: Duration = Duration::from_secs(600);

/// Settles a VM's files after an earlier agent: frees room beyond what arrived, and closes them to other
/// users.
pub(in crate::agent) async fn settle(context: &VmContext, uuid: Uuid) {
    let layout = context.layout_of(uuid);
    let settled = blocking(move || {
        storage::close_to_others(&layout)?;
        storage::shrink(&layout)
    });
    if let Err(error) = settled.await {
        tracing::warn!(vm = %uuid, %error, "the VM's files could not be settled");
    }
    count(context, uuid).await;
}

/// Discards abandoned uploads at regular intervals.
pub(in crate::agent) async fn expire(context: VmContext) {
    loop {
        for uuid in context.registry.uuids() {
            expire_uploads(&context, uuid).await;
        }
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Counts the bytes of a VM's unfinished uploads against the capacity of the host.
pub(in crate::agent) async fn count(context: &VmContext, uuid: Uuid) {
    let layout = context.layout_of(uuid);
    if let Ok(cut) = blocking(move || storage::unfinished(&layout)).await {
        context.claims.put_uploads(uuid, cut.iter().map(|partial| partial.committed).sum());
    }
}

/// Discards interrupted uploads to a path, at an operator's request.
pub(in crate::agent) async fn drop_cut(
    context: &VmContext,
    call: &Call,
    uuid: Uuid,
    path: &str,
) -> Result<bool, Error> {
    let (layout, path) = (context.layout_of(uuid), path.to_owned());
    let gone = blocking(move || storage::give_up(&layout, |partial| partial.plan.path == path)).await?;
    uploads_gone(context, call, uuid, &gone).await?;
    Ok(!gone.is_empty())
}

async fn expire_uploads(context: &VmContext, uuid: Uuid) {
    let layout = context.layout_of(uuid);
    let keep = context.settings.upload_keep;
    let is_old = move |partial: &Partial| partial.touched.elapsed().is_ok_and(|age| age > keep);
    let given_up = blocking(move || storage::give_up(&layout, is_old)).await;
    let told = match &given_up {
        Ok(gone) => uploads_gone(context, &Call::own(), uuid, gone).await,
        Err(_) => return,
    };
    if let Err(error) = told {
        tracing::warn!(vm = %uuid, %error, "cannot journal abandoned uploads");
    }
}

async fn uploads_gone(context: &VmContext, call: &Call, uuid: Uuid, gone: &[Partial]) -> Result<(), Error> {
    if gone.is_empty() {
        return Ok(());
    }
    count(context, uuid).await;
    let mut told = HashSet::new();
    let events = gone.iter().filter(|partial| told.insert(&partial.plan.path)).map(|partial| {
        let (path, size) = (partial.plan.path.clone(), partial.committed);
        call.event(uuid, EventKind::File { path, action: FileAction::Discarded, size })
    });
    Transition::new(context).events(events).only().await
}
