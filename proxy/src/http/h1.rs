//! Serves HTTP/1.0 and HTTP/1.1 connections, through hyper.
//!
//! Invariant: a response that breaks off closes its connection with RST, so that a body framed by the end of the connection
//! cannot be taken for whole. While the proxy drains, each response says `connection: close`. A connection without a request
//! is parked: taken apart until only the socket is left, and put together again when bytes come.

use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{CONNECTION, EXPECT, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, Sleep};

use super::answer::Reason;
use super::body::Body;
use super::caller::Caller;
use super::h1_io::{HeadClock, ServerIo, Shared};
use super::h1_wait::{Due, Wait};
use super::{BoxedRequest, Handler, Settings};
use crate::net::{Drain, Stream};

/// Why a served connection ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Between messages, by either side.
    Cleanly,
    /// The client sent something that is not HTTP/1, too large, or too slowly.
    BadRequest,
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
        let (request, asked) = await_body_if_expecting(request);
        async move {
            let answer = handler.handle(request, caller).await;
            shared.answering();
            // The client will not send a body that nobody has asked for, or sends it in vain: neither way can the
            // connection go on.
            let unasked = asked.is_some_and(|asked| !asked.load(Ordering::Relaxed));
            answer.map(|response| close_if(response, unasked || draining.is_draining())).map_err(|_| Cut)
        }
    });
    let mut connection =
        builder(settings, HeadClock::new(Arc::clone(&shared))).serve_connection(io, service).with_upgrades();
    let stop = {
        let mut last_call = pin!(last_call(&mut drain, settings));
        let mut called = false;
        let mut timer = pin!(tokio::time::sleep(patience));
        let mut wait = Wait::new(patience, settings.head_timeout);
        poll_fn(|cx| {
            if !called && last_call.as_mut().poll(cx).is_ready() {
                called = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Stop::Done(result));
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
        Stop::Due(_) => Turn::Ended(Ended::BadRequest),
        Stop::Done(Ok(())) => Turn::Ended(Ended::Cleanly),
        Stop::Done(Err(error)) => {
            tracing::debug!(error = %describe(&error), "HTTP/1 connection ended early");
            let io = connection.into_parts().map(|parts| parts.io);
            Turn::Ended(end(io, &error).await)
        }
    }
}

fn builder(settings: &Settings, clock: HeadClock) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(clock)
        .header_read_timeout(settings.head_timeout)
        .max_buf_size(settings.max_head)
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

/// The end of a connection on which hyper gave up.
async fn end(io: Option<ServerIo>, error: &hyper::Error) -> Ended {
    let bad_request = error.is_parse() || error.is_timeout();
    if let Some(io) = io {
        let (mut stream, refused) = io.into_inner();
        if let Some(status) = refused {
            tell(&mut stream, status, &describe(error)).await;
        } else if !bad_request {
            stream.abort();
        }
    }
    if bad_request { Ended::BadRequest } else { Ended::Cut }
}

/// Says why a request was not understood, as all our answers do. The client may be gone; then there is nobody to tell.
async fn tell(stream: &mut Stream, status: StatusCode, detail: &str) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let answer = Reason::BadRequest.raw(status, detail);
    let told = async {
        stream.write_all(&answer).await?;
        stream.shutdown().await
    };
    let _ = tokio::time::timeout(PATIENCE, told).await;
}

/// With `expect: 100-continue` it matters whether anybody asks for the body.
fn await_body_if_expecting(request: Request<Incoming>) -> (BoxedRequest, Option<Arc<AtomicBool>>) {
    let expects = request.headers().contains_key(EXPECT) && !http_body::Body::is_end_stream(request.body());
    if !expects {
        return (Box::new(request.map(|body| Body::h1(body, None))), None);
    }
    let asked = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&asked);
    (Box::new(request.map(|body| Body::h1(body, None).awaited(flag))), Some(asked))
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
