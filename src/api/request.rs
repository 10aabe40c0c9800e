//! Common fields of requests.

use prost::Message;
use sha2::{Digest as _, Sha256};
use tonic::{Request, Status};
use uuid::Uuid;

use super::status::status;
use crate::{
    agent::{Call, Error},
    auth::Peer,
    proto::v1,
    spec::forms::parse_uuid,
};

/// A request that changes something, and may have an id so that it is done once.
pub(super) trait Change: Message + Clone {
    /// The id; `None` for a kind of request that has none.
    fn request_id(&mut self) -> Option<&mut String>;
}

macro_rules! with_request_id {
    ($($message:ident),* $(,)?) => {$(
        impl Change for v1::$message {
            fn request_id(&mut self) -> Option<&mut String> {
                Some(&mut self.request_id)
            }
        }
    )*};
}

macro_rules! without_request_id {
    ($($message:ident),*) => {$(
        impl Change for v1::$message {
            fn request_id(&mut self) -> Option<&mut String> {
                None
            }
        }
    )*};
}

with_request_id!(
    ChangeMediaRequest,
    CreateVmRequest,
    DeleteFileRequest,
    DeleteImageRequest,
    DeleteVmRequest,
    FetchImageRequest,
    ImportImageHeader,
    KillVmRequest,
    PauseVmRequest,
    PutFileHeader,
    RebootVmRequest,
    ReclaimLeaksRequest,
    ResumeVmRequest,
    SendSysrqRequest,
    StartVmRequest,
    StopVmRequest,
    UpdateVmRequest,
);
without_request_id!(DrainHostRequest, ExportImageRequest, TakeScreenshotRequest);

/// The caller, the request id and the content of a request.
pub(super) fn call<M: Change>(request: &Request<M>, method: &str) -> Result<Call, Status> {
    call_of(actor(request)?, method, request.get_ref().clone())
}

/// As [`call`], from the parts of a request.
pub(super) fn call_of(actor: String, method: &str, mut content: impl Change) -> Result<Call, Status> {
    let mut request_id = None;
    if let Some(text) = content.request_id().filter(|text| !text.is_empty()) {
        let id = Uuid::try_parse(text).ok().filter(|id| !id.is_nil());
        let id = id.ok_or_else(|| invalid("request_id", format!("{text:?} is not a UUID")))?;
        // In canonical form: a repeat in capitals is the same request.
        *text = id.to_string();
        request_id = Some(id);
        tracing::Span::current().record("request_id", tracing::field::display(id));
    }
    let content = content.encode_to_vec();
    let digest = Sha256::new().chain_update(method).chain_update([0]).chain_update(content).finalize().into();
    Ok(Call { actor, request_id, digest })
}

/// Returns the caller's verified name. The gate admits nobody without one.
pub(super) fn actor<T>(request: &Request<T>) -> Result<String, Status> {
    peer(request).map(|peer| peer.name.to_string())
}

/// The caller.
pub(super) fn peer<T>(request: &Request<T>) -> Result<&Peer, Status> {
    let peer = request.extensions().get::<Peer>();
    peer.ok_or_else(|| Status::unauthenticated("the connection has no verified identity"))
}

/// The VM that a request names.
pub(super) fn uuid(text: &str) -> Result<Uuid, Status> {
    uuid_at("uuid", text)
}

pub(super) fn uuid_at(field: &str, text: &str) -> Result<Uuid, Status> {
    parse_uuid(text).map_err(|why| invalid(field, why))
}

/// One field is wrong.
pub(super) fn invalid(field: &str, why: impl Into<String>) -> Status {
    status(Error::invalid(field, why))
}

/// Returns the rows of a page: at most 1000, which is also the default.
pub(super) fn page_size(size: i32) -> Result<usize, Status> {
    match usize::try_from(size) {
        Ok(0) => Ok(1000),
        Ok(size) => Ok(size.min(1000)),
        Err(_) => Err(invalid("page_size", format!("{size} is negative"))),
    }
}

/// A byte offset or size.
pub(super) fn bytes(field: &str, value: i64) -> Result<u64, Status> {
    u64::try_from(value).map_err(|_| invalid(field, format!("{value} is negative")))
}
