//! The listener: TLS, and HTTP/1.1 with explicit limits.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::page;
use crate::{
    agent::Agent,
    auth::{ScreenLinks, Tls},
};

/// Connections at once; a browser opens some for each page.
const CONNECTIONS: usize = 256;
/// Screens at once.
const SCREENS: usize = 128;
/// How long a TLS handshake, and the headers of a request, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of headers.
const MAX_HEADERS: usize = 16 << 10;

/// The browser console's resources.
#[derive(Clone, Debug)]
pub struct Browser {
    pub(super) agent: Agent,
    pub(super) links: Arc<ScreenLinks>,
    pub(super) tls: Arc<Tls>,
    /// Permits for open screens.
    pub(super) screens: Arc<Semaphore>,
}

impl Browser {
    /// Serves the agent's screens to holders of links, under the certificate of `tls`.
    #[must_use]
    pub fn new(agent: Agent, links: Arc<ScreenLinks>, tls: Arc<Tls>) -> Self {
        Self { agent, links, tls, screens: Arc::new(Semaphore::new(SCREENS)) }
    }
}

/// Serves until `stop`. Screens end with the agent.
pub async fn serve(browser: Browser, listener: TcpListener, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let routes = page::routes(browser.clone());
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { return };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: do not spin.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, routes, stop) = (browser.tls.clone(), routes.clone(), stop.clone());
        tokio::spawn(async move {
            let connection = converse(&tls, tcp, address, routes);
            let _ = stop.run_until_cancelled(connection).await;
            drop(place);
        });
    }
}

async fn converse(tls: &Tls, tcp: TcpStream, address: SocketAddr, routes: axum::Router) {
    let io = match timeout(PATIENCE, tls.open_handshake(tcp)).await {
        Ok(Ok(io)) => io,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "the TLS handshake failed"),
        Err(_) => return tracing::debug!(%address, "the TLS handshake took too long"),
    };
    let conversation = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(routes))
        .with_upgrades();
    if let Err(error) = conversation.await {
        tracing::debug!(%address, %error, "the connection failed");
    }
}
