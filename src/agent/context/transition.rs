//! The one commit of the agent: what becomes of a VM, the events that report it, and the answers to the calls that asked
//! for it are one transaction. Then it is published, and then `vm.json` is written, for people.
//!
//! ```text
//!   record ─┐
//!   events ─┼─▶ commit ─▶ publish ─▶ vm.json
//!   answers ┘     │          └ under the lock that readers of "now" wait for
//!                 └ fails: nothing of it happened, and nobody saw it
//! ```

use uuid::Uuid;

use crate::{
    agent::{context::VmContext, error::Error, request::call::Call, view::diff::changes},
    model::{EventKind, NewEvent, VmRecord},
    store::{Answer, Commit, VmChange},
};

/// A change that is put together.
#[must_use]
#[derive(Debug)]
pub(in crate::agent) struct Transition<'a> {
    context: &'a VmContext,
    commit: Commit,
}

impl<'a> Transition<'a> {
    pub(in crate::agent) fn new(context: &'a VmContext) -> Self {
        Self { context, commit: Commit::default() }
    }

    pub(in crate::agent) fn event(mut self, event: NewEvent) -> Self {
        self.commit.events.push(event);
        self
    }

    pub(in crate::agent) fn events(mut self, events: impl IntoIterator<Item = NewEvent>) -> Self {
        self.commit.events.extend(events);
        self
    }

    pub(in crate::agent) fn answers(mut self, answers: impl IntoIterator<Item = Answer>) -> Self {
        self.commit.answers.extend(answers);
        self
    }

    /// Facts and answers that change no record.
    pub(in crate::agent) async fn only(self) -> Result<(), Error> {
        self.commit(|| ()).await
    }

    /// Facts that nothing depends on, behind what is queued already.
    pub(in crate::agent) async fn soon(self) {
        self.context.store.commit_soon(self.commit).await;
    }

    /// A record that nobody has seen yet. `publish` shows it.
    pub(in crate::agent) async fn insert(
        mut self,
        call: &Call,
        first: &VmRecord,
        publish: impl FnOnce(),
    ) -> Result<(), Error> {
        self.commit.vm = Some(VmChange::Put(Box::new(first.clone())));
        let created = call.event(first.uuid, EventKind::Created { vm: Box::new(first.clone()) });
        self.event(created).commit(publish).await
    }

    /// The record that follows `old` (see [`VmRecord::next`]), with the event that says what is different.
    pub(in crate::agent) async fn put(
        mut self,
        call: &Call,
        old: &VmRecord,
        next: &VmRecord,
        publish: impl FnOnce(),
    ) -> Result<(), Error> {
        self.commit.vm = Some(VmChange::Put(Box::new(next.clone())));
        let changes = changes(old, next);
        let modified = call.event(next.uuid, EventKind::Modified { vm: Box::new(next.clone()), changes });
        let context = self.context;
        self.event(modified).commit(publish).await?;
        context.write_vm_json(next).await;
        Ok(())
    }

    /// What is noted in a record and no reader sees: no event of it, and no other etag.
    pub(in crate::agent) async fn note(mut self, noted: &VmRecord) -> Result<(), Error> {
        self.commit.vm = Some(VmChange::Put(Box::new(noted.clone())));
        self.commit(|| ()).await
    }

    /// The end of a VM, of which nothing is left: then its claims and its place are free.
    pub(in crate::agent) async fn delete(mut self, call: &Call, vm: &VmRecord) -> Result<(), Error> {
        self.commit.vm = Some(VmChange::Delete(vm.uuid));
        let alias = vm.spec.alias.clone().unwrap_or_default();
        let (context, uuid): (&VmContext, Uuid) = (self.context, vm.uuid);
        let deleted = call.event(uuid, EventKind::Deleted { alias });
        self.event(deleted)
            .commit(|| {
                // Before its UUID is free: what another of that name claims is its own.
                context.claims.release(uuid);
                context.registry.remove(uuid);
            })
            .await
    }

    async fn commit(self, publish: impl FnOnce()) -> Result<(), Error> {
        let _showing = self.context.showing.read().await;
        self.context.store.commit(self.commit).await?;
        publish();
        Ok(())
    }
}
