//! A control plane that has a certificate of the mesh and has gone mad: it answers as it should until it is told to say
//! something else.
//!
//! Invariant: real mutual TLS and gRPC; what is said is the test's. Non-goal: more than one sidecar that listens to it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, mpsc as sync_mpsc};

use mesh_mtls::credentials::Credentials;
use mesh_mtls::grpc;
use mesh_mtls::tls::{Acceptor, ClientAuth};
use mesh_proto::discovery as wire;
use mesh_tests::netns::Host;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::discovery_server::{self, DiscoveryServer};
use wire::watch_request::Kind;
use wire::watch_response::Snapshot;

/// What a snapshot is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum About {
    Outbound,
    Endpoints,
    Inbound,
}

/// What it says while it is sane: where everything leads.
pub(crate) struct Sane {
    pub(crate) endpoint: wire::Endpoint,
}

/// The server, for as long as the test lives.
pub(crate) struct Liar {
    says: mpsc::Sender<(About, Option<Snapshot>)>,
    hears: sync_mpsc::Receiver<String>,
}

struct Service {
    sane: Arc<Sane>,
    says: Says,
    hears: sync_mpsc::SyncSender<String>,
}

type Says = Arc<Mutex<mpsc::Receiver<(About, Option<Snapshot>)>>>;

/// An address on the wire.
pub(crate) fn address(ip: impl Into<IpAddr>, port: u32) -> wire::SocketAddress {
    let ip = match ip.into() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    wire::SocketAddress { ip: ip.into(), port }
}

impl Liar {
    /// Listens on `addr` of `host` with a certificate of its own.
    pub(crate) fn start(host: &Host, addr: SocketAddr, credentials: Credentials, sane: Sane) -> Self {
        let ((says, said), (heard, hears)) = (mpsc::channel(4), sync_mpsc::sync_channel(1024));
        let service = Service { sane: Arc::new(sane), says: Arc::new(Mutex::new(said)), hears: heard };
        host.run_in_thread(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime in a test").block_on(async {
                let listener = tokio::net::TcpListener::bind(addr).await.expect("a free port");
                let incoming = grpc::incoming(listener, Acceptor::new(credentials, ClientAuth::Required, grpc::ALPN));
                let server = grpc::server().add_service(DiscoveryServer::new(service));
                server.serve_with_incoming(incoming).await.expect("a server that runs");
            });
        });
        Self { says, hears }
    }

    /// Says something in the place of what it said last.
    pub(crate) fn say(&self, about: About, snapshot: Option<Snapshot>) {
        self.says.blocking_send((about, snapshot)).expect("the server runs");
    }

    /// The next refusal that a proxy has answered with.
    pub(crate) fn refusal(&self) -> String {
        self.hears.recv_timeout(mesh_tests::mesh::SOON).expect("a refusal in time")
    }
}

#[tonic::async_trait]
impl discovery_server::Discovery for Service {
    type WatchStream = ReceiverStream<Result<wire::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<wire::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (updates, queue) = mpsc::channel(16);
        let (sane, says, hears) = (Arc::clone(&self.sane), Arc::clone(&self.says), self.hears.clone());
        tokio::spawn(converse(sane, says, hears, request.into_inner(), updates));
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

/// One stream.
async fn converse(
    sane: Arc<Sane>,
    says: Says,
    hears: sync_mpsc::SyncSender<String>,
    mut requests: Streaming<wire::WatchRequest>,
    updates: mpsc::Sender<Result<wire::WatchResponse, Status>>,
) {
    let (mut ids, mut version) = (BTreeMap::new(), 0);
    let mut says = says.lock().await;
    loop {
        version += 1;
        let update = tokio::select! {
            request = requests.message() => match request {
                Ok(Some(wire::WatchRequest { kind: Some(Kind::Subscribe(wire::Subscribe { id, resource })) })) => {
                    let Some((about, snapshot)) = resource.and_then(|it| it.kind).map(|it| sane.answer(&it)) else { return };
                    ids.insert(about, id);
                    wire::WatchResponse { id, version, snapshot: Some(snapshot) }
                }
                Ok(Some(wire::WatchRequest { kind: Some(Kind::Ack(ack)) })) => {
                    if !ack.error.is_empty() {
                        // The test may have heard enough.
                        drop(hears.try_send(ack.error));
                    }
                    continue;
                }
                Ok(Some(_)) => continue,
                Ok(None) | Err(_) => return,
            },
            Some((about, snapshot)) = says.recv() => {
                wire::WatchResponse { id: ids.get(&about).copied().unwrap_or_default(), version, snapshot }
            }
        };
        if updates.send(Ok(update)).await.is_err() {
            return;
        }
    }
}

impl Sane {
    fn answer(&self, resource: &wire::resource::Kind) -> (About, Snapshot) {
        match resource {
            wire::resource::Kind::Outbound(_) => {
                let (namespace, service) = ("default".to_owned(), "web".to_owned());
                let backend = Some(wire::BackendRef { namespace, service, port: 80 });
                let kind = wire::outbound_target::Kind::Service(wire::Service {
                    backend,
                    protocol: 0,
                    routes: None,
                    policy: None,
                });
                (About::Outbound, Snapshot::Outbound(wire::OutboundTarget { kind: Some(kind) }))
            }
            wire::resource::Kind::Endpoints(_) => {
                let endpoints = vec![self.endpoint.clone()];
                (About::Endpoints, Snapshot::Endpoints(wire::Endpoints { endpoints, policy: None }))
            }
            wire::resource::Kind::Inbound(_) => (About::Inbound, Snapshot::Inbound(wire::InboundPolicy::default())),
        }
    }
}
