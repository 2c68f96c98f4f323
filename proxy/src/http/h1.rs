//! Serves HTTP/1.0 and HTTP/1.1 connections, through hyper.
//!
//! Invariant: a response that breaks off closes its connection with RST, so that a body framed by the end of the connection
//! cannot be taken for whole. While the proxy drains, each response says `connection: close`. A connection without a request
//! is parked: taken apart until only the socket is left, and put together again when bytes come.

use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{CONNECTION, EXPECT, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use mesh_kit::pressure::{Holder, Level};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, Sleep};

use super::answer::Reason;
use super::body::Body;
use super::caller::Caller;
use super::framing::Bad;
use super::h1_io::{HeadClock, ServerIo, Shared};
use super::h1_wait::{Due, Wait};
use super::{BoxedRequest, Handler, Settings, headers, upgrade};
use crate::net::{Drain, Stream};

/// Why a served connection ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Between messages, by either side.
    Cleanly,
    /// The client sent something that is not HTTP/1, or too large.
    BadRequest,
    /// The client did not send what it began, or did not take what it asked for, in time.
    TooSlow,
    /// In the middle of an exchange.
    Cut,
}

/// A connection whose requests follow each other sooner is not parked between them.
const BUSY: Duration = Duration::from_secs(1);

/// Serves `stream` until either side ends it.
pub async fn serve(mut stream: Stream, settings: &Settings, mut drain: Drain, handler: Arc<impl Handler>) -> Ended {
    let mut patience = Duration::ZERO;
    loop {
        if stream.seen().is_empty() {
            let parked = Instant::now();
            let bytes = tokio::select! {
                read = tokio::time::timeout(settings.idle_timeout, stream.fill()) => read,
                () = last_call(&mut drain, settings) => return Ended::Cleanly,
            };
            match bytes {
                Ok(Ok(1..)) => {}
                Ok(Err(_)) => return Ended::Cut,
                Ok(Ok(0)) | Err(_) => return Ended::Cleanly,
            }
            patience = if parked.elapsed() < BUSY { BUSY } else { Duration::ZERO };
        }
        // Boxed: what serves requests is large, and parked connections shall not have room for it.
        match Box::pin(serve_requests(stream, settings, patience, drain.clone(), Arc::clone(&handler))).await {
            Turn::Ended(ended) => return ended,
            Turn::Parked(parked) => stream = parked,
        }
    }
}

/// How the service of a connection pauses or ends.
enum Turn {
    Parked(Stream),
    Ended(Ended),
}

/// Why hyper's connection is not polled any more.
enum Stop {
    Done(hyper::Result<()>),
    Due(Due),
}

/// Serves requests until the connection ends, or has none for as long as `patience`.
async fn serve_requests(
    stream: Stream,
    settings: &Settings,
    patience: Duration,
    mut drain: Drain,
    handler: Arc<impl Handler>,
) -> Turn {
    let io = ServerIo::new(stream);
    let shared = io.shared();
    let draining = drain.clone();
    let service = service_fn(|request: Request<Incoming>| {
        shared.asked();
        let caller = if request.version() == Version::HTTP_11 { Caller::H1(Arc::clone(&shared)) } else { Caller::Deaf };
        let handler = Arc::clone(&handler);
        let draining = draining.clone();
        let shared = Arc::clone(&shared);
        let leaving = headers::leaves_http(&request).then(|| request.method().clone());
        let unasked = request.headers().contains_key(EXPECT) && !http_body::Body::is_end_stream(request.body());
        let request = watch_body(request, &shared);
        async move {
            let answer = handler.handle(request, caller).await;
            shared.answering();
            if leaving.is_some_and(|method| !answer.as_ref().is_ok_and(|answer| upgrade::is_agreed(&method, answer))) {
                shared.declined();
            }
            // The client will not send a body that nobody has asked for, or sends it in vain: neither way can the
            // connection go on.
            let unasked = unasked && !shared.body_was_asked();
            answer.map(|response| close_if(response, unasked || draining.is_draining())).map_err(|_| Cut)
        }
    });
    let mut connection =
        builder(settings, HeadClock::new(Arc::clone(&shared))).serve_connection(io, service).with_upgrades();
    let stop = {
        let mut last_call = pin!(last_call(&mut drain, settings));
        let mut called = false;
        let mut timer = pin!(tokio::time::sleep(patience));
        let mut wait = Wait::new(patience, settings.head_timeout, settings.stall_timeout);
        let mut holder = Holder::default();
        poll_fn(|cx| {
            if !called && last_call.as_mut().poll(cx).is_ready() {
                called = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Stop::Done(result));
            }
            if shared.is_stuck() && holder.look(cx) == Level::Critical {
                return Poll::Ready(Stop::Due(Due::TooSlow));
            }
            poll_wait(&mut wait, timer.as_mut(), &shared, cx).map(Stop::Due)
        })
        .await
    };
    match stop {
        Stop::Due(Due::Park) => match connection.into_parts() {
            Some(parts) => Turn::Parked(parts.io.into_inner().0.unread(&parts.read_buf)),
            None => Turn::Ended(Ended::Cleanly),
        },
        Stop::Due(_) => Turn::Ended(too_slow(connection.into_parts().map(|parts| parts.io)).await),
        Stop::Done(result) => {
            let io = connection.into_parts().map(|parts| parts.io);
            Turn::Ended(match (shared.unanswered(), result) {
                (Some((bad, in_body)), result) if bad != Bad::Cut => refuse(io, bad, in_body, result.is_err()).await,
                (_, Ok(())) => Ended::Cleanly,
                (_, Err(error)) => end(io, &error).await,
            })
        }
    }
}

fn builder(settings: &Settings, clock: HeadClock) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(clock)
        .header_read_timeout(settings.head_timeout)
        .max_buf_size(settings.max_head)
        .max_header_size(settings.max_head)
        .max_headers(settings.max_headers)
        .auto_date_header(false)
        // A client that has sent all it has to say may end its direction and still wait for the answer.
        .half_close(true);
    builder
}

/// Ready when the connection shall be parked, or its client is too slow.
fn poll_wait(wait: &mut Wait, mut timer: Pin<&mut Sleep>, shared: &Shared, cx: &mut Context<'_>) -> Poll<Due> {
    loop {
        let (phase, turn) = shared.phase();
        if wait.is_over(phase) {
            return Poll::Ready(Due::Park);
        }
        if let Some(pause) = wait.set(phase, turn) {
            timer.as_mut().reset(Instant::now() + pause);
        }
        if !wait.is_set() {
            return Poll::Pending;
        }
        ready!(timer.as_mut().poll(cx));
        match wait.run_out(phase, turn) {
            Due::Nothing => {}
            due => return Poll::Ready(due),
        }
    }
}

/// The end of a connection whose bytes must not be read on.
async fn refuse(io: Option<ServerIo>, bad: Bad, in_body: bool, cut: bool) -> Ended {
    if let Some(io) = io {
        let (mut stream, _) = io.into_inner();
        if !in_body {
            tracing::info!(reason = Reason::BadRequest.word(), detail = %bad, "answered by the mesh");
            tell(&mut stream, Reason::BadRequest, StatusCode::BAD_REQUEST, &bad.to_string()).await;
        } else if cut {
            stream.abort();
        }
    }
    Ended::BadRequest
}

/// The end of a connection on which hyper gave up.
async fn end(io: Option<ServerIo>, error: &hyper::Error) -> Ended {
    tracing::debug!(error = %describe(error), "HTTP/1 connection ended early");
    let bad_request = error.is_parse() || error.is_timeout();
    if let Some(io) = io {
        let (mut stream, refused) = io.into_inner();
        if let Some(status) = refused {
            let (reason, detail) = (Reason::BadRequest, describe(error));
            tracing::info!(reason = reason.word(), %detail, "answered by the mesh");
            tell(&mut stream, reason, status, &detail).await;
        } else if !bad_request {
            stream.abort();
        }
    }
    if bad_request { Ended::BadRequest } else { Ended::Cut }
}

/// The end of a connection whose client was too slow: an answer if none has begun, else a break.
async fn too_slow(io: Option<ServerIo>) -> Ended {
    if let Some(io) = io {
        let answered = io.has_answered();
        let (mut stream, _) = io.into_inner();
        if answered {
            stream.abort();
        } else {
            let reason = Reason::TooSlow;
            tell(&mut stream, reason, reason.status(), "the request did not come in time").await;
        }
    }
    Ended::TooSlow
}

/// Says why a request has no other answer, as all our answers do. The client may be gone; then there is nobody to tell.
async fn tell(stream: &mut Stream, reason: Reason, status: StatusCode, detail: &str) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let answer = reason.raw(status, detail);
    let told = async {
        stream.write_all(&answer).await?;
        stream.shutdown().await
    };
    let _ = tokio::time::timeout(PATIENCE, told).await;
}

/// It matters whether anybody asks for a body (with `expect: 100-continue`), and whether it is waited for.
fn watch_body(request: Request<Incoming>, shared: &Arc<Shared>) -> BoxedRequest {
    let has_ended = http_body::Body::is_end_stream(request.body());
    let request = request.map(|body| Body::h1(body, None));
    Box::new(if has_ended { request } else { request.map(|body| body.watched(Arc::clone(shared))) })
}

/// When idle connections must go: some time after the drain has begun, so that a request that is on its way still arrives.
async fn last_call(drain: &mut Drain, settings: &Settings) {
    drain.started().await;
    tokio::time::sleep(settings.drain_linger).await;
}

fn close_if(mut response: Response<Body>, close: bool) -> Response<Body> {
    if close && !response.status().is_informational() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[derive(Debug, thiserror::Error)]
#[error("exchange cut off")]
struct Cut;

/// hyper's error with its causes, for humans.
pub fn describe(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
pub(crate) mod tests;
