//! A destination whose every word a test says itself.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, stream};
use hyper_util::rt::TokioIo;
use mesh_proto::discovery as wire;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use wire::discovery_server::{self, DiscoveryServer};
use wire::watch_request::Kind;
use wire::watch_response::Snapshot;

use super::SOON;

/// In-memory pipes from clients, and the streams that they open.
pub(super) struct Destination {
    pipes: mpsc::Sender<DuplexStream>,
    pub(super) streams: mpsc::Receiver<Session>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Destination {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The server's end of one stream. Dropping it ends the stream.
pub(super) struct Session {
    /// Who opened it, where TLS says so.
    pub(super) peer: Option<mesh_mtls::grpc::Peer>,
    requests: Streaming<wire::WatchRequest>,
    updates: mpsc::Sender<Result<wire::WatchResponse, Status>>,
}

/// The service that hands each stream to the test.
pub(super) struct Service(mpsc::Sender<Session>);

impl Service {
    pub(super) fn new() -> (DiscoveryServer<Service>, mpsc::Receiver<Session>) {
        let (sessions, streams) = mpsc::channel(8);
        (DiscoveryServer::new(Service(sessions)), streams)
    }
}

#[tonic::async_trait]
impl discovery_server::Discovery for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<wire::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let peer = request.extensions().get::<mesh_mtls::grpc::Peer>().cloned();
        let (updates, mut queue) = mpsc::channel(8);
        let session = Session { peer, requests: request.into_inner(), updates };
        self.0.send(session).await.map_err(|_| Status::unavailable("the test has ended"))?;
        Ok(Response::new(Box::pin(stream::poll_fn(move |context| queue.poll_recv(context)))))
    }
}

impl Destination {
    pub(super) fn start() -> Self {
        let (service, streams) = Service::new();
        let (pipes, mut accepted) = mpsc::channel::<DuplexStream>(8);
        let incoming =
            stream::poll_fn(move |context| accepted.poll_recv(context).map(|pipe| pipe.map(Ok::<_, std::io::Error>)));
        let server = Server::builder().add_service(service).serve_with_incoming(incoming);
        let server = tokio::spawn(async move { server.await.expect("the server runs") });
        Destination { pipes, streams, server }
    }

    /// A channel whose connections are pipes to this server.
    pub(super) fn channel(&self) -> Channel {
        let pipes = self.pipes.clone();
        Endpoint::from_static("http://destination").connect_with_connector_lazy(tower::service_fn(move |_| {
            let pipes = pipes.clone();
            async move {
                let (ours, theirs) = tokio::io::duplex(64 * 1024);
                pipes.send(theirs).await.map_err(|_| std::io::ErrorKind::ConnectionRefused)?;
                Ok::<_, std::io::Error>(TokioIo::new(ours))
            }
        }))
    }

    /// One that accepts connections and never says a word.
    pub(super) fn deaf() -> Self {
        let (_, streams) = Service::new();
        let (pipes, mut accepted) = mpsc::channel::<DuplexStream>(8);
        let server = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Some(pipe) = accepted.recv().await {
                held.push(pipe);
            }
        });
        Destination { pipes, streams, server }
    }

    /// The next stream, its Hello read and checked.
    pub(super) async fn session(&mut self) -> Session {
        let mut session = timeout(SOON, self.streams.recv()).await.expect("no stream was opened").expect("the service");
        session.hello().await;
        session
    }
}

impl Session {
    async fn hello(&mut self) {
        match self.request().await {
            Kind::Hello(hello) => assert_eq!(hello, super::hello().into()),
            other => panic!("{other:?} before Hello"),
        }
    }

    /// The next request.
    pub(super) async fn request(&mut self) -> Kind {
        let request = timeout(SOON, self.requests.message()).await.expect("no request came");
        request.expect("an open stream").expect("an open stream").kind.expect("a kind")
    }

    /// The next request must be a subscription.
    pub(super) async fn subscribed(&mut self) -> (u64, wire::resource::Kind) {
        match self.request().await {
            Kind::Subscribe(wire::Subscribe { id, resource }) => {
                (id, resource.expect("a resource").kind.expect("a kind"))
            }
            other => panic!("{other:?} instead of a subscription"),
        }
    }

    /// The next request must be an acknowledgement: its id, version and error.
    pub(super) async fn ack(&mut self) -> (u64, u64, String) {
        match self.request().await {
            Kind::Ack(ack) => (ack.id, ack.version, ack.error),
            other => panic!("{other:?} instead of an acknowledgement"),
        }
    }

    /// Nothing is said for a while; on a paused clock, not before everything has come to rest.
    pub(super) async fn is_silent(&mut self) {
        let request = timeout(Duration::from_millis(10), self.requests.message()).await;
        assert!(request.is_err(), "unexpected {request:?}");
    }

    pub(super) async fn send(&self, id: u64, version: u64, snapshot: impl Into<Option<Snapshot>>) {
        let update = wire::WatchResponse { id, version, snapshot: snapshot.into() };
        self.updates.send(Ok(update)).await.expect("an open stream");
    }

    pub(super) async fn fail(self, status: Status) {
        self.updates.send(Err(status)).await.expect("an open stream");
    }
}

pub(super) fn outbound(addr: SocketAddr) -> wire::resource::Kind {
    let ip = crate::control::ledger::octets(addr.ip()).into();
    wire::resource::Kind::Outbound(wire::SocketAddress { ip, port: addr.port().into() })
}
