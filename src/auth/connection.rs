//! An accepted connection and who is at its other end.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::{places::Place, role::Role};

/// A client's certificates, leaf first.
pub(crate) type Chain = Arc<[CertificateDer<'static>]>;

/// Who calls. Each request carries it in its extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// As the journal names the caller: a SPIFFE ID, or `unix:uid=0`.
    pub name: Arc<str>,
    /// What the caller may do.
    pub role: Role,
    /// What it showed; none on the UNIX socket.
    pub(crate) chain: Option<Chain>,
    /// What goes on on its connection.
    pub(super) activity: Activity,
}

/// What goes on on a connection. Not a part of who is at its other end.
#[derive(Clone, Debug, Default)]
pub(super) struct Activity(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    heard: AtomicBool,
    asked: AtomicBool,
    calls: AtomicUsize,
}

impl PartialEq for Activity {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Activity {}

/// A call that is under way, until this is dropped.
#[derive(Debug)]
pub(super) struct UnderWay(Activity);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// By when a connection has to say its first byte, and to ask for something.
const FIRST_BYTE: Duration = Duration::from_secs(10);
const FIRST_REQUEST: Duration = Duration::from_secs(60);

impl Activity {
    /// One call more; none where there are `most` already.
    pub(super) fn begin_call(&self, most: usize) -> Option<UnderWay> {
        self.0.asked.store(true, Ordering::Relaxed);
        let before = self.0.calls.fetch_add(1, Ordering::Relaxed);
        let call = UnderWay(self.clone());
        (before < most).then_some(call)
    }

    /// Cuts a connection that says nothing, or asks for nothing, in time.
    pub(super) fn insist(&self, cut: CancellationToken) {
        let this = self.clone();
        let insist = async move {
            tokio::time::sleep(FIRST_BYTE).await;
            if this.0.heard.load(Ordering::Relaxed) {
                tokio::time::sleep(FIRST_REQUEST - FIRST_BYTE).await;
                if this.0.asked.load(Ordering::Relaxed) {
                    return;
                }
            }
            tracing::debug!("a connection that asked for nothing is cut");
            cut.cancel();
        };
        tokio::spawn(insist);
    }
}

impl Peer {
    pub(super) fn new(name: Arc<str>, role: Role) -> Self {
        Self { name, role, chain: None, activity: Activity::default() }
    }
}

/// A connection with a kill switch: hyper has no handle on a single connection, so the switch works
/// on the transport. Once cut, the next poll fails and the connection is dropped.
pub struct Connection {
    io: Io,
    peer: Peer,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Dropped with the connection: gives its place back, and takes it off its listener's list.
    _registration: Box<dyn Send + Sync>,
}

enum Io {
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Connection {
    pub(super) fn tls(
        io: TlsStream<TcpStream>,
        peer: Peer,
        cut: CancellationToken,
        registration: Box<dyn Send + Sync>,
    ) -> Self {
        Self {
            io: Io::Tls(Box::new(io)),
            peer,
            cut: Box::pin(cut.cancelled_owned()),
            _registration: registration,
        }
    }

    pub(super) fn unix(io: UnixStream, peer: Peer, cut: CancellationToken, place: Place) -> Self {
        Self { io: Io::Unix(io), peer, cut: Box::pin(cut.cancelled_owned()), _registration: Box::new(place) }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut by the agent")),
            Poll::Pending => Ok(()),
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let before = buf.filled().len();
        let read = match &mut self.io {
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_read(cx, buf),
        };
        if buf.filled().len() > before && !self.peer.activity.0.heard.load(Ordering::Relaxed) {
            self.peer.activity.0.heard.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        match &mut self.io {
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        match &mut self.io {
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Unix(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tls(io) => io.is_write_vectored(),
            Io::Unix(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
            Io::Unix(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Io::Unix(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
