//! The one commit of the agent: a VM's new record, the events that report it, and the answers to the calls
//! that caused it are one transaction. Then the record is published, and then `vm.json` is written, for
//! people.
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
    model::{EventKind, ImageRecord, ImageStep, NewEvent, VmRecord},
    store::{Answer, Commit, ImageChange, VmChange},
};

/// A change under construction.
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

    /// Commits events and answers without a record.
    pub(in crate::agent) async fn only(self) -> Result<(), Error> {
        self.commit(|| ()).await
    }

    /// Queues events that nothing depends on, without waiting.
    pub(in crate::agent) async fn soon(self) {
        self.context.store.commit_soon(self.commit).await;
    }

    /// Commits a new VM's record, and then calls `publish`.
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

    /// Commits the record that follows `old` (see [`VmRecord::next`]), with an event of the differences.
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

    /// Commits a note in a record that no reader sees: without an event or a new etag.
    pub(in crate::agent) async fn note(mut self, noted: &VmRecord) -> Result<(), Error> {
        self.commit.vm = Some(VmChange::Put(Box::new(noted.clone())));
        self.commit(|| ()).await
    }

    /// Commits an image's record with the step that it made, and then calls `publish`.
    pub(in crate::agent) async fn put_image(
        mut self,
        call: &Call,
        image: &ImageRecord,
        step: ImageStep,
        publish: impl FnOnce(),
    ) -> Result<(), Error> {
        self.commit.image = Some(ImageChange::Put(Box::new(image.clone())));
        // What only the fetch needs may be signed; events stay longer than that.
        let shown = ImageRecord { fetch: None, ..image.clone() };
        let event = call.event(image.uuid, EventKind::Image { step, image: Some(Box::new(shown)) });
        self.event(event).commit(publish).await
    }

    /// Deletes an image's record, with the reason, and then calls `publish`.
    pub(in crate::agent) async fn delete_image(
        mut self,
        call: &Call,
        image: Uuid,
        step: ImageStep,
        publish: impl FnOnce(),
    ) -> Result<(), Error> {
        self.commit.image = Some(ImageChange::Delete(image));
        self.event(call.event(image, EventKind::Image { step, image: None })).commit(publish).await
    }

    /// Deletes the record of a VM that is gone; then its claims and its UUID are free.
    pub(in crate::agent) async fn delete(mut self, call: &Call, vm: &VmRecord) -> Result<(), Error> {
        self.commit.vm = Some(VmChange::Delete(vm.uuid));
        let alias = vm.spec.alias.clone().unwrap_or_default();
        let (context, uuid): (&VmContext, Uuid) = (self.context, vm.uuid);
        let deleted = call.event(uuid, EventKind::Deleted { alias });
        self.event(deleted)
            .commit(|| {
                // Before the UUID is free, or the claims of a new VM under it would be released.
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
