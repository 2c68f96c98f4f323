//! Discovery against a destination that the test plays itself: over in-memory pipes on a paused clock, and once over
//! real mutual TLS.

mod destination;
mod hostile;
mod mtls;
mod sharing;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_mtls::spiffe;
use mesh_proto::discovery as wire;

use super::{Discovery, Hello, Settings, Shared, driver};
use crate::metrics::Metrics;
use crate::model::{BackendId, Endpoint, EndpointSet, InboundPolicy, Protocol, Sidecar, Target, Traits};
use destination::Destination;
use wire::watch_response::Snapshot;

/// A discovery client that runs against `destination`.
struct Client {
    discovery: Discovery,
    metrics: Metrics,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Client {
    /// The newest error in the status, once there is one. No task waits for it, so it is looked for on each turn.
    async fn error(&self) -> String {
        let shown = async {
            loop {
                match self.discovery.status().last_error {
                    Some(error) => return error,
                    None => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        };
        tokio::time::timeout(SOON, shown).await.expect("no error shows")
    }
}

fn settings() -> Settings {
    Settings::new("destination:8086".to_owned(), id("destination"))
}

fn id(service_account: &str) -> spiffe::Id {
    spiffe::Id::new("cluster.local", "shop", service_account).expect("a valid id")
}

fn hello() -> Hello {
    Hello {
        version: "1.2.3".to_owned(),
        addresses: vec![[10, 1, 0, 9].into(), "fd00::9".parse().expect("an address")],
        namespace: "shop".to_owned(),
        workload: "web-1".to_owned(),
    }
}

fn start(destination: &Destination, settings: Settings) -> Client {
    let metrics = Metrics::new(crate::metrics::Settings::default());
    let shared = Arc::new(Shared::new(settings.max_targets, metrics.discovery()));
    let discovery = Discovery { shared: Arc::clone(&shared) };
    let dial = destination.dial();
    let driver = tokio::spawn(async move { driver::run(&shared, &settings, hello().into(), dial).await });
    Client { discovery, metrics, driver }
}

fn addr(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

fn backend() -> BackendId {
    BackendId { namespace: "shop".into(), service: "web".into(), port: 80 }
}

fn wire_backend() -> wire::BackendRef {
    wire::BackendRef { namespace: "shop".to_owned(), service: "web".to_owned(), port: 80 }
}

/// A Service with the given protocol, as wire and as model.
fn service(protocol: wire::Protocol) -> Snapshot {
    let service =
        wire::Service { backend: Some(wire_backend()), protocol: protocol.into(), routes: None, policy: None };
    Snapshot::Outbound(wire::OutboundTarget { kind: Some(wire::outbound_target::Kind::Service(service)) })
}

fn target(protocol: Protocol) -> Target {
    Target::Service { backend: backend(), protocol, routes: None, policy: None }
}

/// A good endpoint, meshed, at 10.1.0.`last`:8080.
fn wire_endpoint(last: u8) -> wire::Endpoint {
    wire::Endpoint {
        address: Some(wire::SocketAddress { ip: vec![10, 1, 0, last].into(), port: 8080 }),
        name: format!("shop/web-{last}"),
        identity: id("web").to_string(),
        tunnel_port: 4143,
        weight: 0,
        zone: "a".to_owned(),
        hints: Vec::new(),
    }
}

fn endpoint(last: u8) -> Endpoint {
    let traits = Traits {
        sidecar: Some(Sidecar { id: id("web"), port: 4143 }),
        weight: 1,
        zone: "a".into(),
        hints: Box::default(),
    };
    Endpoint {
        addr: SocketAddr::from(([10, 1, 0, last], 8080)),
        name: (&*format!("shop/web-{last}")).into(),
        traits: traits.into(),
    }
}

fn endpoints(last: &[u8]) -> Snapshot {
    Snapshot::Endpoints(wire::Endpoints { endpoints: last.iter().copied().map(wire_endpoint).collect(), policy: None })
}

fn endpoint_set(last: &[u8]) -> EndpointSet {
    last.iter().copied().map(endpoint).collect()
}

fn policy(ports: &[(u32, i32)]) -> Snapshot {
    let port = |&(port, protocol)| wire::InboundPort { port, protocol, rates: None };
    Snapshot::Inbound(wire::InboundPolicy { ports: ports.iter().map(port).collect(), ..Default::default() })
}

/// Long enough for everything that happens in memory; the clock is paused, so it costs nothing.
const SOON: Duration = Duration::from_secs(60);

/// What comes over a subscription, one value after the other.
struct Values<T> {
    values: tokio::sync::mpsc::Receiver<T>,
    _follower: Arc<tokio::sync::mpsc::Sender<T>>,
}

impl<T: Clone + Send + 'static> Values<T> {
    fn of(subscription: &super::Subscription<T>) -> Self {
        let (told, values) = tokio::sync::mpsc::channel(16);
        let follower = Arc::new(told);
        subscription.follow(&follower, |told, value: &T| told.try_send(value.clone()).expect("room"));
        Values { values, _follower: follower }
    }

    /// The next one.
    async fn next(&mut self) -> T {
        tokio::time::timeout(SOON, self.values.recv()).await.expect("no new value came").expect("a subscription")
    }

    /// None comes for a while.
    async fn are_silent(&mut self) {
        assert!(tokio::time::timeout(Duration::from_millis(10), self.values.recv()).await.is_err(), "told for nothing");
    }
}
