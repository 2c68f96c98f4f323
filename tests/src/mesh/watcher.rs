//! Proxies as destination sees them: a connection of mutual TLS each, a stream, a subscription.
//!
//! Invariant: a watcher reads at once; what it saw is an address list with its moment. Non-goal: what a proxy does with it.

use std::net::{Ipv4Addr, SocketAddr};

use mesh_mtls::credentials::Credentials;
use mesh_mtls::dial::dial;
use mesh_mtls::messages::{self, LARGEST, Link};
use mesh_mtls::spiffe::Id;
use mesh_mtls::tls;
use mesh_proto::discovery as wire;
use prost::Message as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use wire::watch_request::Kind;
use wire::watch_response::Snapshot;

fn destination() -> Id {
    Id::new("cluster.local", "mesh-system", "destination").expect("an identity")
}

/// A proxy's end of its stream, which says what a test says.
#[derive(Debug)]
pub struct Speaker(Link<tls::Stream<TcpStream>>);

impl Speaker {
    /// A connection of its own.
    ///
    /// # Panics
    /// When destination cannot be reached.
    pub async fn connect(addr: SocketAddr, credentials: Credentials) -> Self {
        let connector = tls::Connector::new(credentials, messages::ALPN);
        let io = dial(&addr.to_string(), &destination(), &connector).await.expect("a connection to destination");
        Self(Link::new(io, LARGEST))
    }

    /// Leaves while [`Speaker::next`] waits.
    pub fn say(&mut self, kind: Kind) {
        self.0.send(&wire::WatchRequest { kind: Some(kind) });
    }

    /// The next thing that destination says, the reason of its end too; `None` when the stream has ended. Dropping the future
    /// loses nothing.
    pub async fn next(&mut self) -> Option<wire::WatchResponse> {
        loop {
            let message = self.0.next().await.ok()??;
            if !message.is_empty() {
                return wire::WatchResponse::decode(message).ok();
            }
        }
    }
}

fn hello_and(service: &str) -> [Kind; 2] {
    let addresses = vec![vec![10, 77, 0, 99].into()];
    let hello = wire::Hello { addresses, ..wire::Hello::default() };
    let backend = wire::BackendRef { namespace: "default".to_owned(), service: service.to_owned(), port: 80 };
    let resource = Some(wire::Resource { kind: Some(wire::resource::Kind::Endpoints(backend)) });
    [Kind::Hello(hello), Kind::Subscribe(wire::Subscribe { id: 1, resource })]
}

/// One that reads what comes.
#[derive(Debug)]
pub struct Watcher(Speaker);

impl Watcher {
    /// Follows the endpoints of a service, over a connection of its own.
    ///
    /// # Panics
    /// When destination cannot be reached.
    pub async fn follow(addr: SocketAddr, credentials: Credentials, service: &str) -> Self {
        let mut speaker = Speaker::connect(addr, credentials).await;
        for kind in hello_and(service) {
            speaker.say(kind);
        }
        Self(speaker)
    }

    /// The IPv4 addresses of the next state; `None` when the stream has ended.
    ///
    /// # Panics
    /// When something else comes.
    pub async fn next(&mut self) -> Option<Vec<Ipv4Addr>> {
        let Some(Snapshot::Endpoints(endpoints)) = self.0.next().await?.snapshot else {
            panic!("something else than endpoints");
        };
        let ips = endpoints.endpoints.into_iter().filter_map(|endpoint| endpoint.address);
        Some(ips.filter_map(|at| Some(Ipv4Addr::from(<[u8; 4]>::try_from(&at.ip[..]).ok()?))).collect())
    }
}

/// One that reads nothing of its stream, on a host that lives, until it is told to. Then it waits for the end of its connection.
///
/// # Panics
/// When it does not come about.
pub async fn deaf(addr: SocketAddr, credentials: Credentials, service: &str, listen: oneshot::Receiver<()>) {
    const WINDOW: u32 = 4 * 1024;
    let connector = tls::Connector::new(credentials, messages::ALPN);
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(WINDOW).expect("a small window");
    let tcp = socket.connect(addr).await.expect("destination");
    let io = connector.connect(tcp, &destination()).await.expect("a handshake");
    let mut speaker = Link::new(io, LARGEST);
    for kind in hello_and(service) {
        speaker.send(&wire::WatchRequest { kind: Some(kind) });
    }
    // Something has come, so what was said has left.
    speaker.next().await.expect("a ping").expect("a ping");
    listen.await.expect("the test lives");
    while let Ok(Some(_)) = speaker.next().await {}
}
