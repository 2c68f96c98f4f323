//! A control plane that has a certificate of the mesh and has gone mad: it answers as it should until it is told to say
//! something else.
//!
//! Invariant: real mutual TLS; what is said is the test's. Non-goal: more than one sidecar that listens to it.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, mpsc as sync_mpsc};

use bytes::Bytes;
use mesh_mtls::credentials::Credentials;
use mesh_mtls::grpc;
use mesh_mtls::messages::{self, Inbox, PING};
use mesh_mtls::tls::{Acceptor, ClientAuth};
use mesh_proto::discovery as wire;
use mesh_tests::netns::Host;
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::StreamExt as _;
use wire::watch_request::Kind;
use wire::watch_response::Snapshot;

/// Of a proxy's requests.
const LONGEST: usize = 64 * 1024;

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
        let (sane, said) = (Arc::new(sane), Arc::new(Mutex::new(said)));
        host.run_in_thread(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime in a test").block_on(async {
                let listener = tokio::net::TcpListener::bind(addr).await.expect("a free port");
                let acceptor = Acceptor::new(credentials, ClientAuth::Required, messages::ALPN);
                let mut incoming = grpc::incoming(listener, acceptor);
                while let Some(Ok(connection)) = incoming.next().await {
                    // How it ends shows in what the proxy does.
                    tokio::spawn(converse(Arc::clone(&sane), Arc::clone(&said), heard.clone(), connection));
                }
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

/// The next message, of a proxy that lives.
async fn next(inbox: &mut Inbox, io: &mut grpc::Connection) -> Option<Bytes> {
    poll_fn(|cx| inbox.poll_next(Pin::new(io), cx)).await.ok()?
}

/// One stream.
async fn converse(
    sane: Arc<Sane>,
    says: Says,
    hears: sync_mpsc::SyncSender<String>,
    mut io: grpc::Connection,
) -> std::io::Result<()> {
    let (mut ids, mut version, mut inbox) = (BTreeMap::new(), 0, Inbox::new(LONGEST));
    let mut says = says.lock().await;
    io.write_all(&PING).await?;
    loop {
        io.flush().await?;
        version += 1;
        let update = tokio::select! {
            message = next(&mut inbox, &mut io) => {
                let Some(message) = message else { return Ok(()) };
                match wire::WatchRequest::decode(message)?.kind {
                    Some(Kind::Subscribe(wire::Subscribe { id, resource })) => {
                        let answer = resource.and_then(|it| it.kind).map(|it| sane.answer(&it));
                        let Some((about, snapshot)) = answer else { return Ok(()) };
                        ids.insert(about, id);
                        wire::WatchResponse { id, version, snapshot: Some(snapshot) }
                    }
                    Some(Kind::Ack(ack)) => {
                        if !ack.error.is_empty() {
                            // The test may have heard enough.
                            drop(hears.try_send(ack.error));
                        }
                        continue;
                    }
                    _ => continue,
                }
            }
            Some((about, snapshot)) = says.recv() => {
                wire::WatchResponse { id: ids.get(&about).copied().unwrap_or_default(), version, snapshot }
            }
        };
        let update = update.encode_to_vec();
        io.write_u32(u32::try_from(update.len()).expect("short")).await?;
        io.write_all(&update).await?;
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
