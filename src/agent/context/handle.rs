//! A handle on one VM: its current record, and the queue of its actor.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    agent::{
        context::command::{Command, Inspection, ReplyTo},
        error::Error,
        view::View,
    },
    console::Console,
    model::{Site, VmRecord},
};

/// Most commands queued for one VM.
const QUEUE: usize = 32;

/// A handle on a VM's actor.
#[derive(Clone, Debug)]
pub(in crate::agent) struct VmHandle {
    uuid: Uuid,
    site: Site,
    commands: mpsc::Sender<Command>,
    record: watch::Receiver<Arc<VmRecord>>,
    console: Console,
    stopping: CancellationToken,
    view: Arc<Mutex<Option<Arc<View>>>>,
}

impl VmHandle {
    /// Also returns the queue that the actor reads.
    pub(in crate::agent) fn new(
        uuid: Uuid,
        site: Site,
        record: watch::Receiver<Arc<VmRecord>>,
        console: Console,
        stopping: CancellationToken,
    ) -> (Self, mpsc::Receiver<Command>) {
        let (commands, queue) = mpsc::channel(QUEUE);
        (Self { uuid, site, commands, record, console, stopping, view: Arc::default() }, queue)
    }

    pub(in crate::agent) fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// As it was last committed.
    pub(in crate::agent) fn record(&self) -> Arc<VmRecord> {
        self.record.borrow().clone()
    }

    /// Returns the cached view; building one takes some time.
    pub(in crate::agent) fn view(&self) -> Arc<View> {
        let record = self.record();
        let mut kept = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.as_ref().filter(|view| view.record.generation == record.generation) {
            Some(view) => view.clone(),
            None => kept.insert(Arc::new(View::new(record, &self.site))).clone(),
        }
    }

    pub(in crate::agent) fn console(&self) -> &Console {
        &self.console
    }

    /// Queues a command and waits for its reply.
    pub(in crate::agent) async fn ask<T>(
        &self,
        command: impl FnOnce(ReplyTo<T>) -> Command,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply))?;
        answer.await.map_err(|_| self.unanswered())?
    }

    /// Returns why the actor did not reply to a command: it exits with the agent, or with its VM.
    pub(in crate::agent) fn unanswered(&self) -> Error {
        match self.stopping.is_cancelled() {
            true => Error::Stopping,
            false => Error::VmNotFound { uuid: self.uuid },
        }
    }

    /// Requests the running machine from the actor, to do `what`, like "get info for".
    pub(in crate::agent) async fn inspect(&self, what: &'static str) -> Result<Inspection, Error> {
        self.ask(|reply| Command::Inspect { what, reply }).await
    }

    /// Queues a command; fails when the queue is full or the VM is gone.
    pub(in crate::agent) fn send(&self, command: Command) -> Result<(), Error> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::QueueFull { uuid: self.uuid },
            mpsc::error::TrySendError::Closed(_) => Error::VmNotFound { uuid: self.uuid },
        })
    }
}
