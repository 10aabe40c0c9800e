//! The TCP endpoint at which VNC viewers meet a guest's screen.
//!
//! The agent listens in the host's network; the hypervisor never has a network socket. For each
//! viewer it makes a pair of UNIX sockets, hands one end to the hypervisor, and carries bytes
//! between the other end and the viewer.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
};

use tokio::{
    net::{TcpListener, TcpStream, UnixStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// Viewers of one guest at once.
const VIEWERS: usize = 16;

/// A listening endpoint; dropping it ends it with all its viewers.
#[derive(Debug)]
pub struct VncEndpoint {
    address: SocketAddr,
    task: AbortOnDropHandle<()>,
}

impl VncEndpoint {
    /// Listens on `port`, or on any port when it is 0 (then `preferred` is tried first). Each
    /// viewer's other end goes to `hand_over`.
    pub async fn listen<H, F>(ip: IpAddr, port: u16, preferred: Option<u16>, hand_over: H) -> io::Result<Self>
    where
        H: Fn(OwnedFd) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let listener = match (port, preferred) {
            (0, Some(preferred)) => match TcpListener::bind((ip, preferred)).await {
                Ok(listener) => listener,
                Err(_) => TcpListener::bind((ip, 0)).await?,
            },
            _ => TcpListener::bind((ip, port)).await?,
        };
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept_all(listener, Arc::new(hand_over)));
        Ok(Self { address, task: AbortOnDropHandle::new(task) })
    }

    /// Ends it; its port is free again when this returns.
    pub async fn close(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept_all<H, F>(listener: TcpListener, hand_over: Arc<H>)
where
    H: Fn(OwnedFd) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(VIEWERS));
    // Ends with this task, and every viewer with it.
    let mut viewers = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = viewers.join_next() => continue,
        };
        let (viewer, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "VNC accept failed");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!(%peer, "VNC viewer refused: {VIEWERS} are connected");
            continue;
        };
        let hand_over = hand_over.clone();
        viewers.spawn(async move {
            if let Err(error) = serve(viewer, &*hand_over).await {
                tracing::info!(%peer, %error, "VNC viewer");
            }
            drop(place);
        });
    }
}

async fn serve<H, F>(mut viewer: TcpStream, hand_over: &H) -> io::Result<()>
where
    H: Fn(OwnedFd) -> F,
    F: Future<Output = Result<(), String>>,
{
    viewer.set_nodelay(true)?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    hand_over(theirs.into()).await.map_err(io::Error::other)?;
    let mut ours = UnixStream::from_std(ours)?;
    tokio::io::copy_bidirectional(&mut viewer, &mut ours).await?;
    Ok(())
}
