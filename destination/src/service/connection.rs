//! The task of one connection: HTTP/2, its streams, and an end for those who do not answer.
//!
//! Invariant: all of a connection is one task. Each turn reads what has come, lets each stream do what it can, and sends
//! what that came to at once; then it waits for the peer, the index or the next deadline. A connection that opens no stream
//! in time, does not answer a ping, or does not read is dropped with all that it holds. Non-goal: TLS, which has happened.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response};
use mesh_mtls::abuse;
use mesh_mtls::clock;
use mesh_mtls::cork::{Corked, Uncork, cork};
use mesh_mtls::spiffe;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep_until, timeout_at};

use super::admission::Place;
use super::grpc::{self, Code, Message, Status};
use super::keepalive::Keepalive;
use super::stream::{End, Stream, Turn};
use super::{NOT_LOADED, Settings, Shared};
use crate::index::Completeness;
use crate::metrics;

/// How long a proxy may take to hear that all ends.
const FAREWELL: Duration = Duration::from_secs(1);
/// Times that a connection looks for more to do before it lets others go first.
const ROUNDS: usize = 8;
/// Most bytes of one stream that wait for the socket; they are shared with all others.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that a connection may begin within so long. A proxy begins one, and the next when it was refused.
const BEGUN: (u32, Duration) = (500, Duration::from_secs(10));

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Client {
    /// Proved by its certificate.
    pub id: Option<spiffe::Id>,
    /// Where it is.
    pub addr: SocketAddr,
}

fn builder(settings: &Settings) -> server::Builder {
    const WINDOW: u32 = 65_535;
    const HEADERS: u32 = 16 * 1024;
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(settings.streams)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(2 * WINDOW)
        .max_header_list_size(HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        // One request is all there is to remember headers of.
        .header_table_size(0);
    builder
}

/// From the preface to the end.
pub(super) fn serve<IO>(shared: Arc<Shared>, io: IO, client: Client, place: Place) -> impl Future<Output = ()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    // Not within the future, which would have room for it for good.
    let (io, uncork) = cork(io);
    async move {
        let by = clock::steady() + shared.settings.hello_within;
        // Boxed, for it is over soon.
        let handshake = Box::pin(handshake(&shared.settings, io, &uncork));
        let mut connection = match timeout_at(by.into(), handshake).await {
            Ok(Ok(h2)) => Connection::new(shared, h2, uncork, client, by),
            Ok(Err(error)) => return broken(client.addr, &error),
            Err(_) => return metrics::connection_refused("no_stream"),
        };
        let shutdown = connection.shared.shutdown.clone();
        let mut shutdown = pin!(shutdown.requested());
        let mut alarm = pin!(sleep_until(by.into()));
        let over = std::future::poll_fn(|cx| {
            connection.drain_after(shutdown.as_mut(), cx);
            connection.poll(alarm.as_mut(), cx)
        });
        over.await;
        drop(place);
    }
}

/// Counts an end that was the peer's doing.
fn broken(addr: SocketAddr, error: &h2::Error) {
    match abuse::reason(error) {
        Some(reason) => {
            metrics::http2_abuse(reason);
            tracing::warn!(%addr, reason, %error, "HTTP/2 connection of a proxy ended");
        }
        None => tracing::debug!(%addr, %error, "connection broken"),
    }
}

async fn handshake<IO>(
    settings: &Settings,
    io: Corked<IO>,
    uncork: &Uncork<IO>,
) -> Result<server::Connection<Corked<IO>, Message>, h2::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut handshake = pin!(builder(settings).handshake(io));
    std::future::poll_fn(|cx| uncork.rest(handshake.as_mut().poll(cx), cx)).await
}

struct Connection<IO> {
    shared: Arc<Shared>,
    h2: server::Connection<Corked<IO>, Message>,
    uncork: Uncork<IO>,
    client: Client,
    streams: Vec<Stream>,
    keepalive: Option<Keepalive>,
    /// Until the first stream.
    stream_by: Option<Instant>,
    /// The end is asked for; then it has come at last.
    drained_by: Option<Instant>,
    /// Streams begun since then, see [`BEGUN`].
    begun: (u32, Instant),
    /// They were too many.
    abused: bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Connection<IO> {
    fn new(
        shared: Arc<Shared>,
        mut h2: server::Connection<Corked<IO>, Message>,
        uncork: Uncork<IO>,
        client: Client,
        stream_by: Instant,
    ) -> Self {
        let keepalive = h2.ping_pong().map(|pings| Keepalive::new(pings, &shared.settings, clock::steady()));
        // A proxy opens one.
        let (streams, stream_by) = (Vec::with_capacity(1), Some(stream_by));
        let (drained_by, begun) = (None, (0, clock::steady()));
        Self { shared, h2, uncork, client, streams, keepalive, stream_by, drained_by, begun, abused: false }
    }

    /// Tells the peer to go elsewhere once the end is asked for.
    fn drain_after(&mut self, shutdown: Pin<&mut impl Future<Output = ()>>, cx: &mut Context<'_>) {
        if self.drained_by.is_some() || shutdown.poll(cx).is_pending() {
            return;
        }
        self.drained_by = Some(clock::steady() + FAREWELL);
        self.h2.graceful_shutdown();
        self.end_streams(|| End::Shutdown);
    }

    /// Ready when it is over.
    fn poll(&mut self, mut alarm: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
        let now = clock::steady();
        let turned = self.take_turns(now, cx);
        self.uncork.flush(cx);
        let deadline = self.next_deadline(now);
        let (ControlFlow::Continue(()), ControlFlow::Continue(wake_at)) = (turned, deadline) else {
            self.end_streams(|| End::Broken);
            return Poll::Ready(());
        };
        // An alarm that comes too early does no harm, so that most turns leave it as it is.
        if alarm.is_elapsed() || alarm.deadline().into_std() > wake_at {
            alarm.as_mut().reset(wake_at.into());
        }
        if alarm.poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Until nothing is left to do; breaks when the connection is over.
    fn take_turns(&mut self, now: Instant, cx: &mut Context<'_>) -> ControlFlow<()> {
        for _ in 0..ROUNDS {
            self.accept(now, cx)?;
            if self.turn_streams(now, cx.waker())? == Turn::Rest {
                return ControlFlow::Continue(());
            }
        }
        cx.waker().wake_by_ref();
        ControlFlow::Continue(())
    }

    /// Drives HTTP/2, and takes new streams.
    fn accept(&mut self, now: Instant, cx: &mut Context<'_>) -> ControlFlow<()> {
        while let Poll::Ready(accepted) = self.h2.poll_accept(cx) {
            match accepted {
                // Told already, and on its way out.
                Some(_) if self.abused => {}
                Some(Ok(_)) if self.is_hurried(now) => {
                    self.abused = true;
                    broken(self.client.addr, &Reason::ENHANCE_YOUR_CALM.into());
                    self.h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                }
                Some(Ok((request, respond))) => self.open(request, respond, now),
                Some(Err(error)) => {
                    broken(self.client.addr, &error);
                    return ControlFlow::Break(());
                }
                None => return ControlFlow::Break(()),
            }
        }
        ControlFlow::Continue(())
    }

    /// One more stream begins. Whether there were too many: a rapid reset keeps under the library's limit when each stream is
    /// accepted before its reset comes.
    fn is_hurried(&mut self, now: Instant) -> bool {
        let (most, within) = BEGUN;
        if now.saturating_duration_since(self.begun.1) >= within {
            self.begun = (0, now);
        }
        self.begun.0 += 1;
        self.begun.0 > most
    }

    fn open(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Message>, now: Instant) {
        // Who is gone already needs no answer, here and below.
        let id = match self.admit(&request) {
            Ok(id) => id,
            Err(refused) => {
                let _ = respond.send_response(refused, true);
                return;
            }
        };
        let Ok(updates) = respond.send_response(grpc::opened(), false) else {
            return;
        };
        let stream = Stream::new(Arc::clone(&self.shared), id, request.into_body(), updates, now);
        self.streams.push(stream);
    }

    /// Who opens a stream, if anybody may now.
    fn admit(&mut self, request: &Request<RecvStream>) -> Result<spiffe::Id, Response<()>> {
        grpc::check(request)?;
        let Some(id) = &self.client.id else {
            return Err(Status::new(Code::Unauthenticated, "no certificate").response());
        };
        self.stream_by = None;
        if self.drained_by.is_some() {
            return Err(Status::new(Code::Unavailable, "draining").response());
        }
        if self.shared.index().completeness() == Completeness::Partial {
            let _open = self.shared.metrics.stream();
            self.shared.metrics.ended("not_loaded");
            return Err(Status::new(Code::Unavailable, NOT_LOADED).response());
        }
        Ok(id.clone())
    }

    /// One turn of each stream; breaks when one has to be cut with all of the connection.
    fn turn_streams(&mut self, now: Instant, waker: &Waker) -> ControlFlow<(), Turn> {
        let mut turn = Turn::Rest;
        let mut at = 0;
        while let Some(stream) = self.streams.get_mut(at) {
            match stream.turn(now, waker) {
                Ok(Turn::Rest) => at += 1,
                Ok(Turn::Progress) => {
                    turn = Turn::Progress;
                    at += 1;
                }
                Err(end) => {
                    turn = Turn::Progress;
                    let stream = self.streams.swap_remove(at);
                    self.finish(stream, &end);
                    if matches!(end, End::Stalled) {
                        // Its window is shut, so that not even the end of the stream would reach it.
                        return ControlFlow::Break(());
                    }
                }
            }
        }
        ControlFlow::Continue(turn)
    }

    fn end_streams(&mut self, end: impl Fn() -> End) {
        while let Some(stream) = self.streams.pop() {
            self.finish(stream, &end());
        }
    }

    fn finish(&self, stream: Stream, end: &End) {
        let Client { id, addr } = &self.client;
        let (id, reason) = (id.as_ref().map(ToString::to_string), end.reason());
        match end {
            End::Closed | End::Shutdown | End::Broken => tracing::debug!(id, %addr, reason, "stream ended"),
            End::Malformed(what) => tracing::warn!(id, %addr, reason, "stream refused: {what}"),
            End::Refused(refusal) => tracing::warn!(id, %addr, reason, "stream refused: {refusal}"),
            End::Stalled => tracing::warn!(id, %addr, reason, "a proxy does not read, disconnected"),
        }
        stream.finish(end);
    }

    /// When to look again, whatever happens; breaks when a deadline has passed that ends the connection.
    fn next_deadline(&mut self, now: Instant) -> ControlFlow<(), Instant> {
        if self.stream_by.is_some_and(|by| by <= now) {
            metrics::connection_refused("no_stream");
            return ControlFlow::Break(());
        }
        if self.drained_by.is_some_and(|by| by <= now) {
            return ControlFlow::Break(());
        }
        let settings = &self.shared.settings;
        let ping = self.keepalive.as_mut().map(|keepalive| keepalive.turn(settings, now));
        let own = [self.stream_by, self.drained_by].into_iter().flatten();
        let of_streams = self.streams.iter().filter_map(|stream| stream.wake_at());
        let ping = ping.unwrap_or(ControlFlow::Continue(now + settings.ping_interval))?;
        ControlFlow::Continue(own.chain(of_streams).fold(ping, Instant::min))
    }
}
