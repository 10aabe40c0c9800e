//! The role check in front of every rpc.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::{Layer, Service};

use super::{connection::Peer, role::needed_for_path};

/// Domain of the agent's error reasons.
pub(crate) const ERROR_DOMAIN: &str = "zoneward";

/// Puts the role check before a service.
#[derive(Clone, Copy, Debug, Default)]
pub struct GateLayer;

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { inner }
    }
}

/// Lets through what the caller's role allows.
#[derive(Clone, Debug)]
pub struct Gate<S> {
    inner: S,
}

fn check(peer: Option<&Peer>, path: &str) -> Result<(), Status> {
    let Some(peer) = peer else {
        return Err(Status::unauthenticated("the connection has no verified identity"));
    };
    // What does not exist is answered so by the router.
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
        ErrorDetails::with_error_info("ROLE_REQUIRED", ERROR_DOMAIN, metadata),
    ))
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
        match check(request.extensions().get::<Peer>(), request.uri().path()) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(status) => Box::pin(async move { Ok(status.into_http()) }),
        }
    }
}
