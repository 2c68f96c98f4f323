//! Proxies as destination sees them: a connection of mutual TLS each, a stream, a subscription.
//!
//! Invariant: a watcher reads at once; what it saw is an address list with its moment. Non-goal: what a proxy does with it.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use h2::client::SendRequest;
use mesh_mtls::credentials::Credentials;
use mesh_mtls::spiffe::Id;
use mesh_mtls::{grpc, tls};
use mesh_proto::discovery as wire;
use mesh_proto::discovery::discovery_client::DiscoveryClient;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use wire::watch_request::Kind;
use wire::watch_response::Snapshot;

fn destination() -> Id {
    Id::new("cluster.local", "mesh-system", "destination").expect("an identity")
}

fn hello_and(service: &str) -> [wire::WatchRequest; 2] {
    let addresses = vec![vec![10, 77, 0, 99].into()];
    let hello = wire::Hello { addresses, ..wire::Hello::default() };
    let backend = wire::BackendRef { namespace: "default".to_owned(), service: service.to_owned(), port: 80 };
    let resource = Some(wire::Resource { kind: Some(wire::resource::Kind::Endpoints(backend)) });
    [Kind::Hello(hello), Kind::Subscribe(wire::Subscribe { id: 1, resource })]
        .map(|kind| wire::WatchRequest { kind: Some(kind) })
}

/// One that reads what comes.
pub struct Watcher {
    updates: Streaming<wire::WatchResponse>,
    _requests: mpsc::Sender<wire::WatchRequest>,
}

impl Watcher {
    /// Follows the endpoints of a service, over a connection of its own.
    ///
    /// # Panics
    /// When destination does not open the stream.
    pub async fn follow(addr: SocketAddr, credentials: Credentials, service: &str) -> Self {
        let connector = tls::Connector::new(credentials, grpc::ALPN);
        let mut client = DiscoveryClient::new(grpc::channel(&addr.to_string(), destination(), connector));
        let (requests, outgoing) = mpsc::channel(4);
        for request in hello_and(service) {
            requests.try_send(request).expect("room");
        }
        let updates = client.watch(ReceiverStream::new(outgoing)).await.expect("a stream").into_inner();
        Self { updates, _requests: requests }
    }

    /// The IPv4 addresses of the next state; `None` when the stream has ended.
    ///
    /// # Panics
    /// When something else comes.
    pub async fn next(&mut self) -> Option<Vec<Ipv4Addr>> {
        let Some(Snapshot::Endpoints(endpoints)) = self.updates.message().await.ok()??.snapshot else {
            panic!("something else than endpoints");
        };
        let ips = endpoints.endpoints.into_iter().filter_map(|endpoint| endpoint.address);
        Some(ips.filter_map(|at| Some(Ipv4Addr::from(<[u8; 4]>::try_from(&at.ip[..]).ok()?))).collect())
    }
}

/// One that reads nothing of its stream, though its connection lives. Waits for the end of that connection.
///
/// # Panics
/// When it does not come about.
pub async fn deaf(addr: SocketAddr, credentials: Credentials, service: &str) {
    const WINDOW: u32 = 256;
    let connector = tls::Connector::new(credentials, grpc::ALPN);
    let tcp = tokio::net::TcpStream::connect(addr).await.expect("destination");
    let stream = connector.connect(tcp, &destination()).await.expect("a handshake");
    let handshake = h2::client::Builder::new().initial_window_size(WINDOW).handshake(stream);
    let (requests, connection): (SendRequest<Bytes>, _) = handshake.await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = http::Request::post("http://destination/mesh.discovery.v1.Discovery/Watch");
    let request = request.header("content-type", "application/grpc").body(()).expect("a request");
    let mut requests = requests.ready().await.expect("a connection");
    let (response, mut outgoing) = requests.send_request(request, false).expect("a stream");
    for request in hello_and(service) {
        let message = request.encode_to_vec();
        let length = u32::try_from(message.len()).expect("short").to_be_bytes();
        outgoing.send_data([&[0], &length[..], &message].concat().into(), false).expect("a stream");
    }
    let _unread = response.await.expect("an answer").into_body();
    // Whether it was closed or reset.
    drop(connection.await.expect("no panic"));
}
