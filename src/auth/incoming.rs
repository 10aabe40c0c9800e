//! Connections of all listeners as one stream for the server.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{
    connection::Connection,
    peer::Peer,
    places::{Complaints, Places},
    role::Role,
    screen_links::ScreenLinks,
    tls::Tls,
};

/// How long a client may take to send the first byte of its handshake, and for all of it.
const HELLO: Duration = Duration::from_secs(5);
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The agent's listeners.
#[derive(Debug)]
pub struct Listeners {
    /// For the local operator.
    pub unix: Option<UnixListener>,
    /// For everybody else.
    pub tcp: Option<(TcpListener, Arc<Tls>)>,
    /// The links of the browser console, if there is one.
    pub links: Option<Arc<ScreenLinks>>,
}

/// Accepts until `stop`, and cuts UNIX connections at `cut`.
#[must_use]
pub(crate) fn incoming(
    listeners: Listeners,
    stop: &CancellationToken,
    cut: &CancellationToken,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(16);
    let places = Places::default();
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
    places: Places,
    stop: CancellationToken,
    cut: CancellationToken,
) {
    loop {
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { return };
        match accepted.and_then(|(stream, _)| Ok((local_peer(&stream)?, stream))) {
            Ok((Some(peer), stream)) => {
                let Some(place) = places.enter_unix() else { continue };
                let cut = cut.child_token();
                peer.activity.insist(cut.clone());
                if sender.send(Ok(Connection::unix(stream, peer, cut, place))).await.is_err() {
                    return;
                }
            }
            Ok((None, _)) => tracing::warn!("refused a local user who is neither root nor the agent's"),
            Err(error) => pause(&error).await,
        }
    }
}

/// Admits root and the agent's own user. The socket's mode does the same; this holds where it was changed.
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
    places: Places,
    stop: CancellationToken,
) {
    let refused = Arc::new(Mutex::new(Complaints::default()));
    loop {
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { return };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        let (way, out) = places.come(address.ip());
        let (tls, sender, places) = (tls.clone(), sender.clone(), places.clone());
        let refused = refused.clone();
        // One slow client does not hold up the others.
        tokio::spawn(async move {
            let shaken = out.run_until_cancelled(timeout(HANDSHAKE, handshake(tls, tcp, &places))).await;
            drop(way);
            match shaken {
                Some(Ok(Ok(connection))) => {
                    let _ = sender.send(Ok(connection)).await;
                }
                // There may be many of these: port scans cause some, and a lack of free places causes more.
                Some(Ok(Err(error))) => complain(&refused, address, &error.to_string()),
                Some(Err(_)) => complain(&refused, address, "the TLS handshake took too long"),
                None => tracing::debug!(%address, "displaced by newer connections"),
            }
        });
    }
}

fn complain(complaints: &Mutex<Complaints>, address: SocketAddr, why: &str) {
    tracing::debug!(%address, why, "refused");
    complaints.lock().unwrap_or_else(PoisonError::into_inner).tell(&format!("{address}: {why}"));
}

async fn handshake(tls: Arc<Tls>, tcp: TcpStream, places: &Places) -> io::Result<Connection> {
    let silent = || io::Error::new(io::ErrorKind::TimedOut, "it sent nothing");
    timeout(HELLO, tcp.readable()).await.map_err(|_| silent())??;
    tls.handshake(tcp, places).await
}

/// Out of descriptors, most likely: do not spin.
async fn pause(error: &io::Error) {
    tracing::warn!(%error, "accept failed");
    tokio::time::sleep(Duration::from_millis(100)).await;
}
