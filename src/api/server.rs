//! The serving loop, with explicit limits.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::transport::Server;

use super::{
    console_service::Consoles, event_service::Events, host_service::Host, image_service::ImagesApi,
    sight::Expressions, status::status, vms::Vms,
};
use crate::{
    agent::Error,
    agent::{Agent, Refusals},
    auth::{GateLayer, Listeners, MAX_CALLS, Tls, incoming},
    proto::{
        DOCUMENTED,
        v1::{
            console_service_server::ConsoleServiceServer, event_service_server::EventServiceServer,
            host_service_server::HostServiceServer, image_service_server::ImageServiceServer,
            vm_service_server::VmServiceServer,
        },
    },
};

/// Largest message in either direction: above a machine JSON of 1 MiB and a chunk of 1 MiB.
const MAX_MESSAGE: usize = 4 << 20;
/// Refused calls that wait for the journal.
const REFUSED: usize = 64;
/// Calls under way on one connection that the transport admits: more than the gate admits.
const MAX_STREAMS: u32 = 4096;
const _: () = assert!(MAX_STREAMS as usize > MAX_CALLS);
/// Bytes of headers.
const MAX_HEADERS: u32 = 16 << 10;
/// Flow-control windows of a stream and of a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Streams that a client may reset before it is disconnected.
const MAX_RESETS: usize = 256;
/// Dead peers are noticed after both.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval between checks for expired client certificates.
const SWEEP: Duration = Duration::from_secs(30);

/// Why serving ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors can't be served.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("serving: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves until `stop`, then lets calls finish for as long as is configured.
pub async fn serve(agent: Agent, listeners: Listeners, stop: CancellationToken) -> Result<(), ServeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<VmServiceServer<Vms>>().await;
    health.set_serving::<EventServiceServer<Events>>().await;
    health.set_serving::<ConsoleServiceServer<Consoles>>().await;
    health.set_serving::<HostServiceServer<Host>>().await;
    health.set_serving::<ImageServiceServer<ImagesApi>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DOCUMENTED)
            // Details of errors, which clients print by them.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };

    let expressions = Expressions::default();
    let links = listeners.links.clone();
    let tls = listeners.tcp.as_ref().map(|(_, tls)| tls.clone());
    let cut = CancellationToken::new();
    let connections = incoming(listeners, &stop, &cut);
    let _watch = AbortOnDropHandle::new(tokio::spawn(watch_certificates(agent.clone(), tls.clone())));
    let drain = Duration::from_secs(agent.config().drain_seconds);
    let _drain =
        AbortOnDropHandle::new(tokio::spawn(drain_after(agent.clone(), stop.clone(), drain, tls, cut)));

    let (refused, told) = mpsc::channel(REFUSED);
    let _refused = AbortOnDropHandle::new(tokio::spawn(journal_refused(agent.clone(), told)));

    macro_rules! limited {
        ($server:ident, $service:expr) => {
            $server::new($service)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE)
        };
    }
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_max_pending_accept_reset_streams(Some(MAX_RESETS))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(PanicToStatus))
        .layer(GateLayer::new(refused))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(limited!(VmServiceServer, Vms::new(agent.clone(), expressions.clone())))
        .add_service(limited!(ImageServiceServer, ImagesApi::new(agent.clone())))
        .add_service(limited!(EventServiceServer, Events::new(agent.clone(), expressions)))
        .add_service(limited!(ConsoleServiceServer, Consoles::new(agent.clone(), links)))
        .add_service(limited!(HostServiceServer, Host::new(agent)))
        .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
        .await?;
    Ok(())
}

/// Journals refused calls.
async fn journal_refused(agent: Agent, mut refused: mpsc::Receiver<(String, String)>) {
    let mut refusals = Refusals::default();
    while let Some((caller, rpc)) = refused.recv().await {
        refusals.tell(&agent, caller, rpc).await;
    }
}

/// Ends streams at once when the agent stops, and cuts the rest when the drain is over: tonic alone would
/// wait for the last console forever.
async fn drain_after(
    agent: Agent,
    stop: CancellationToken,
    drain: Duration,
    tls: Option<Arc<Tls>>,
    cut: CancellationToken,
) {
    stop.cancelled().await;
    let stopped = tokio::time::timeout(drain, agent.stop()).await;
    if stopped.is_err() {
        tracing::warn!("work was still under way at the end of the drain; the next start finishes it");
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    cut.cancel();
    if let Some(tls) = tls {
        tls.cut_all();
    }
}

/// Loads changed certificates, and cuts clients whose certificate is no longer accepted.
async fn watch_certificates(agent: Agent, tls: Option<Arc<Tls>>) {
    let Some(tls) = tls else { return };
    let seconds = agent.config().tls.reload_seconds;
    let period = if seconds == 0 { SWEEP } else { SWEEP.min(Duration::from_secs(seconds)) };
    let mut tick = tokio::time::interval(period);
    loop {
        tick.tick().await;
        if seconds > 0 {
            match tls.reload_if_changed() {
                Ok(Some(cut)) => tracing::info!(cut, "certificates reloaded"),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "certificates not reloaded; the old ones stay in use"),
            }
        }
        match tls.sweep() {
            0 => {}
            cut => tracing::info!(cut, "connections cut: their certificates are no longer accepted"),
        }
    }
}

/// Turns a panic in one call into that call's error.
#[derive(Clone, Copy)]
struct PanicToStatus;

impl tower_http::catch_panic::ResponseForPanic for PanicToStatus {
    type ResponseBody = tonic::body::Body;

    fn response_for_panic(
        &mut self,
        panic: Box<dyn std::any::Any + Send>,
    ) -> http::Response<tonic::body::Body> {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        tracing::error!(panic = text, "a call panicked");
        status(Error::internal("the agent has a bug; see its log")).into_http()
    }
}
