//! The discovery service: one stream per proxy, over mutual TLS.
//!
//! Read in this order: `wire` (messages), `pace` (how often), `session` (what a stream asked for and was told),
//! `stream` (the task that drives one), `connection` (limits, and the end of those who do not read), `codec`.
//!
//! Invariant: a proxy costs a bounded amount, whatever it sends or does not read: subscriptions, streams, connections and
//! waits have limits, and what waits to be sent is a mark. An index that is not whole answers nobody.
//! Non-goal: authorizing what a proxy may ask; addresses of endpoints are no secret within the mesh, and an inbound policy
//! is given by proven identity only.

mod codec;
mod connection;
mod pace;
mod session;
mod stream;
#[cfg(test)]
mod tests;
mod wire;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use mesh_kit::shutdown::Shutdown;
use mesh_proto::discovery::WatchRequest;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Status, Streaming};

use codec::{Codec, Update};
pub use connection::{Admission, Client, Guarded};
use session::Session;

use crate::index::{Completeness, Index};
use crate::metrics::Service as Metrics;

/// The one method.
const WATCH: &str = "/mesh.discovery.v1.Discovery/Watch";

/// Why nobody is told anything, so that a proxy keeps what it has and asks again.
const NOT_LOADED: &str = "not all manifests could be read since the start; the log of destination says which";

/// What a proxy may cost, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Between two snapshots of one subscription.
    pub interval: Duration,
    /// From the first byte to Hello, and from the handshake to the first stream.
    pub hello_within: Duration,
    /// A proxy that has not taken what waits for it within this time is disconnected.
    pub stall: Duration,
    /// Subscriptions of one stream.
    pub subscriptions: usize,
    /// Addresses in one Hello.
    pub addresses: usize,
    /// Streams of one connection at a time; a proxy needs one.
    pub streams: u32,
    /// Connections of all proxies.
    pub connections: usize,
    /// Connections from one address.
    pub connections_per_address: usize,
    /// The longest request, in bytes.
    pub request: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(100),
            hello_within: Duration::from_secs(10),
            stall: Duration::from_secs(10),
            subscriptions: 10_000,
            addresses: 64,
            streams: 8,
            connections: 10_000,
            connections_per_address: 2_048,
            request: 16 * 1024,
        }
    }
}

/// The gRPC service. Clones share everything.
#[derive(Clone, Debug)]
pub struct Discovery {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    index: Arc<Mutex<Index>>,
    metrics: Metrics,
    shutdown: Shutdown,
}

impl Discovery {
    /// Serves snapshots of `index` until `shutdown`.
    pub fn new(settings: Settings, index: Arc<Mutex<Index>>, metrics: Metrics, shutdown: Shutdown) -> Self {
        let shared = Shared { settings, index, metrics, shutdown };
        Self { shared: Arc::new(shared) }
    }

    /// The limits that a server of this service is to have beside its own.
    pub fn limit(&self, server: tonic::transport::Server) -> tonic::transport::Server {
        const WINDOW: u32 = 65_535;
        const HEADERS: u32 = 16 * 1024;
        server
            .max_concurrent_streams(self.shared.settings.streams)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(2 * WINDOW)
            .http2_max_header_list_size(HEADERS)
    }
}

impl NamedService for Discovery {
    const NAME: &'static str = "mesh.discovery.v1.Discovery";
}

impl<B> Service<http::Request<B>> for Discovery
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            if request.uri().path() != WATCH {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            let longest = Some(shared.settings.request);
            let mut grpc = Grpc::new(Codec).apply_max_message_size_config(longest, None);
            Ok(grpc.streaming(Watch(shared), request).await)
        })
    }
}

struct Watch(Arc<Shared>);

impl StreamingService<WatchRequest> for Watch {
    type Response = Update;
    type ResponseStream = ReceiverStream<Result<Update, Status>>;
    type Future = std::future::Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<WatchRequest>>) -> Self::Future {
        std::future::ready(self.open(request).map_err(|error| *error))
    }
}

impl Watch {
    /// Answers at once; a task of its own does the rest, so that it goes on when nobody reads.
    fn open(
        &self,
        request: tonic::Request<Streaming<WatchRequest>>,
    ) -> Result<tonic::Response<ReceiverStream<Result<Update, Status>>>, Box<Status>> {
        let client = request.extensions().get::<Client>().cloned();
        let Some((client, id)) = client.and_then(|client| client.id.clone().map(|id| (client, id))) else {
            return Err(Box::new(Status::unauthenticated("no certificate")));
        };
        client.lifeline.greeted();
        let shared = &self.0;
        let completeness = shared.index.lock().unwrap_or_else(PoisonError::into_inner).completeness();
        if completeness == Completeness::Partial {
            let _open = shared.metrics.stream();
            shared.metrics.ended("not_loaded");
            return Err(Box::new(Status::unavailable(NOT_LOADED)));
        }
        let session = Session::new(shared.settings, Arc::clone(&shared.index), shared.metrics.clone(), id);
        let (updates, response) = mpsc::channel(1);
        let stream = stream::Stream {
            session,
            requests: request.into_inner(),
            updates,
            client,
            metrics: shared.metrics.clone(),
            settings: shared.settings,
            shutdown: shared.shutdown.clone(),
        };
        tokio::spawn(stream.run());
        Ok(tonic::Response::new(ReceiverStream::new(response)))
    }
}
