//! Uploads that were cut: what they have of the host, and how long they are kept.

use std::{collections::HashSet, time::Duration};

use uuid::Uuid;

use super::{Agent, call::Call, error::Error, files::blocking, transition::Transition};
use crate::{
    model::{EventKind, FileAction},
    storage::{self, Partial},
};

/// Between looks for uploads that nobody went on with.
const LOOK: Duration = Duration::from_secs(600);

/// What an earlier agent left of a VM's files: no more than came of each upload, and for root's eyes only.
pub(super) async fn settle(agent: &Agent, uuid: Uuid) {
    let layout = agent.inner.layout.vm(uuid);
    let settled = blocking(move || {
        storage::close_to_others(&layout)?;
        storage::shrink(&layout)
    });
    if let Err(error) = settled.await {
        tracing::warn!(vm = %uuid, %error, "its files");
    }
    agent.count_uploads(uuid).await;
}

/// Gives up, again and again, what nobody goes on with.
pub(super) async fn expire(agent: Agent) {
    loop {
        for uuid in agent.inner.registry.uuids() {
            agent.expire_uploads(uuid).await;
        }
        tokio::select! {
            () = agent.inner.stopping.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

impl Agent {
    /// Counts the uploads of a VM against the capacity of the host: what exists of them.
    pub(super) async fn count_uploads(&self, uuid: Uuid) {
        let layout = self.inner.layout.vm(uuid);
        if let Ok(cut) = blocking(move || storage::unfinished(&layout)).await {
            self.inner.claims.put_uploads(uuid, cut.iter().map(|partial| partial.committed).sum());
        }
    }

    /// Gives up the uploads to a path that were cut, by an operator's word.
    pub(super) async fn drop_uploads(&self, call: &Call, uuid: Uuid, path: &str) -> Result<bool, Error> {
        let (layout, path) = (self.inner.layout.vm(uuid), path.to_owned());
        let gone = blocking(move || storage::give_up(&layout, |partial| partial.plan.path == path)).await?;
        self.uploads_gone(call, uuid, &gone).await?;
        Ok(!gone.is_empty())
    }

    async fn expire_uploads(&self, uuid: Uuid) {
        let layout = self.inner.layout.vm(uuid);
        let keep = Duration::from_secs(3600).saturating_mul(self.inner.config.capacity.upload_hours);
        let is_old = move |partial: &Partial| partial.touched.elapsed().is_ok_and(|age| age > keep);
        let given_up = blocking(move || storage::give_up(&layout, is_old)).await;
        let told = match &given_up {
            Ok(gone) => self.uploads_gone(&Call::own(), uuid, gone).await,
            Err(_) => return,
        };
        if let Err(error) = told {
            tracing::warn!(vm = %uuid, %error, "uploads that nobody went on with");
        }
    }

    async fn uploads_gone(&self, call: &Call, uuid: Uuid, gone: &[Partial]) -> Result<(), Error> {
        if gone.is_empty() {
            return Ok(());
        }
        self.count_uploads(uuid).await;
        let mut told = HashSet::new();
        let events = gone.iter().filter(|partial| told.insert(&partial.plan.path)).map(|partial| {
            let (path, size) = (partial.plan.path.clone(), partial.committed);
            call.event(uuid, EventKind::File { path, action: FileAction::Discarded, size })
        });
        Transition::new(self).events(events).only().await
    }
}
