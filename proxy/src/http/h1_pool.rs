//! HTTP/1 connections to one application or unmeshed endpoint, kept for a while after use.
//!
//! Invariant: a connection carries one exchange at a time and comes back only after a clean end, which a response before the
//! end of its request is not. A request is sent twice only if it surely was not processed, or may be processed twice: the
//! first try was never written, or it is idempotent, its body can be sent again, and a reused connection closed before any
//! byte of a response. A connection has no task of its own, unless a request has a body, whose sending must go on while
//! nobody reads the response: who waits for the response, or reads it, drives it.

use std::any::Any;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Response, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use mesh_kit::pressure::{self, Level};

use super::answer::MEMORY;
use super::body::{Body, BodyError, Gate};
use super::caller::Caller;
use super::judged::{Asked, Judged, Sending};
use super::replay::Spare;
use super::wear::{Wear, Worn};
use super::{BoxedRequest, Failure, Settings, headers};
use crate::net::{Connector, Stream};

/// The pool of one address.
#[derive(Debug)]
pub struct Pool {
    addr: SocketAddr,
    connector: Connector,
    settings: Arc<Settings>,
    shelf: Mutex<Shelf>,
}

/// The place of a connection among those that there may be, until dropped.
pub type Ticket = Arc<dyn Any + Send + Sync>;

/// Says whether there may be one more connection of a pool; or why not, for people.
pub type Admit<'a> = dyn Fn(&Arc<Pool>) -> Result<Ticket, &'static str> + Send + Sync + 'a;

#[derive(Debug, Default)]
struct Shelf {
    idle: Vec<Idle>,
    /// A task looks after them; it ends when it finds none, so it may outlast times in which all are in use.
    is_swept: bool,
}

#[derive(Debug)]
struct Idle {
    client: Client,
    since: Instant,
}

/// An HTTP/1 connection as a client has it.
#[derive(Debug)]
pub struct Client {
    sender: SendRequest<Sent>,
    /// `None`: it has ended, or a task drives it.
    connection: Option<Box<Connection>>,
    asked: Arc<Asked>,
    /// Boxed: a request on its way moves this about.
    past: Box<Past>,
}

#[derive(Debug)]
struct Past {
    worn: Worn,
    /// Where connections are limited.
    ticket: Option<Ticket>,
}

type Connection = http1::Connection<TokioIo<Judged>, Sent>;

/// A request's body, `None` if it is empty. hyper keeps room for up to 64 requests on each connection.
struct Sent(Option<Box<Body>>);

impl From<Body> for Sent {
    fn from(body: Body) -> Self {
        Self((!body.is_end_stream()).then(|| Box::new(body)))
    }
}

impl From<Sent> for Body {
    fn from(Sent(body): Sent) -> Self {
        body.map_or_else(Body::empty, |body| *body)
    }
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), |body| body.size_hint())
    }
}

/// A connection in use; `give_back` returns it to its pool.
#[derive(Debug)]
pub struct Lease {
    client: Client,
    pool: Arc<Pool>,
    reused: bool,
}

impl Lease {
    /// Sends `request` here, and once more on a new connection if that is surely safe.
    pub async fn send(self, request: BoxedRequest, caller: &Caller) -> Result<Response<Body>, Failure> {
        let pool = Arc::clone(&self.pool);
        // A connection that takes this one's place.
        let ticket = self.client.past.ticket.clone();
        let (request, again) = if self.reused && headers::is_idempotent(request.method()) {
            let (request, spare) = Spare::of(request);
            (request, Some(spare))
        } else {
            (request, None)
        };
        let request = match exchange(self, request, caller, &pool.settings).await {
            Ok(response) => return Ok(response),
            Err((_, Some(unsent))) => unsent,
            Err((failure, None)) => match (&failure, again.as_ref().and_then(Spare::again)) {
                (Failure::Closed(_), Some(again)) => again,
                _ => return Err(failure),
            },
        };
        // Boxed, as all that few requests need.
        let another = Box::pin(async {
            let lease = pool.open(ticket, None).await.map_err(|failure| (failure, None))?;
            exchange(lease, request, caller, &pool.settings).await
        });
        another.await.map_err(|(failure, _)| failure)
    }

    /// Moves what there is to move on the connection.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        self.client.drive(cx);
    }

    /// Puts the connection back, for the next request.
    pub fn give_back(self) {
        let Self { client, pool, .. } = self;
        pool.put(client);
    }
}

impl Pool {
    /// An empty pool.
    pub fn new(addr: SocketAddr, connector: Connector, settings: Arc<Settings>) -> Arc<Self> {
        Arc::new(Self { addr, connector, settings, shelf: Mutex::default() })
    }

    /// A connection: an idle one, or a new one, if `admit` has a place for it.
    pub async fn lease(self: &Arc<Self>, wear: Option<&Wear>, admit: Option<&Admit<'_>>) -> Result<Lease, Failure> {
        let idle = self.take(wear);
        let known = idle.as_ref().and_then(|client| client.past.ticket.clone());
        let ticket = match (known, admit) {
            (None, Some(admit)) => Some(admit(self).map_err(Failure::Busy)?),
            (known, _) => known,
        };
        match idle {
            Some(mut client) => {
                client.past.ticket = ticket;
                Ok(Lease { client, pool: Arc::clone(self), reused: true })
            }
            None => Box::pin(self.open(ticket, wear.and_then(|wear| wear.connect))).await,
        }
    }

    /// Closes the connection that has been unused for the longest time; false: there is none with a ticket.
    pub fn make_room(&self) -> bool {
        let mut shelf = self.shelf();
        let found = shelf.idle.iter().position(|idle| idle.client.past.ticket.is_some());
        let closed = found.map(|i| shelf.idle.remove(i));
        drop(shelf);
        closed.is_some()
    }

    async fn open(self: &Arc<Self>, ticket: Option<Ticket>, limit: Option<Duration>) -> Result<Lease, Failure> {
        // Many requests may have been let in before the first one shows: what comes of a connection is the larger part.
        has_memory()?;
        let tcp = self.connector.connect_within(self.addr, limit).await?;
        has_memory()?;
        let mut client = Client::new(tcp.into(), &self.settings).await?;
        client.past.ticket = ticket;
        Ok(Lease { client, pool: Arc::clone(self), reused: false })
    }

    fn take(&self, wear: Option<&Wear>) -> Option<Client> {
        let mut shelf = self.shelf();
        // The youngest first: the others may then age and go.
        while let Some(Idle { mut client, since }) = shelf.idle.pop() {
            let is_worn = client.past.worn.is_out(wear, Instant::now);
            if !is_worn && since.elapsed() < self.settings.pool_idle && client.is_usable() {
                return Some(client);
            }
        }
        None
    }

    fn put(self: &Arc<Self>, mut client: Client) {
        if client.is_closed() {
            return;
        }
        let mut shelf = self.shelf();
        if shelf.idle.len() >= self.settings.pool_size {
            return;
        }
        shelf.idle.push(Idle { client, since: Instant::now() });
        if !std::mem::replace(&mut shelf.is_swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    fn shelf(&self) -> std::sync::MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn has_memory() -> Result<(), Failure> {
    if pressure::look() == Level::Critical { Err(Failure::Busy(MEMORY)) } else { Ok(()) }
}

/// Closes what is unused for too long; ends where it finds no idle connection.
async fn sweep(pool: std::sync::Weak<Pool>) {
    loop {
        let Some(limit) = pool.upgrade().map(|pool| pool.settings.pool_idle) else { return };
        tokio::time::sleep(limit).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut shelf = pool.shelf();
        shelf.idle.retain_mut(|idle| idle.since.elapsed() < limit && !idle.client.is_closed());
        if shelf.idle.is_empty() {
            *shelf = Shelf::default();
            return;
        }
    }
}

impl Client {
    /// Speaks HTTP/1 as a client on `stream`.
    async fn new(stream: Stream, settings: &Settings) -> Result<Self, Failure> {
        let asked = Arc::new(Asked::default());
        let io = TokioIo::new(Judged::server(stream, Arc::clone(&asked)));
        let mut builder = http1::Builder::new();
        builder.max_buf_size(settings.max_head).max_header_size(settings.max_head).max_headers(settings.max_headers);
        let (sender, connection) = builder.handshake(io).await.map_err(|error| failure(&error, false))?;
        let past = Box::new(Past { worn: Worn::new(Instant::now()), ticket: None });
        Ok(Self { sender, connection: Some(Box::new(connection)), asked, past })
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        let Some(connection) = &mut self.connection else { return };
        if let Poll::Ready(result) = Pin::new(connection).poll(cx) {
            log_end(result);
            self.connection = None;
        }
    }

    /// Gives the connection a task of its own.
    fn detach(&mut self) {
        if let Some(connection) = self.connection.take() {
            tokio::spawn(async move { log_end(connection.with_upgrades().await) });
        }
    }

    /// Looks whether the connection has ended; nobody does while it is idle.
    fn is_closed(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.sender.is_closed()
    }

    fn is_usable(&mut self) -> bool {
        !self.is_closed() && self.sender.is_ready()
    }
}

fn log_end(result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(error = %super::h1::describe(&error), "HTTP/1 connection to the upstream ended early");
    }
}

/// Speaks HTTP/1 as a client on `stream`, which may leave HTTP.
pub async fn handshake(stream: Stream, settings: &Settings) -> Result<Client, Failure> {
    let mut client = Client::new(stream, settings).await?;
    client.detach();
    Ok(client)
}

/// One exchange on a connection of its own or from a pool.
async fn exchange(
    mut lease: Lease,
    mut request: BoxedRequest,
    caller: &Caller,
    settings: &Settings,
) -> Result<Response<Body>, (Failure, Option<BoxedRequest>)> {
    let keep = request.version() == Version::HTTP_11;
    let has_body = !request.body().is_end_stream();
    // Without a lease nobody who reads the response could drive it.
    if !keep || has_body {
        lease.client.detach();
    }
    if has_body {
        let sending = Sending::begin(&lease.client.asked);
        *request.body_mut() = std::mem::take(request.body_mut()).holding(sending);
    }
    let response = send(&mut lease.client, request, caller, settings).await?;
    // A server that answers before the end of a body may take what is left of it for requests, and answer those too.
    let keep = keep && !lease.client.asked.is_sending();
    // A connection that is not kept still is one until the response has passed.
    let ticket = if keep { None } else { lease.client.past.ticket.take() };
    let lease = keep.then_some(lease);
    Ok(response.map(|incoming| {
        if incoming.is_end_stream() {
            if let Some(lease) = lease {
                lease.give_back();
            }
            return Body::empty();
        }
        let body = Body::h1(incoming, lease);
        if let Some(ticket) = ticket { body.holding(ticket) } else { body }
    }))
}

/// Sends one request; on failure the request comes back if no byte of it was written.
pub async fn send(
    client: &mut Client,
    request: BoxedRequest,
    caller: &Caller,
    settings: &Settings,
) -> Result<Response<hyper::body::Incoming>, (Failure, Option<BoxedRequest>)> {
    let (request, gate) = hold_body_if_expecting(request, settings);
    let request = listen_for_interim(request, caller, gate.as_ref());
    client.asked.ask(request.method());
    client.past.worn.carry();
    let mut answer = pin!(client.sender.try_send_request(request.map(Sent::from)));
    let result = poll_fn(|cx| {
        client.drive(cx);
        answer.as_mut().poll(cx)
    });
    let mut result = result.await;
    // Boxed, as all that few requests need.
    if let Some(gate) = gate {
        result = Box::pin(async move {
            gate.passed().await;
            result
        })
        .await;
    }
    result.map_err(|mut error| {
        let unsent = error.take_message().map(|unsent| Box::new(unsent.map(Body::from)));
        (failure(error.error(), client.asked.is_heard()), unsent)
    })
}

/// With `expect: 100-continue` the body waits until somebody asks for it.
pub fn hold_body_if_expecting(mut request: BoxedRequest, settings: &Settings) -> (BoxedRequest, Option<Arc<Gate>>) {
    let expects = request.headers().get(http::header::EXPECT);
    if request.body().is_end_stream() || expects.is_none_or(|v| !v.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return (request, None);
    }
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let body = std::mem::replace(request.body_mut(), Body::empty());
    *request.body_mut() = body.gated(held, settings.continue_wait);
    (request, Some(gate))
}

fn listen_for_interim(mut request: BoxedRequest, caller: &Caller, gate: Option<&Arc<Gate>>) -> BoxedRequest {
    if matches!(caller, Caller::Deaf) && gate.is_none() {
        return request;
    }
    let (caller, gate) = (caller.clone(), gate.cloned());
    hyper::ext::on_informational(&mut *request, move |interim| {
        if let (http::StatusCode::CONTINUE, Some(gate)) = (interim.status(), &gate) {
            gate.open();
        }
        let mut response = Response::new(());
        *response.status_mut() = interim.status();
        *response.headers_mut() = interim.headers().clone();
        caller.interim(response);
    });
    request
}

fn failure(error: &hyper::Error, heard: bool) -> Failure {
    let text = super::h1::describe(error);
    if error.is_parse() || heard {
        return Failure::Protocol(text);
    }
    // The kernel gave it up: nobody has closed it, the network has gone.
    if has_timed_out(error) { Failure::Lost(text) } else { Failure::Closed(text) }
}

fn has_timed_out(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::runtime::Handle;

    use super::*;
    use crate::http::h1::tests::limits;
    use crate::net::connect::{self, LivenessSettings};

    /// Answers whatever is asked, on any number of connections.
    async fn answers(listener: TcpListener) {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a listener");
            tokio::spawn(async move {
                while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                }
            });
        }
    }

    async fn pool() -> Arc<Pool> {
        const SOON: Duration = Duration::from_secs(30);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let addr = listener.local_addr().expect("bound");
        tokio::spawn(answers(listener));
        let liveness = LivenessSettings { keepalive: SOON, user_timeout: None };
        let connector = Connector::new(connect::Settings { timeout: SOON, liveness });
        Pool::new(addr, connector, Arc::new(limits()))
    }

    async fn ask(pool: &Arc<Pool>) {
        let lease = pool.lease(None, None).await.expect("a connection");
        let request = Box::new(http::Request::get("/").header("host", "x").body(Body::empty()).expect("a request"));
        let answer = lease.send(request, &Caller::Deaf).await.expect("an answer");
        assert_eq!(answer.status(), 200);
    }

    /// Each connection that comes back as the only idle one once had a task of its own for it, and all of them stayed for as
    /// long as requests came: an hour of them was megabytes.
    #[tokio::test]
    async fn one_task_looks_after_idle_connections_however_often_they_come_back() {
        let (pool, alive) = (pool().await, || Handle::current().metrics().num_alive_tasks());
        ask(&pool).await;
        let before = alive();
        for _ in 0..100 {
            ask(&pool).await;
        }
        assert_eq!(alive(), before);
    }
}
