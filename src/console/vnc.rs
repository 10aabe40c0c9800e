//! The TCP endpoint at which VNC viewers meet a guest's screen.
//!
//! The agent listens in the host's network; the hypervisor never has a network socket. For each viewer it
//! creates a pair of UNIX sockets, passes one end to the hypervisor, and copies bytes between the other end
//! and the viewer. A viewer that sends too little to see anything, or whose host is gone, loses its place:
//! places are few. When all are taken, the oldest that has sent too little is dropped at once.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream, UnixStream},
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
};
use tokio_util::{io::InspectReader, task::AbortOnDropHandle};

use crate::sys::pair_in_passing;

/// Viewers of one guest at once.
const VIEWERS: usize = 16;
/// Bytes that a viewer sends at least to see the screen: RFB's version (12), whether it shares (1), and the
/// request for an update (10).
const LEAST: usize = 23;
/// Bytes of the reply to a password challenge.
const PASSWORD: usize = 16;
/// How long a dropped viewer may take to leave.
const GIVES_WAY: Duration = Duration::from_secs(1);
/// Time limit for that; a person may have to enter a password.
const PATIENCE: Duration = Duration::from_secs(60);
/// Keepalive: probes of a viewer's host after silence, at this interval, this often.
const ASK_AFTER: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_secs(10);
const ASK_TIMES: u32 = 3;
/// How long it may accept no byte.
const TAKE_WITHIN: Duration = Duration::from_secs(120);

/// A listening endpoint; dropping it ends it with all its viewers.
#[derive(Debug)]
pub(crate) struct VncEndpoint {
    address: SocketAddr,
    task: AbortOnDropHandle<()>,
}

impl VncEndpoint {
    /// Listens on `port`, or on any port when it is 0 (then `preferred` is tried first). `hand_over` receives
    /// each viewer's other end; `asks` is whether it asks for a password.
    pub(crate) async fn listen<H, F>(
        ip: IpAddr,
        port: u16,
        preferred: Option<u16>,
        asks: bool,
        hand_over: H,
    ) -> io::Result<Self>
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
        let least = if asks { LEAST + PASSWORD } else { LEAST };
        let task = tokio::spawn(accept_all(listener, least, Arc::new(hand_over)));
        Ok(Self { address, task: AbortOnDropHandle::new(task) })
    }

    /// Closes it; the port is free again when this returns.
    pub(crate) async fn close(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Where it listens.
    #[must_use]
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept_all<H, F>(listener: TcpListener, least: usize, hand_over: Arc<H>)
where
    H: Fn(OwnedFd) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(VIEWERS));
    // Ends with this task, and every viewer with it.
    let mut viewers = JoinSet::new();
    // Oldest first: bytes sent by each, and its abort handle.
    let mut seated: Vec<(Arc<AtomicUsize>, AbortHandle)> = Vec::new();
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
        seated.retain(|(_, task)| !task.is_finished());
        let mut place = places.clone().try_acquire_owned().ok();
        if place.is_none()
            && let Some(silent) = seated.iter().position(|(said, _)| said.load(Ordering::Relaxed) < least)
        {
            // Its place is free once its task has ended.
            seated.remove(silent).1.abort();
            let free = tokio::time::timeout(GIVES_WAY, places.clone().acquire_owned()).await;
            place = free.ok().and_then(Result::ok);
        }
        let Some(place) = place else {
            tracing::warn!(%peer, "VNC viewer refused: {VIEWERS} are connected");
            continue;
        };
        let (hand_over, said) = (hand_over.clone(), Arc::new(AtomicUsize::new(0)));
        let heard = said.clone();
        let task = viewers.spawn(async move {
            if let Err(error) = serve(viewer, least, &heard, &*hand_over).await {
                tracing::info!(%peer, %error, "VNC ended");
            }
            drop(place);
        });
        seated.push((said, task));
    }
}

async fn serve<H, F>(viewer: TcpStream, least: usize, said: &AtomicUsize, hand_over: &H) -> io::Result<()>
where
    H: Fn(OwnedFd) -> F,
    F: Future<Output = Result<(), String>>,
{
    viewer.set_nodelay(true)?;
    notice_its_end(&viewer)?;
    let (ours, theirs) = pair_in_passing()?;
    ours.set_nonblocking(true)?;
    hand_over(theirs.into()).await.map_err(io::Error::other)?;
    let mut ours = UnixStream::from_std(ours)?;
    let mut viewer = InspectReader::new(viewer, |bytes| {
        said.fetch_add(bytes.len(), Ordering::Relaxed);
    });
    tokio::select! {
        carried = tokio::io::copy_bidirectional(&mut viewer, &mut ours) => carried.map(drop),
        () = silence(said, least) => Err(io::Error::new(io::ErrorKind::TimedOut, "no screen was requested")),
    }
}

/// Detects a viewer whose host lost power, which the network does not report.
fn notice_its_end(viewer: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(viewer, true)?;
    sockopt::set_tcp_keepidle(viewer, ASK_AFTER)?;
    sockopt::set_tcp_keepintvl(viewer, ASK_EVERY)?;
    sockopt::set_tcp_keepcnt(viewer, ASK_TIMES)?;
    let millis = u32::try_from(TAKE_WITHIN.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(viewer, millis)?)
}

/// Returns when a viewer has sent too little for too long.
async fn silence(said: &AtomicUsize, least: usize) {
    tokio::time::sleep(PATIENCE).await;
    if said.load(Ordering::Relaxed) >= least {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// An endpoint whose hypervisor says back what it hears.
    async fn echo() -> VncEndpoint {
        let hand_over = |socket: OwnedFd| async move {
            let socket = std::os::unix::net::UnixStream::from(socket);
            std::thread::spawn(move || io::copy(&mut &socket, &mut &socket));
            Ok(())
        };
        VncEndpoint::listen([127, 0, 0, 1].into(), 0, None, false, hand_over).await.unwrap()
    }

    async fn viewer_that_says(endpoint: &VncEndpoint, count: usize) -> TcpStream {
        let mut viewer = TcpStream::connect(endpoint.address()).await.unwrap();
        let mut back = vec![0; count];
        viewer.write_all(&vec![7; count]).await.unwrap();
        viewer.read_exact(&mut back).await.unwrap();
        viewer
    }

    #[tokio::test]
    async fn a_viewer_that_sees_nothing_loses_its_place_and_one_that_looks_stays() {
        let endpoint = echo().await;
        let mut looks = viewer_that_says(&endpoint, LEAST).await;
        let mut silent = viewer_that_says(&endpoint, LEAST - 1).await;
        tokio::time::pause();
        tokio::time::advance(PATIENCE).await;
        tokio::time::resume();
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
        looks.write_all(b"!").await.unwrap();
        assert_eq!(looks.read_u8().await.unwrap(), b'!');
    }

    #[tokio::test]
    async fn silent_ones_shut_nobody_out() {
        let endpoint = echo().await;
        let looks = viewer_that_says(&endpoint, LEAST).await;
        let mut silent = Vec::new();
        for _ in 1..VIEWERS {
            silent.push(viewer_that_says(&endpoint, 1).await);
        }
        viewer_that_says(&endpoint, LEAST).await;
        assert_eq!(silent.remove(0).read(&mut [0]).await.unwrap(), 0, "the oldest gave way");
        let mut looks = looks;
        looks.write_all(b"!").await.unwrap();
        assert_eq!(looks.read_u8().await.unwrap(), b'!');
        silent[0].write_all(b"!").await.unwrap();
        assert_eq!(silent[0].read_u8().await.unwrap(), b'!', "and no other");
    }

    #[tokio::test]
    async fn there_are_so_many_places() {
        let endpoint = echo().await;
        let mut viewers = Vec::new();
        for _ in 0..VIEWERS {
            viewers.push(viewer_that_says(&endpoint, LEAST).await);
        }
        let mut refused = TcpStream::connect(endpoint.address()).await.unwrap();
        assert_eq!(refused.read(&mut [0]).await.unwrap(), 0);
        drop(viewers.pop());
        // Its place is free when the endpoint has seen that it left.
        let mut viewer = loop {
            let mut viewer = TcpStream::connect(endpoint.address()).await.unwrap();
            viewer.write_all(b"?").await.unwrap();
            if viewer.read_u8().await.is_ok() {
                break viewer;
            }
        };
        viewer.write_all(b"!").await.unwrap();
        assert_eq!(viewer.read_u8().await.unwrap(), b'!');
    }
}
