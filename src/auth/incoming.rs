//! Connections of all listeners as one stream for the server.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Connection, Peer},
    links::Links,
    role::Role,
    tls::Tls,
};

/// Connections at once; more wait in the listeners' backlogs.
const CONNECTIONS: usize = 1024;
/// TLS handshakes under way at once.
const HANDSHAKES: usize = 64;
/// How long one may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What the agent listens on.
#[derive(Debug)]
pub struct Listeners {
    /// For the local operator.
    pub unix: Option<UnixListener>,
    /// For everybody else.
    pub tcp: Option<(TcpListener, Arc<Tls>)>,
    /// Where there is a browser console: whom it lets in.
    pub links: Option<Arc<Links>>,
}

/// Accepts until `stop`, and cuts UNIX connections at `cut`.
#[must_use]
pub fn incoming(
    listeners: Listeners,
    stop: &CancellationToken,
    cut: &CancellationToken,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(16);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    if let Some(listener) = listeners.unix {
        tokio::spawn(accept_unix(listener, sender.clone(), places.clone(), stop.clone(), cut.clone()));
    }
    if let Some((listener, tls)) = listeners.tcp {
        tokio::spawn(accept_tcp(listener, tls, sender, places, stop.clone()));
    }
    ReceiverStream::new(receiver)
}

type Sender = mpsc::Sender<io::Result<Connection>>;

async fn accept_unix(
    listener: UnixListener,
    sender: Sender,
    places: Arc<Semaphore>,
    stop: CancellationToken,
    cut: CancellationToken,
) {
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { return };
        match accepted.and_then(|(stream, _)| Ok((local_peer(&stream)?, stream))) {
            Ok((Some(peer), stream)) => {
                if sender.send(Ok(Connection::unix(stream, peer, cut.clone(), place))).await.is_err() {
                    return;
                }
            }
            Ok((None, _)) => tracing::warn!("a local user who is neither root nor the agent's was refused"),
            Err(error) => pause(&error).await,
        }
    }
}

/// Root, or whoever runs the agent. The socket's mode says the same; this holds where it was changed.
fn local_peer(stream: &UnixStream) -> io::Result<Option<Peer>> {
    let uid = stream.peer_cred()?.uid();
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Ok(None);
    }
    Ok(Some(Peer::new(format!("unix:uid={uid}").into(), Role::Admin)))
}

async fn accept_tcp(
    listener: TcpListener,
    tls: Arc<Tls>,
    sender: Sender,
    places: Arc<Semaphore>,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { return };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        let (tls, sender) = (tls.clone(), sender.clone());
        // One slow client does not hold up the others.
        tokio::spawn(async move {
            let shaken = timeout(HANDSHAKE, tls.handshake(tcp, place)).await;
            drop(slot);
            match shaken {
                Ok(Ok(connection)) => {
                    let _ = sender.send(Ok(connection)).await;
                }
                Ok(Err(error)) => tracing::info!(%address, %error, "refused"),
                Err(_) => tracing::info!(%address, "refused: the TLS handshake took too long"),
            }
        });
    }
}

/// Out of descriptors, most likely: do not spin.
async fn pause(error: &io::Error) {
    tracing::warn!(%error, "accept failed");
    tokio::time::sleep(Duration::from_millis(100)).await;
}
