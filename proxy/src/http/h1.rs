//! Serves HTTP/1.0 and HTTP/1.1 connections, through hyper.
//!
//! Invariant: a response that breaks off closes its connection with RST, so that a body framed by the end of the connection
//! cannot be taken for whole. While the proxy drains, each response says `connection: close`.

use std::error::Error;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{CONNECTION, EXPECT, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::AsyncWriteExt;

use super::answer::Reason;
use super::body::Body;
use super::caller::Caller;
use super::h1_io::{HeadTimer, ServerIo};
use super::{Handler, Settings};
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

/// Serves `stream` until either side ends it.
pub async fn serve(stream: Stream, settings: &Settings, mut drain: Drain, handler: Arc<impl Handler>) -> Ended {
    let io = ServerIo::new(stream);
    let shared = io.shared();
    let draining = drain.clone();
    let service = service_fn(|request: Request<Incoming>| {
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
    let mut connection = http1::Builder::new()
        .timer(HeadTimer { shared: Arc::clone(&shared), idle: settings.idle_timeout })
        .header_read_timeout(settings.head_timeout)
        .max_buf_size(settings.max_head)
        .max_headers(settings.max_headers)
        .auto_date_header(false)
        // A client that has sent all it has to say may end its direction and still wait for the answer.
        .half_close(true)
        .serve_connection(io, service)
        .with_upgrades();
    let result = tokio::select! {
        result = poll_fn(|cx| Pin::new(&mut connection).poll(cx)) => result,
        () = last_call(&mut drain, settings) => {
            Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|cx| Pin::new(&mut connection).poll(cx)).await
        }
    };
    let Err(error) = result else { return Ended::Cleanly };
    tracing::debug!(error = %describe(&error), "HTTP/1 connection ended early");
    let bad_request = error.is_parse() || error.is_timeout();
    if let Some(parts) = connection.into_parts() {
        let (mut stream, refused) = parts.io.into_inner();
        if let Some(status) = refused {
            tell(&mut stream, status, &describe(&error)).await;
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
fn await_body_if_expecting(request: Request<Incoming>) -> (Request<Body>, Option<Arc<AtomicBool>>) {
    let expects = request.headers().contains_key(EXPECT) && !http_body::Body::is_end_stream(request.body());
    let request = request.map(|body| Body::h1(body, None));
    if !expects {
        return (request, None);
    }
    let asked = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&asked);
    (request.map(|body| body.awaited(flag)), Some(asked))
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
