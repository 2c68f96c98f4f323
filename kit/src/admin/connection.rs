//! One admin connection.
//!
//! Invariant: it ends when its first head is not there in [`HEAD`], and when nothing was asked for [`IDLE`], even in
//! the middle of an answer that nobody reads. Non-goal: finishing answers at shutdown.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Admin, answer};

const HEAD: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);
/// Bytes of a request's head, and of what is read ahead of it.
const HEAD_LIMIT: usize = 8 * 1024;
const HEADERS: usize = 64;
/// Bytes of a request's body; only `/log-level` reads one.
const BODY_LIMIT: usize = 1024;

pub(super) async fn serve(admin: Arc<Admin>, stream: TcpStream, peer: SocketAddr) {
    let deadline = Mutex::new(Instant::now() + HEAD);
    let service = service_fn(|request| {
        let (admin, deadline) = (Arc::clone(&admin), &deadline);
        async move {
            *deadline.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + IDLE;
            Ok::<_, Infallible>(respond(&admin, request, peer).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(HEAD_LIMIT)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let read_deadline = || *deadline.lock().unwrap_or_else(PoisonError::into_inner);
    let expired = async {
        while Instant::now() < read_deadline() {
            sleep_until(read_deadline()).await;
        }
    };
    tokio::select! {
        // What a peer does wrong is answered by hyper where it can be, and is no news.
        _ = connection => {}
        () = expired => {}
    }
}

async fn respond(admin: &Admin, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
    let call = match answer::route(admin, &request, peer) {
        Ok(call) => call,
        Err(refusal) => return refusal,
    };
    let body = match call.wants_body() {
        true => match timeout(HEAD, Limited::new(request.into_body(), BODY_LIMIT).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => return answer::text(StatusCode::PAYLOAD_TOO_LARGE, "too long\n"),
            Err(_) => return answer::text(StatusCode::REQUEST_TIMEOUT, "too slow\n"),
        },
        false => Bytes::new(),
    };
    answer::give(admin, call, &body)
}
