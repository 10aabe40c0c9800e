//! The role check in front of every rpc.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::{peer::Peer, role::needed_for_path};

use crate::model::{ERROR_DOMAIN, Reason};

/// Calls under way on one connection. The transport admits more, so that a caller over it gets an error.
pub(crate) const MAX_CALLS: usize = 1024;

/// A call that was refused for its caller's role: the caller and the rpc.
pub(crate) type Refused = (String, String);

/// Puts the role check before a service.
#[derive(Clone, Debug)]
pub(crate) struct GateLayer {
    refused: mpsc::Sender<Refused>,
}

impl GateLayer {
    /// Reports refused calls to `refused`, as far as there is room.
    #[must_use]
    pub(crate) fn new(refused: mpsc::Sender<Refused>) -> Self {
        Self { refused }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { inner, refused: self.refused.clone() }
    }
}

/// Admits the calls that the caller's role allows.
#[derive(Clone, Debug)]
pub(crate) struct Gate<S> {
    inner: S,
    refused: mpsc::Sender<Refused>,
}

fn check(peer: Option<&Peer>, path: &str) -> Result<(), Status> {
    let Some(peer) = peer else {
        return Err(with_reason(
            Reason::Unauthenticated,
            Code::Unauthenticated,
            "the connection has no verified identity",
        ));
    };
    // The router answers calls of unknown rpcs.
    let Some(needed) = needed_for_path(path) else { return Ok(()) };
    if peer.role >= needed {
        return Ok(());
    }
    let metadata = [
        ("method".to_owned(), path.to_owned()),
        ("role_required".to_owned(), needed.to_string()),
        ("role".to_owned(), peer.role.to_string()),
        ("caller".to_owned(), peer.name.to_string()),
    ];
    Err(Status::with_error_details(
        Code::PermissionDenied,
        format!("{path} needs role {needed}; {} has role {}", peer.name, peer.role),
        ErrorDetails::with_error_info(Reason::RoleRequired.as_str(), ERROR_DOMAIN, metadata),
    ))
}

fn with_reason(reason: Reason, code: Code, message: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason.as_str(), ERROR_DOMAIN, HashMap::new());
    Status::with_error_details(code, message, details)
}

/// Adds a reason to a refusal of the transport, as all others have one.
fn explained(answer: http::Response<Body>) -> http::Response<Body> {
    let refused = Status::from_header_map(answer.headers()).filter(|status| status.details().is_empty());
    let Some(status) = refused else { return answer };
    let (reason, code) = match status.code() {
        Code::Unimplemented => (Reason::UnknownRpc, Code::Unimplemented),
        code @ (Code::OutOfRange | Code::ResourceExhausted) => (Reason::MessageTooLarge, code),
        Code::Internal if status.message().contains("decode") => (Reason::MalformedRequest, Code::Internal),
        Code::Internal | Code::Unknown => (Reason::Internal, Code::Internal),
        Code::Unauthenticated => (Reason::Unauthenticated, Code::Unauthenticated),
        _ => return answer,
    };
    let mut explained = with_reason(reason, code, status.message()).into_http();
    // Such as the accepted compressions.
    for (name, value) in answer.headers() {
        explained.headers_mut().entry(name).or_insert_with(|| value.clone());
    }
    explained
}

/// Refuses a call over the limit of its connection.
fn too_many() -> Status {
    let mut details = ErrorDetails::with_error_info(
        Reason::TooManyCalls.as_str(),
        ERROR_DOMAIN,
        [("limit".to_owned(), MAX_CALLS.to_string())],
    );
    details.set_retry_info(Some(Duration::from_secs(1)));
    let message = format!("{MAX_CALLS} calls are under way on this connection; end some, or open another");
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

impl<S> Service<http::Request<Body>> for Gate<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        let admitted = match check(peer, request.uri().path()) {
            Ok(()) => peer.and_then(|peer| peer.activity.begin_call(MAX_CALLS)).ok_or_else(too_many),
            Err(status) => {
                if let Some(peer) = peer {
                    let rpc = request.uri().path().rsplit('/').next().unwrap_or_default();
                    let _ = self.refused.try_send((peer.name.to_string(), rpc.to_owned()));
                }
                Err(status)
            }
        };
        match admitted {
            Ok(call) => {
                // Every log line about this call names its caller; the request id is added when the request
                // is read.
                let span = tracing::info_span!(
                    "call",
                    method = request.uri().path().rsplit('/').next().unwrap_or_default(),
                    actor = request.extensions().get::<Peer>().map(|peer| &*peer.name),
                    request_id = tracing::field::Empty,
                );
                let answer = span.in_scope(|| self.inner.call(request));
                let answered = async move {
                    let answer = explained(answer.await?);
                    // The call is under way until its answer ends or is dropped.
                    let counted = move |frame| {
                        let _under_way = &call;
                        frame
                    };
                    Ok(answer.map(|body| Body::new(body.map_frame(counted))))
                };
                Box::pin(answered.instrument(span))
            }
            Err(status) => Box::pin(async move { Ok(status.into_http()) }),
        }
    }
}
