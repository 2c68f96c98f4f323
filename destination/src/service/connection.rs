//! Connections of proxies: how many there may be, and a way to cut one.
//!
//! Invariant: connections are bounded, in all and from one address; one that opens no stream in time is cut; one that is
//! cut fails at its next read or write, which frees everything that waits on it. Non-goal: TLS, which has happened.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use mesh_mtls::spiffe;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;

use super::Settings;
use crate::metrics::{self, Raised, Service as Metrics};

/// Who is at the other end; found in the extensions of each request.
#[derive(Clone, Debug)]
pub struct Client {
    /// Proved by its certificate.
    pub id: Option<spiffe::Id>,
    /// Where it is.
    pub addr: SocketAddr,
    pub(super) lifeline: Arc<Lifeline>,
}

/// Cuts a connection.
#[derive(Debug, Default)]
pub(super) struct Lifeline {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    greeted: bool,
    cut: bool,
    waker: Option<Waker>,
}

impl Lifeline {
    /// A stream was opened.
    pub(super) fn greeted(&self) {
        lock(&self.state).greeted = true;
    }

    /// Ends the connection, with all of its streams.
    pub(super) fn cut(&self) {
        let mut state = lock(&self.state);
        state.cut = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    fn poll(&self, cx: &Context<'_>) -> io::Result<Greeted> {
        let mut state = lock(&self.state);
        if state.cut {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        // A connection is read and written by one task.
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Ok(if state.greeted { Greeted::Yes } else { Greeted::NotYet })
    }
}

enum Greeted {
    Yes,
    NotYet,
}

/// Lets connections in, up to a number.
#[derive(Clone, Debug)]
pub struct Admission {
    settings: Settings,
    metrics: Metrics,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Admission {
    /// With the limits of `settings`.
    pub fn new(settings: Settings, metrics: Metrics) -> Self {
        Self { settings, metrics, open: Arc::default() }
    }

    /// Lets a verified connection in, or drops it.
    pub fn admit<IO>(&self, io: IO, id: Option<spiffe::Id>, addr: SocketAddr) -> Option<Guarded<IO>> {
        let place = self.place(addr.ip())?;
        Some(Guarded {
            io,
            client: Client { id, addr, lifeline: Arc::default() },
            greeted_by: Some(Box::pin(sleep(self.settings.hello_within))),
            _place: place,
            _open: self.metrics.connection(),
        })
    }

    fn place(&self, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let mut open = lock(&self.open);
        let of_address = open.by_address.get(&address).copied().unwrap_or_default();
        let refused = if open.total >= self.settings.connections {
            Some("too_many_connections")
        } else if of_address >= self.settings.connections_per_address {
            Some("too_many_connections_of_address")
        } else {
            None
        };
        if let Some(reason) = refused {
            metrics::connection_refused(reason);
            tracing::warn!(%address, reason, "connection refused");
            return None;
        }
        open.total += 1;
        *open.by_address.entry(address).or_default() += 1;
        Some(Place { address, open: Arc::clone(&self.open) })
    }
}

/// One of the connections that may be open.
#[derive(Debug)]
struct Place {
    address: IpAddr,
    open: Arc<Mutex<Open>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        open.total -= 1;
        if let Some(count) = open.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

/// A connection that can be cut.
#[derive(Debug)]
pub struct Guarded<IO> {
    io: IO,
    client: Client,
    /// Until the first stream.
    greeted_by: Option<Pin<Box<Sleep>>>,
    _place: Place,
    _open: Raised,
}

impl<IO> Guarded<IO> {
    fn poll_life(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let greeted = self.client.lifeline.poll(cx)?;
        let Some(greeted_by) = &mut self.greeted_by else {
            return Ok(());
        };
        match greeted {
            Greeted::Yes => self.greeted_by = None,
            Greeted::NotYet => {
                if greeted_by.as_mut().poll(cx).is_ready() {
                    metrics::connection_refused("no_stream");
                    self.client.lifeline.cut();
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
        Ok(())
    }
}

impl<IO> Connected for Guarded<IO> {
    type ConnectInfo = Client;

    fn connect_info(&self) -> Client {
        self.client.clone()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guarded<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_life(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guarded<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_life(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_life(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_life(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_life(cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
