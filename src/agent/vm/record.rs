//! The record of the actor's VM: changed and committed in one place.

use std::{sync::Arc, time::Duration};

use crate::{
    agent::{
        context::transition::Transition,
        error::Error,
        request::{
            call::Call,
            reply::{Reply, VmReply},
        },
        vm::Actor,
    },
    model::{NewEvent, VmRecord},
    store::Answer,
};

impl Actor {
    /// Returns the record after `edit`, uncommitted.
    pub(super) fn changed(&self, edit: impl FnOnce(&mut VmRecord)) -> VmRecord {
        self.record.next(edit)
    }

    /// Commits `vm` as the record, with its event. On an error nothing changes.
    pub(super) async fn commit(
        &mut self,
        call: &Call,
        vm: VmRecord,
        events: Vec<NewEvent>,
        answers: impl IntoIterator<Item = Answer>,
    ) -> Result<(), Error> {
        let transition = Transition::new(&self.context).events(events).answers(answers);
        let publish = || drop(self.published.send_replace(Arc::new(vm.clone())));
        transition.put(call, &self.record, &vm, publish).await?;
        self.record = vm;
        Ok(())
    }

    /// Commits a note for the next agent that no reader sees: no event, no new etag.
    pub(super) async fn note(&mut self, edit: impl FnOnce(&mut VmRecord)) -> Result<(), Error> {
        self.note_with(edit, Vec::new(), Vec::new()).await
    }

    async fn note_with(
        &mut self,
        edit: impl FnOnce(&mut VmRecord),
        events: Vec<NewEvent>,
        answers: Vec<Answer>,
    ) -> Result<(), Error> {
        let mut noted = self.record.clone();
        edit(&mut noted);
        Transition::new(&self.context).events(events).answers(answers).note(&noted).await?;
        self.record = noted;
        Ok(())
    }

    /// Keeps the answer to a call that changed nothing: a late repeat must not act.
    pub(super) async fn keep_answer<T: Reply>(&self, call: &Call, outcome: T) -> Result<T, Error> {
        if let Some(answer) = call.answer(&Ok(outcome.clone())) {
            Transition::new(&self.context).answers([answer]).only().await?;
        }
        Ok(outcome)
    }

    /// Runs an act that changes nothing visible, but must not run twice or without its caller's name: the
    /// call is journaled, its answer kept and `edit` noted first, so that a repeat after a crash, or on a
    /// full disk, does not act.
    pub(super) async fn once<E: Into<Error>>(
        &mut self,
        call: &Call,
        (rpc, detail): (&str, String),
        edit: impl FnOnce(&mut VmRecord),
        act: impl Future<Output = Result<(), E>>,
    ) -> Result<VmReply, Error> {
        let outcome = self.reply(false);
        let told = vec![call.made(Some(self.record.uuid), rpc, detail)];
        let answers = call.answer(&Ok(outcome.clone())).into_iter().collect();
        self.note_with(edit, told, answers).await?;
        let Err(error) = act.await.map_err(Into::into) else { return Ok(outcome) };
        if let Some(answer) = call.answer::<VmReply>(&Err(Error::clone(&error))) {
            let _ = Transition::new(&self.context).answers([answer]).only().await;
        }
        Err(error)
    }

    /// Commits a fact, and retries until that succeeds. Returns false when the agent stops first: then the
    /// next agent has to find the same fact.
    pub(super) async fn commit_surely(
        &mut self,
        call: &Call,
        vm: VmRecord,
        answers: impl IntoIterator<Item = Answer>,
    ) -> bool {
        let answers: Vec<_> = answers.into_iter().collect();
        while let Err(error) = self.commit(call, vm.clone(), Vec::new(), answers.clone()).await {
            tracing::error!(%error, state = %vm.state, "a fact could not be committed yet");
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = self.context.stopping.cancelled() => return false,
            }
        }
        true
    }
}
