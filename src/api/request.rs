//! What every request carries.

use std::borrow::Cow;

use prost::Message;
use sha2::{Digest as _, Sha256};
use tonic::{Request, Status};
use uuid::Uuid;

use super::status::status;
use crate::{
    agent::{Call, Error},
    auth::Peer,
    spec::machine_json::parse_uuid,
};

/// The caller, the request id and the content of a request.
pub(super) fn call<M: Message>(request: &Request<M>, method: &str, request_id: &str) -> Result<Call, Status> {
    call_of(actor(request)?, method, request_id, &request.get_ref().encode_to_vec())
}

/// As [`call`], for a request whose content is known otherwise.
pub(super) fn call_of(
    actor: String,
    method: &str,
    request_id_text: &str,
    content: &[u8],
) -> Result<Call, Status> {
    let request_id = match request_id_text {
        "" => None,
        text => Some(Uuid::try_parse(text).ok().filter(|id| !id.is_nil()).ok_or_else(|| {
            status(Error::Invalid(vec![crate::spec::Violation::value(
                "request_id",
                format!("{text:?} is not a UUID"),
            )]))
        })?),
    };
    let content = with_plain_id(content, request_id_text, request_id);
    let digest = Sha256::new().chain_update(method).chain_update([0]).chain_update(content).finalize().into();
    Ok(Call { actor, request_id, digest })
}

/// The content as if the id had been written in its one form: a repeat in capitals is the same request.
fn with_plain_id<'c>(content: &'c [u8], text: &str, id: Option<Uuid>) -> Cow<'c, [u8]> {
    let Some(plain) = id.map(|id| id.to_string()).filter(|plain| plain != text) else {
        return Cow::Borrowed(content);
    };
    // A field of text: its length in one byte, and itself.
    let field = |text: &str| {
        let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
        [&[length], text.as_bytes()].concat()
    };
    let (given, wanted) = (field(text), field(&plain));
    match content.windows(given.len()).position(|part| part == given) {
        Some(at) => [&content[..at], &wanted, &content[at + given.len()..]].concat().into(),
        None => Cow::Borrowed(content),
    }
}

/// The caller's verified name. The gate lets nobody without one through.
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

/// Rows of a page: at most 1000, which is also what 0 means.
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
