//! A caller's request, and what comes of it.

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

/// Who asks for a change.
#[derive(Clone, Debug)]
pub struct Call {
    /// The caller's verified identity.
    pub actor: String,
    /// The caller's id of the request.
    pub request_id: Option<Uuid>,
    /// Of the request's content.
    pub digest: [u8; 32],
}

/// Where boot phases go while the caller listens; `None` when nobody does.
pub(crate) type BootProgress = Option<mpsc::Sender<BootPhase>>;

impl Call {
    /// One of which no repeat is known.
    #[must_use]
    pub fn by(actor: impl Into<String>) -> Self {
        Self { actor: actor.into(), request_id: None, digest: [0; 32] }
    }

    /// The one by which a VM was booted.
    pub(in crate::agent) fn of_boot(boot: &BootCall) -> Self {
        Self { request_id: boot.request_id, ..Self::by(&boot.actor) }
    }

    /// One that an earlier agent was asked.
    pub(in crate::agent) fn from_waiting(call: WaitingCall) -> Self {
        Self { actor: call.actor, request_id: call.request_id, digest: call.digest }
    }

    /// The agent's own doing.
    pub(in crate::agent) fn own() -> Self {
        Self::by("")
    }

    /// For the agent that has to answer it, should that be another one.
    pub(in crate::agent) fn waiting(&self, reboots: bool) -> WaitingCall {
        let Self { actor, request_id, digest } = self.clone();
        WaitingCall { actor, request_id, digest, reboots }
    }

    /// A fact that this call caused.
    pub(in crate::agent) fn event(&self, uuid: Uuid, kind: EventKind) -> NewEvent {
        NewEvent { uuid, actor: self.actor.clone(), request_id: self.request_id, kind }
    }

    /// That it was made, of a VM; of the host when none is named.
    pub(in crate::agent) fn made(&self, vm: Option<Uuid>, rpc: &str, detail: String) -> NewEvent {
        let kind = EventKind::Call { rpc: rpc.to_owned(), detail, refused: false };
        self.event(vm.unwrap_or_default(), kind)
    }

    /// That it was refused.
    pub(in crate::agent) fn refused(&self, rpc: &str) -> NewEvent {
        let kind = EventKind::Call { rpc: rpc.to_owned(), detail: String::new(), refused: true };
        self.event(Uuid::nil(), kind)
    }

    /// What to keep for a repeat of the call; nothing when it has no id.
    pub(in crate::agent) fn answer<T: Reply>(&self, result: &Result<T, Error>) -> Option<Answer> {
        let request_id = self.request_id?;
        match reply::write(result.as_ref().map(T::store).map_err(Error::clone)) {
            Ok(body) => Some(Answer { request_id, digest: self.digest, body }),
            Err(error) => {
                tracing::error!(%error, "an answer can't be kept; a repeat would act again");
                None
            }
        }
    }
}

/// Fails when the VM is not as the caller knows it; one who gives no etag takes it as it is.
pub(in crate::agent) fn check_etag(vm: &VmRecord, etag: &str) -> Result<(), Error> {
    if etag.is_empty() || etag == vm.etag() {
        return Ok(());
    }
    Err(Error::EtagMismatch { uuid: vm.uuid, current: vm.etag() })
}
