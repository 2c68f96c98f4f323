//! TLS connections for a server, tonic's or another: accepts, performs handshakes side by side, hands out those that succeed.
//!
//! Invariant: the stream never ends and never yields an error, so that no client and no lack of descriptors can stop a
//! server; handshakes are bounded in time (by the acceptor) and number, and silent clients cannot hold all places for
//! long, see [`super::places`]. The last descriptors are never given to connections, so health checks go on.
//! Non-goal: a bound on finished connections; that is the server's.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use mesh_kit::limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, Id as TaskId, JoinSet};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::places::{MAX_HANDSHAKES, PATIENCE, Places, Room};
use crate::spiffe::Id;
use crate::tls::{self, Acceptor};

/// How long to let others close descriptors when there are none left.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections leave twice as many descriptors free as the daemon keeps for itself: the other half is for files that it reads
/// again.
const LEAVE_FREE: u64 = 2;
/// The reason of a connection that would have taken one of those.
pub const DESCRIPTORS: &str = "descriptors";

/// Who asks; found in `request.extensions()`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Proved by a certificate; none when the acceptor does not require one.
    pub id: Option<Id>,
    /// The other end of the connection.
    pub addr: SocketAddr,
}

/// Connections of `listener` for tonic's `serve_with_incoming`.
pub fn incoming(listener: TcpListener, acceptor: Acceptor) -> Incoming {
    Incoming {
        listener,
        acceptor,
        handshakes: JoinSet::new(),
        places: Places::new(),
        pause: None,
        patience: None,
        refused: Box::new(|_| {}),
        accept_failed: Box::new(|| {}),
    }
}

/// See [`incoming`].
pub struct Incoming {
    listener: TcpListener,
    acceptor: Acceptor,
    handshakes: JoinSet<Result<Connection, Failed>>,
    /// Of those in `handshakes` that have not been told to end.
    places: Places<Started>,
    /// There are no descriptors; nothing is accepted before it ends.
    pause: Option<Pin<Box<Sleep>>>,
    /// All places are taken; then one of them will have had its time.
    patience: Option<Pin<Box<Sleep>>>,
    refused: Box<dyn Fn(&'static str) + Send + Sync>,
    accept_failed: Box<dyn Fn() + Send + Sync>,
}

#[derive(Debug)]
struct Started {
    addr: SocketAddr,
    task: AbortHandle,
}

struct Failed {
    addr: SocketAddr,
    error: tls::Error,
}

impl Incoming {
    /// Calls `refused` for each connection that comes to nothing, with the reason: that of a failed handshake
    /// ([`tls::Error::reason`]), or `descriptors`.
    #[must_use]
    pub fn on_refused(self, refused: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self { refused: Box::new(refused), ..self }
    }

    /// Calls `failed` each time that accept(2) fails for want of something.
    #[must_use]
    pub fn on_accept_error(self, failed: impl Fn() + Send + Sync + 'static) -> Self {
        Self { accept_failed: Box::new(failed), ..self }
    }

    fn refuse(&self, tcp: &TcpStream, addr: SocketAddr) {
        tracing::warn!(peer = %addr, reason = DESCRIPTORS, "connection refused");
        // Fails only on a socket that is dead already.
        let _ = tcp.set_zero_linger();
        (self.refused)(DESCRIPTORS);
    }

    fn start(&mut self, tcp: TcpStream, addr: SocketAddr) {
        let acceptor = self.acceptor.clone();
        let task = self.handshakes.spawn(async move {
            let failed = |error| Failed { addr, error };
            crate::dial::prepare(&tcp).map_err(|error| failed(error.into()))?;
            let (tls, tls::Peer { id }) = acceptor.accept(tcp).await.map_err(failed)?;
            Ok(Connection { tls, peer: Peer { id, addr } })
        });
        self.places.enter(addr.ip().into(), Started { addr, task }, Instant::now());
    }

    /// Ready when there is a place for one more handshake, if need be by ending another.
    fn poll_place(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.handshakes.len() >= MAX_HANDSHAKES {
            if self.places.len() < self.handshakes.len() {
                return Poll::Pending; // one was told to end, and wakes us
            }
            if let Some(timer) = &mut self.patience {
                ready!(timer.as_mut().poll(cx)); // a handshake that ends wakes us as well
                self.patience = None;
            }
            match self.places.make_room(Instant::now()) {
                Room::Evict(Started { addr, task }) => {
                    task.abort();
                    self.report(&Failed { addr, error: tls::Error::Timeout(PATIENCE) });
                }
                Room::At(time) => self.patience = Some(Box::pin(sleep_until(time))),
                Room::Nobody => return Poll::Pending,
            }
        }
        self.patience = None;
        Poll::Ready(())
    }

    fn ended(&mut self, task: TaskId) {
        self.places.leave(|started| started.task.id() == task);
    }

    fn report(&self, failed: &Failed) {
        tracing::warn!(peer = %failed.addr, reason = failed.error.reason(), error = %failed.error, "handshake refused");
        (self.refused)(failed.error.reason());
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.handshakes.poll_join_next_with_id(cx) {
                Poll::Ready(Some(Ok((task, Ok(connection))))) => {
                    self.ended(task);
                    return Poll::Ready(Some(Ok(connection)));
                }
                Poll::Ready(Some(Ok((task, Err(failed))))) => {
                    self.ended(task);
                    self.report(&failed);
                    continue;
                }
                Poll::Ready(Some(Err(error))) => {
                    self.ended(error.id()); // it gave up its place, or the runtime shuts down
                    continue;
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
            if let Some(timer) = &mut self.pause {
                ready!(timer.as_mut().poll(cx));
                self.pause = None;
            }
            ready!(self.poll_place(cx));
            match ready!(self.listener.poll_accept(cx)) {
                Ok((tcp, addr)) if limits::is_among_last(&tcp, LEAVE_FREE) => self.refuse(&tcp, addr),
                Ok((tcp, addr)) => self.start(tcp, addr),
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    tracing::warn!("cannot accept: {error}");
                    (self.accept_failed)();
                    self.pause = Some(Box::pin(sleep_until(Instant::now() + PAUSE)));
                }
            }
        }
    }
}

/// accept(2) also reports what happened to the one connection that it would have returned; the next may be fine.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkDown,
        NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
    )
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (listener, handshakes) = (&self.listener, self.handshakes.len());
        f.debug_struct("Incoming").field("listener", listener).field("handshakes", &handshakes).finish_non_exhaustive()
    }
}

/// A verified connection.
#[derive(Debug)]
pub struct Connection {
    tls: tls::Stream<TcpStream>,
    peer: Peer,
}

impl Connection {
    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The stream, and who is at its other end: for a server other than tonic's.
    #[must_use]
    pub fn into_parts(self) -> (tls::Stream<TcpStream>, Peer) {
        (self.tls, self.peer)
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
