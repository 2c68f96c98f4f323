//! The server below gRPC: each connection is HTTP/2 with limits, and its end is counted when it was the peer's doing.
//!
//! Invariant: a connection costs a bounded amount, and asks for something in time or ends. Non-goal: what is asked for, which is
//! `service`'s; handshakes, which `mesh_mtls::grpc::Incoming` does.

use std::convert::Infallible;
use std::error::Error as _;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use futures_util::StreamExt as _;
use http::{Request, Response};
use hyper::body::Incoming as Body;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_kit::shutdown::Shutdown;
use mesh_mtls::abuse;
use mesh_mtls::dial;
use mesh_mtls::grpc::{Connection, Incoming};
use mesh_proto::identity::identity_server::IdentityServer;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::codegen::Service as _;

use crate::connections::Places;
use crate::metrics::Metrics;
use crate::service::Service;

/// Requests of one connection at a time. A caller has two: its certificate, and the trust bundle.
const STREAMS: u32 = 4;
/// Bytes on the way in, of a stream and of a connection.
const WINDOW: u32 = 65_535;
/// Bytes of a request's headers.
const HEADER_LIMIT: u32 = 16 * 1024;
/// From a request's headers to its answer's.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// From the handshake to the first request's headers.
const ASK_WITHIN: Duration = Duration::from_secs(10);

/// What serves connections. Clones share everything.
#[derive(Clone)]
pub struct Server {
    /// Answers requests.
    pub service: IdentityServer<Service>,
    /// How many connections there may be.
    pub places: Places,
    /// Counters.
    pub metrics: Metrics,
    /// Ends all of it.
    pub shutdown: Shutdown,
}

impl Server {
    /// Takes connections until the end is asked for, and waits for the last one's.
    pub async fn serve(self, mut incoming: Incoming) {
        let mut connections = JoinSet::new();
        let shutdown = self.shutdown.clone();
        let mut shutdown = pin!(shutdown.requested());
        loop {
            tokio::select! {
                Some(Ok(connection)) = incoming.next() => self.admit(connection, &mut connections),
                // Connections do not fail.
                Some(_) = connections.join_next() => {}
                () = &mut shutdown => break,
            }
        }
        drop(incoming);
        while connections.join_next().await.is_some() {}
    }

    fn admit(&self, connection: Connection, connections: &mut JoinSet<()>) {
        let addr = connection.peer().addr;
        match self.places.enter(addr.ip().into()) {
            Ok(place) => {
                let (server, counted) = (self.clone(), self.metrics.connection());
                connections.spawn(async move {
                    server.serve_one(connection).await;
                    drop((place, counted));
                });
            }
            Err(full) => self.refused(addr, full.word()),
        }
    }

    fn refused(&self, addr: SocketAddr, reason: &'static str) {
        tracing::warn!(%addr, reason, "connection refused");
        self.metrics.connection_refused(reason);
    }

    /// One connection, to its end.
    async fn serve_one(self, connection: Connection) {
        let (tls, peer) = connection.into_parts();
        let (addr, asked) = (peer.addr, Arc::new(AtomicBool::new(false)));
        let service = service_fn(|mut request: Request<Body>| {
            asked.store(true, Relaxed);
            request.extensions_mut().insert(peer.clone());
            // Always ready.
            let answer = self.service.clone().call(request);
            async { Ok::<_, Infallible>(timeout(REQUEST_TIMEOUT, answer).await.map_or_else(|_| too_late(), settled)) }
        });
        let mut connection = pin!(builder().serve_connection(TokioIo::new(tls), service));
        let mut ask_by = pin!(sleep(ASK_WITHIN));
        let mut shutdown = pin!(self.shutdown.requested());
        let (mut waits, mut drains) = (true, false);
        loop {
            tokio::select! {
                ended = &mut connection => return ended.unwrap_or_else(|error| self.broken(addr, &error)),
                () = &mut ask_by, if waits => {
                    waits = false;
                    if !asked.load(Relaxed) {
                        return self.refused(addr, "no_stream");
                    }
                }
                () = &mut shutdown, if !drains => {
                    drains = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }

    /// Counts an end that was the peer's doing.
    fn broken(&self, addr: SocketAddr, error: &hyper::Error) {
        let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
        match cause.and_then(abuse::reason) {
            Some(reason) => {
                self.metrics.http2_abuse(reason);
                tracing::warn!(%addr, reason, %error, "HTTP/2 connection of a caller ended");
            }
            None => tracing::debug!(%addr, %error, "connection broken"),
        }
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(HEADER_LIMIT)
        .keep_alive_interval(dial::PING_INTERVAL)
        .keep_alive_timeout(dial::PING_TIMEOUT);
    builder
}

fn too_late() -> Response<tonic::body::Body> {
    Status::deadline_exceeded("no answer in time").into_http()
}

fn settled<T>(answer: Result<T, Infallible>) -> T {
    match answer {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}
