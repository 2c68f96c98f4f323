//! Serves HTTP/2 connections: from applications, and tunnels from other sidecars.
//!
//! Invariant: streams of one connection are independent tasks; a caller that resets its stream ends the work for it, with the
//! same code further up.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use mesh_kit::pressure;
use mesh_mtls::cork::{Queue, cork};
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::Body;
use super::caller::{Caller, H2Caller};
use super::pump::{self, TooSlow};
use super::{Abort, Handler, Settings, answer};
use crate::net::Stream;
use crate::net::h2io::H2Io;

/// Serves `io` until it ends. When `retire` returns, the peer is asked to open no further stream.
pub async fn serve<IO>(
    io: IO,
    settings: &Settings,
    side: Side,
    retire: impl Future<Output = ()>,
    handler: Arc<impl Handler>,
) -> Result<(), h2::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (io, uncork) = cork(io);
    let mut handshake = pin!(builder(settings, side).handshake::<_, Bytes>(io));
    let handshake = poll_fn(|cx| uncork.rest(handshake.as_mut().poll(cx), cx));
    let Ok(connection) = tokio::time::timeout(settings.head_timeout, handshake).await else {
        handler.too_slow();
        return Err(Reason::SETTINGS_TIMEOUT.into());
    };
    let mut connection = connection?;
    let (mut retired, mut abused) = (false, false);
    let (mut hurry, queue) = (Hurry::of(side), uncork.queue());
    tokio::pin!(retire);
    loop {
        tokio::select! {
            accepted = poll_fn(|cx| {
                // What comes is kept for its readers, whether they can pass it on or not.
                let _ = pressure::look();
                uncork.rest(connection.poll_accept(cx), cx)
            }) => match accepted {
                Some(Ok((request, respond))) => {
                    if !abused && hurry.is_abuse() {
                        abused = true;
                        connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    }
                    let limits = Limits { patience: settings.stall_timeout, fields: settings.max_headers + OURS, queue: queue.clone() };
                    begin(request, respond, Arc::clone(&handler), limits, &hurry);
                }
                Some(Err(error)) => return Err(error),
                None if abused => return Err(Reason::ENHANCE_YOUR_CALM.into()),
                None => return Ok(()),
            },
            () = &mut retire, if !retired => {
                retired = true;
                connection.graceful_shutdown();
            }
        }
    }
}

/// Fields that a sidecar adds on a tunnel.
const OURS: usize = 4;

/// Limits of one exchange.
#[derive(Clone, Debug)]
struct Limits {
    patience: Duration,
    fields: usize,
    queue: Queue,
}

/// Streams that are given up right after their begin. More than half of many are an attack: a rapid reset that keeps under the
/// library's limit, because each stream is accepted before its reset comes.
struct Hurry {
    many: u32,
    begun: u32,
    given_up: Arc<AtomicU32>,
}

impl Hurry {
    /// Who gives up sooner gives up at once.
    const AT_ONCE: Duration = Duration::from_secs(1);

    fn of(side: Side) -> Self {
        let many = match side {
            Side::Application => 500,
            Side::Tunnel => 8192,
        };
        Self { many, begun: 0, given_up: Arc::default() }
    }

    /// One more stream begins. Whether there were too many that did and were given up.
    fn is_abuse(&mut self) -> bool {
        self.begun += 1;
        if self.begun < self.many {
            return false;
        }
        self.begun = 0;
        self.given_up.swap(0, Ordering::Relaxed) > self.many / 2
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// One client, who answers for all that it does.
    Application,
    /// A sidecar, which carries the streams of many clients.
    Tunnel,
}

/// What frames with next to nothing in them may take in memory while nobody reads them, on a connection between sidecars. The
/// library would have it half of the window, which is credit for all streams here: one of them, a byte at a time, took 25 MiB.
pub(super) const TINY_DATA: usize = 6 << 20;

/// Largest frame between sidecars, bytes: room for what is read of a socket at a time.
pub(super) const LARGEST_FRAME: u32 = 64 * 1024;

fn builder(settings: &Settings, side: Side) -> Builder {
    // Many clients of one sidecar may give up at the same time, when the application is slow; that is no attack. One client
    // gets hyper's limits for resets before they are accepted, and for resets that it makes us send.
    let (stream_window, window, send_buffer, pending_resets, our_resets) = match side {
        Side::Application => (settings.stream_window, settings.connection_window, settings.send_buffer, 20, 1024),
        Side::Tunnel => {
            let pending_resets = 4 * settings.max_streams as usize;
            let (stream_window, window) = (settings.tunnel_stream_window, settings.tunnel_window());
            (stream_window, window, settings.tunnel_send_buffer, pending_resets, 8192)
        }
    };
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(settings.max_streams)
        .max_header_list_size(match side {
            Side::Application => u32::try_from(settings.max_head).unwrap_or(u32::MAX),
            Side::Tunnel => settings.tunnel_head(),
        })
        .initial_window_size(stream_window)
        .initial_connection_window_size(window)
        .max_send_buffer_size(send_buffer)
        .max_pending_accept_reset_streams(pending_resets)
        // What is still on its way on a stream that we have reset is no fault of the peer's.
        .max_concurrent_reset_streams(4 * settings.max_streams as usize)
        .max_local_error_reset_streams(Some(our_resets));
    if side == Side::Tunnel {
        builder.max_frame_size(LARGEST_FRAME).data_frame_budget(TINY_DATA);
    }
    builder
}

/// A byte stream may last long: its task has no room for what a request needs.
fn begin(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    handler: Arc<impl Handler>,
    limits: Limits,
    hurry: &Hurry,
) {
    if request.method() == Method::CONNECT {
        let patience = limits.patience;
        tokio::spawn(async move { handler.connect(Tunnel { request, respond, patience }).await });
    } else {
        // A future of 2 KiB would be moved three times on its way into a task; a box is not.
        tokio::spawn(Box::pin(exchange(request, respond, handler, limits, Arc::clone(&hurry.given_up))));
    }
}

async fn exchange(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    handler: Arc<impl Handler>,
    limits: Limits,
    given_up: Arc<AtomicU32>,
) {
    let begun = Instant::now();
    let request = Box::new(request.map(|recv| if recv.is_end_stream() { Body::empty() } else { Body::h2(recv) }));
    // Each stream holds the handler, and so does the connection.
    let caller = H2Caller::new(respond, Arc::strong_count(&handler) - 1);
    if request.headers().len() > limits.fields {
        let detail = format!("more than {} header fields", limits.fields);
        let mut answer_of_ours = handler.refuse(answer::Reason::BadRequest, request.headers(), &detail);
        *answer_of_ours.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        drop(request);
        let _ = answer(&caller, answer_of_ours, &limits.queue, limits.patience).await;
        return;
    }
    let outcome = tokio::select! {
        // First: what nobody waits for any more is not even begun.
        biased;
        () = poll_fn(|cx| caller.poll_reset(cx)) => {
            given_up.fetch_add(u32::from(begun.elapsed() < Hurry::AT_ONCE), Ordering::Relaxed);
            return;
        }
        outcome = handler.handle(request, Caller::H2(Arc::clone(&caller))) => outcome,
    };
    match outcome {
        Ok(response) => {
            if let Err(TooSlow) = answer(&caller, response, &limits.queue, limits.patience).await {
                handler.too_slow();
            }
        }
        Err(Abort(reason)) => caller.lock().send_reset(reason),
    }
}

async fn answer(caller: &H2Caller, response: Response<Body>, queue: &Queue, patience: Duration) -> Result<(), TooSlow> {
    let (mut parts, body) = response.into_parts();
    super::headers::strip_hop_by_hop(&mut parts.headers);
    let end = body.is_end_stream();
    let sent = caller.lock().send_response(Response::from_parts(parts, ()), end);
    match sent {
        Ok(mut stream) if !end => {
            return pump::pump(&mut stream, body, queue, Some(patience)).await;
        }
        Ok(_) => {}
        // The caller is gone, or the response has no HTTP/2 form.
        Err(error) => {
            tracing::debug!(%error, "response not sent");
            caller.lock().send_reset(Reason::INTERNAL_ERROR);
        }
    }
    Ok(())
}

/// A CONNECT stream that waits for its answer.
#[derive(Debug)]
pub struct Tunnel {
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    patience: Duration,
}

impl Tunnel {
    /// The CONNECT request.
    pub fn request(&self) -> &Request<RecvStream> {
        &self.request
    }

    /// Agrees: the stream carries bytes from now on. `None` when the caller is gone.
    pub fn accept(mut self) -> Option<Stream> {
        let send = self.respond.send_response(Response::new(()), false).ok()?;
        Some(H2Io::new(send, self.request.into_body()).into())
    }

    /// Declines.
    pub async fn refuse(self, response: Response<Body>) {
        let caller = H2Caller::new(self.respond, 1);
        // A reason is short: there is hardly anything to wait with.
        let _ = answer(&caller, response, &Queue::default(), self.patience).await;
    }
}
