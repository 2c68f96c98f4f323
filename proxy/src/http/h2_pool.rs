//! HTTP/2 connections to one place: a sidecar (mutual TLS) or an application (plaintext).
//!
//! Invariant: one warm connection carries everything; a further one is opened only when the first ones are busy, and one that
//! said GOAWAY gets no new stream. Callers that need a connection at the same time share one attempt. What a burst has opened
//! beyond the first one goes again once it is unused.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::{Method, Request, StatusCode, Uri};
use mesh_mtls::cork::{Queue, cork};
use mesh_mtls::tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::answer::Reason;
use super::h2_driver::Driver;
use super::wear::{Wear, Worn};
use super::{Failure, Settings, headers};
use crate::metrics::{self, Direction};
use crate::model::{Peer, Protocol};
use crate::net::connect::ConnectError;
use crate::net::h2io::H2Io;
use crate::net::{Connector, Stream};

/// Where the connections lead.
#[derive(Clone, Debug)]
pub enum Dial {
    /// To the application beside us.
    App(SocketAddr),
    /// To a server outside the mesh.
    Plain(SocketAddr),
    /// To a sidecar that proves its identity.
    Mutual(Peer, tls::Connector),
}

/// The connections to one place.
pub struct Pool {
    dial: Dial,
    connector: Connector,
    settings: Arc<Settings>,
    metrics: metrics::Metrics,
    tunnels: Option<metrics::Tunnels>,
    open: Mutex<Open>,
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Open {
    connections: Vec<Connection>,
    /// How many attempts have failed, and the last one's error: shared with those who waited for that attempt.
    failed: (u64, Option<Failure>),
    /// A task looks for siblings that are not used; it ends when it finds none.
    is_swept: bool,
}

#[derive(Clone, Debug)]
struct Connection {
    sender: SendRequest<Bytes>,
    state: Arc<State>,
    queue: Queue,
}

/// What is known of a connection.
#[derive(Debug)]
pub(super) struct State {
    closed: AtomicBool,
    /// The far end owes a sign of life.
    doubtful: AtomicBool,
    streams: AtomicUsize,
    /// A stream was opened since the last look.
    used: AtomicBool,
    worn: Worn,
}

impl Default for State {
    fn default() -> Self {
        let (closed, doubtful, streams, used) = Default::default();
        Self { closed, doubtful, streams, used, worn: Worn::new(Instant::now()) }
    }
}

/// A connection that is ready for one stream.
pub struct Ready {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) slot: Slot,
    pub(super) queue: Queue,
}

/// A stream's place on its connection, until dropped.
pub struct Slot {
    state: Arc<State>,
    _counted: Option<metrics::Open>,
}

impl State {
    /// How many streams are open.
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// It has ended, or takes no new streams.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Whether the far end may be gone.
    pub(super) fn doubt(&self, doubtful: bool) {
        self.doubtful.store(doubtful, Ordering::Relaxed);
    }

    /// See [`State::doubt`].
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful.load(Ordering::Relaxed)
    }
}

impl Slot {
    pub(super) fn new(state: Arc<State>, counted: Option<metrics::Open>) -> Self {
        state.streams.fetch_add(1, Ordering::Relaxed);
        state.used.store(true, Ordering::Relaxed);
        state.worn.carry();
        Self { state, _counted: counted }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.state.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How much a connection must have left.
#[derive(Clone, Copy, Debug)]
enum Room {
    /// So much that no sibling is wanted.
    ToSpare,
    /// One stream.
    ForOne,
}

/// A connection with so many streams gets a sibling, up to `MOST_CONNECTIONS`.
const BUSY_STREAMS: usize = 100;
const MOST_CONNECTIONS: usize = 128;
/// Streams before the far end has said how many it takes: were there more, it would refuse those beyond its limit.
const AT_FIRST: usize = 1;
/// How often it is looked for siblings that nobody uses any more.
const LOOK: Duration = Duration::from_secs(2);

impl Connection {
    fn streams(&self) -> usize {
        self.state.streams()
    }

    /// Whether nothing is on it, and nothing was since this was asked before.
    fn is_unused(&self) -> bool {
        !self.state.used.swap(false, Ordering::Relaxed) && self.streams() == 0
    }

    /// How many the far end takes. At first, and where it is one at a time, others wait on the connection: another one would
    /// not be faster.
    fn most_streams(&self) -> usize {
        Some(self.sender.current_max_send_streams()).filter(|most| *most != AT_FIRST).unwrap_or(usize::MAX)
    }
}

impl Pool {
    /// No connection yet.
    pub fn new(dial: Dial, connector: Connector, settings: Arc<Settings>, metrics: metrics::Metrics) -> Arc<Self> {
        let (open, connecting) = Default::default();
        let tunnels = matches!(dial, Dial::Mutual(..)).then(|| metrics.tunnels());
        Arc::new(Self { dial, connector, settings, metrics, tunnels, open, connecting })
    }

    /// A connection that is ready for a stream, and not worn out.
    pub async fn ready(self: &Arc<Self>, wear: Option<&Wear>) -> Result<Ready, Failure> {
        loop {
            let connection = match self.usable(Room::ToSpare) {
                Some(connection) => connection,
                // A busy connection is better than none. Boxed, for hardly any request has to wait for a connection.
                None => match Box::pin(self.connect_once(wear.and_then(|wear| wear.connect))).await {
                    Ok(connection) => connection,
                    Err(failure) => self.usable(Room::ForOne).ok_or(failure)?,
                },
            };
            let Connection { mut sender, state, queue } = connection;
            if state.worn.is_out(wear, Instant::now) {
                state.close();
                continue;
            }
            let counted = self.tunnels.as_ref().map(|tunnels| tunnels.stream(Direction::Outbound));
            let slot = Slot::new(Arc::clone(&state), counted);
            match poll_fn(|cx| sender.poll_ready(cx)).await {
                Ok(()) => return Ok(Ready { sender, slot, queue }),
                // GOAWAY, or broken since: not for new streams.
                Err(_) => state.close(),
            }
        }
    }

    /// Opens a byte stream to `destination` behind the sidecar. `protocol` is what is known of the bytes to come.
    pub async fn tunnel(
        self: &Arc<Self>,
        destination: SocketAddr,
        protocol: Option<Protocol>,
        wear: Option<&Wear>,
    ) -> Result<Stream, Failure> {
        let Ready { mut sender, slot, .. } = self.ready(wear).await?;
        let authority = Uri::try_from(destination.to_string()).expect("an address is an authority");
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = authority;
        if let Some(value) = protocol.and_then(headers::protocol_value) {
            request.headers_mut().insert(headers::PROTOCOL, value);
        }
        let (response, send) = sender.send_request(request, false)?;
        let Ok(response) = timeout(self.settings.open_timeout, response).await else {
            return Err(Failure::App(format!("no answer to CONNECT within {:?}", self.settings.open_timeout)));
        };
        let response = response?;
        if response.status() == StatusCode::OK {
            return Ok(H2Io::new(send, response.into_body()).holding(Arc::new(slot)).into());
        }
        let said = response.headers().get(headers::ERROR).and_then(|value| value.to_str().ok());
        match said {
            Some(said) if said.starts_with(Reason::ConnectFailed.word()) => Err(Failure::App(said.to_owned())),
            Some(said) => Err(Failure::Protocol(said.to_owned())),
            None => Err(Failure::Protocol(format!("tunnel refused with {}", response.status()))),
        }
    }

    /// The first connection that has room, so that the later ones come to rest when there is less to do.
    fn usable(&self, room: Room) -> Option<Connection> {
        let mut open = self.open();
        open.connections.retain(|connection| !connection.state.closed.load(Ordering::Relaxed));
        let has_room = |connection: &&Connection| {
            let most = connection.most_streams();
            !connection.state.is_doubtful()
                && connection.streams() < if let Room::ToSpare = room { most.min(BUSY_STREAMS) } else { most }
        };
        open.connections.iter().find(has_room).cloned()
    }

    async fn connect_once(self: &Arc<Self>, limit: Option<Duration>) -> Result<Connection, Failure> {
        let failed_before = self.open().failed.0;
        let _only = self.connecting.lock().await;
        if let Some(connection) = self.usable(Room::ToSpare) {
            return Ok(connection);
        }
        if self.open().connections.len() >= MOST_CONNECTIONS {
            return Err(Failure::Busy("all connections are busy"));
        }
        {
            let open = self.open();
            if let (failed, Some(failure)) = &open.failed
                && *failed != failed_before
            {
                return Err(failure.clone());
            }
        }
        let all = limit.map_or(self.settings.open_timeout, |limit| limit.max(self.settings.open_timeout));
        let result = timeout(all, self.connect(limit)).await.unwrap_or_else(|_| Err(self.too_slow(all)));
        let mut open = self.open();
        match result {
            Ok(connection) => {
                open.connections.push(connection.clone());
                if open.connections.len() >= 2 && !std::mem::replace(&mut open.is_swept, true) {
                    tokio::spawn(sweep(Arc::downgrade(self)));
                }
                Ok(connection)
            }
            Err(failure) => {
                open.failed = (failed_before + 1, Some(failure.clone()));
                Err(failure)
            }
        }
    }

    fn too_slow(&self, limit: Duration) -> Failure {
        let cause = format!("no HTTP/2 connection within {limit:?}");
        match &self.dial {
            Dial::App(addr) | Dial::Plain(addr) => ConnectError { addr: *addr, cause, is_ours: false }.into(),
            Dial::Mutual(peer, _) => ConnectError { addr: peer.addr, cause, is_ours: false }.into(),
        }
    }

    async fn connect(self: &Arc<Self>, limit: Option<Duration>) -> Result<Connection, Failure> {
        match &self.dial {
            Dial::App(addr) | Dial::Plain(addr) => {
                let tcp = self.connector.connect_within(*addr, limit).await?;
                let (connection, driver) = self.handshake(tcp).await?;
                Ok(self.start(connection, driver))
            }
            Dial::Mutual(peer, tls) => {
                let tcp = self.connector.connect_within(peer.addr, limit).await?;
                let stream = tls.connect(tcp, &peer.id).await.map_err(|error| {
                    self.metrics.handshake(Direction::Outbound, error.reason());
                    Failure::Peer(format!("mutual TLS with {} at {}: {error}", peer.id, peer.addr))
                })?;
                let refused = |error: String| {
                    self.metrics.handshake(Direction::Outbound, "refused");
                    Failure::Peer(format!("refused by {} at {}: {error}", peer.id, peer.addr))
                };
                let (connection, mut driver) = self.handshake(stream).await?;
                // In TLS 1.3 a client is done before the server has judged its certificate: wait for a sign of life.
                driver.greet().await.map_err(refused)?;
                self.metrics.handshake(Direction::Outbound, "ok");
                Ok(self.start(connection, driver))
            }
        }
    }

    async fn handshake<IO>(&self, io: IO) -> Result<(Connection, Driver<IO>), Failure>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        // An application is next door: its data need not wait for credit here, and should wait there for its readers.
        let stream_window = match self.dial {
            Dial::App(_) => self.settings.app_stream_window,
            Dial::Plain(_) | Dial::Mutual(..) => self.settings.tunnel_stream_window,
        };
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(AT_FIRST)
            .initial_window_size(stream_window)
            .initial_connection_window_size(self.settings.tunnel_window())
            .max_frame_size(super::h2_server::LARGEST_FRAME)
            .data_frame_budget(super::h2_server::TINY_DATA)
            // Many clients share the connection.
            .max_local_error_reset_streams(Some(1 << 20))
            .max_send_buffer_size(self.settings.tunnel_send_buffer)
            .max_header_list_size(self.settings.tunnel_head());
        let (io, uncork) = cork(io);
        let (sender, connection) = builder.handshake::<_, Bytes>(io).await?;
        let (state, queue) = (Arc::new(State::default()), uncork.queue());
        let driver = Driver::new(connection, uncork, &state);
        Ok((Connection { sender, state, queue }, driver))
    }

    fn start<IO>(self: &Arc<Self>, connection: Connection, driver: Driver<IO>) -> Connection
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let open = self.tunnels.as_ref().map(|tunnels| tunnels.connection(Direction::Outbound));
        // Not held: the connection ends when its pool does.
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            let _open = open;
            if driver.run().await
                && let Some(pool) = pool.upgrade()
            {
                pool.silent();
            }
        });
        connection
    }

    /// A far end was given up.
    fn silent(&self) {
        const REASON: &str = "silent";
        if let Dial::Mutual(peer, _) = &self.dial {
            self.metrics.error(Direction::Outbound, REASON);
            tracing::warn!(reason = REASON, peer = %peer.id, addr = %peer.addr, "tunnel given up: no answer to a ping");
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets go of connections that nobody uses, but for one; ends when there is no other.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut open = pool.open();
        let mut first = true;
        open.connections.retain(|connection| std::mem::take(&mut first) || !connection.is_unused());
        if open.connections.len() < 2 {
            open.connections.shrink_to_fit();
            open.is_swept = false;
            return;
        }
    }
}
