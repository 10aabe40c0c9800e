//! A caller's request, its events and its answer.

use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    agent::{
        error::Error,
        request::reply::{self, Reply},
    },
    model::{BootCall, BootPhase, EventKind, NewEvent, VmRecord, WaitingCall},
    store::Answer,
};

/// A caller's request.
#[derive(Clone, Debug)]
pub struct Call {
    /// The caller's verified identity.
    pub actor: String,
    /// The caller's id of the request.
    pub request_id: Option<Uuid>,
    /// SHA-256 of the content.
    pub digest: [u8; 32],
}

/// The channel for boot phases while the caller listens; `None` when nobody does.
pub(crate) type BootProgress = Option<mpsc::Sender<BootPhase>>;

impl Call {
    /// Creates a call without a request id.
    #[must_use]
    pub fn by(actor: impl Into<String>) -> Self {
        Self { actor: actor.into(), request_id: None, digest: [0; 32] }
    }

    /// Returns the call that booted a VM.
    pub(in crate::agent) fn of_boot(boot: &BootCall) -> Self {
        Self { request_id: boot.request_id, ..Self::by(&boot.actor) }
    }

    /// Restores a call to an earlier agent.
    pub(in crate::agent) fn from_waiting(call: WaitingCall) -> Self {
        Self { actor: call.actor, request_id: call.request_id, digest: call.digest }
    }

    /// A call by the agent.
    pub(in crate::agent) fn own() -> Self {
        Self::by("")
    }

    /// Converts the call for the agent that answers it, which may be another.
    pub(in crate::agent) fn waiting(&self, reboots: bool) -> WaitingCall {
        let Self { actor, request_id, digest } = self.clone();
        WaitingCall { actor, request_id, digest, reboots }
    }

    /// An event that this call caused.
    pub(in crate::agent) fn event(&self, uuid: Uuid, kind: EventKind) -> NewEvent {
        NewEvent { uuid, actor: self.actor.clone(), request_id: self.request_id, kind }
    }

    /// Creates the event of this call, about a VM, or the host if `None`.
    pub(in crate::agent) fn made(&self, vm: Option<Uuid>, rpc: &str, detail: String) -> NewEvent {
        let kind = EventKind::Call { rpc: rpc.to_owned(), detail, refused: false };
        self.event(vm.unwrap_or_default(), kind)
    }

    /// Its refusal as an event.
    pub(in crate::agent) fn refused(&self, rpc: &str) -> NewEvent {
        let kind = EventKind::Call { rpc: rpc.to_owned(), detail: String::new(), refused: true };
        self.event(Uuid::nil(), kind)
    }

    /// Returns the answer to keep for a repeat of the call; `None` without an id.
    pub(in crate::agent) fn answer<T: Reply>(&self, result: &Result<T, Error>) -> Option<Answer> {
        let request_id = self.request_id?;
        match reply::write(result.as_ref().map(T::store).map_err(Error::clone)) {
            Ok(body) => Some(Answer { request_id, digest: self.digest, body }),
            Err(error) => {
                tracing::error!(%error, "an answer could not be kept; a repeat would act again");
                None
            }
        }
    }
}

/// Fails when the etag is not the VM's current one; an empty etag matches any VM.
pub(in crate::agent) fn check_etag(vm: &VmRecord, etag: &str) -> Result<(), Error> {
    if etag.is_empty() || etag == vm.etag() {
        return Ok(());
    }
    Err(Error::EtagMismatch { uuid: vm.uuid, current: vm.etag() })
}
