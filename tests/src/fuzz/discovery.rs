//! What destination may say to a proxy: any message, on any subscription.
//!
//! Oracles: a refused message changes no value; a value that was taken is one that nobody downstream has to check again.

use std::cell::RefCell;
use std::sync::Arc;

use mesh_mtls::{spiffe, tls};
use mesh_proto::discovery as wire;
use mesh_proxy::control::{Discovery, Hello, Subscription};
use mesh_proxy::metrics::Metrics;
use mesh_proxy::model::{BackendId, Endpoint, EndpointSet, InboundPolicy, Target};
use prost::Message as _;

use crate::pair;

/// A proxy's client without a stream.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn client() -> Discovery {
    let config = pair::settings(([127, 0, 0, 1], 1).into()).expect("settings");
    let id = spiffe::Id::new("cluster.local", "test", "web").expect("an identity");
    let credentials = pair::credentials(&id).expect("a certificate");
    let connector = tls::Connector::new(credentials.clone(), mesh_mtls::messages::ALPN);
    let metrics = Metrics::new(config.metrics);
    let (discovery, _never_run) =
        Discovery::new(config.control, Hello::default(), connector, credentials, metrics.discovery());
    discovery
}

/// The id of what the client asks for next, once everything before has been asked.
#[must_use]
pub fn asked(discovery: &Discovery) -> Option<u64> {
    let requests = std::iter::from_fn(|| discovery.next_request());
    let subscribed = requests.filter_map(|request| match request.kind {
        Some(wire::watch_request::Kind::Subscribe(subscribe)) => Some(subscribe.id),
        _ => None,
    });
    subscribed.last()
}

/// A client with one subscription of each kind, whose ids are 1 to 3.
struct World {
    discovery: Discovery,
    target: Subscription<Target>,
    endpoints: Subscription<EndpointSet>,
    inbound: Subscription<InboundPolicy>,
}

type Values = (Option<Arc<Target>>, Option<Arc<EndpointSet>>, Option<Arc<InboundPolicy>>);

impl World {
    fn new() -> Self {
        let discovery = client();
        let target = discovery.outbound(([10, 0, 0, 1], 80).into());
        let backend = BackendId { namespace: "shop".into(), service: "web".into(), port: 80 };
        let endpoints = discovery.endpoints(&backend);
        let inbound = discovery.inbound();
        assert_eq!(asked(&discovery), Some(3));
        Self { discovery, target, endpoints, inbound }
    }

    fn values(&self) -> Values {
        (self.target.current(), self.endpoints.current(), self.inbound.current())
    }
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// One message.
pub(super) fn update(data: &[u8]) {
    let Ok(message) = wire::WatchResponse::decode(data) else { return };
    WORLD.with_borrow_mut(|world| {
        let world = world.get_or_insert_with(World::new);
        let (before, refused) = (world.values(), world.discovery.status().rejected);
        let id = message.id;
        world.discovery.take(message);
        // Its acknowledgements go out.
        assert_eq!(asked(&world.discovery), None);
        let (after, status) = (world.values(), world.discovery.status());
        match status.rejected - refused {
            0 => assert!((1..=3).contains(&id), "taken for {id}, which nobody asked for"),
            1 => assert_eq!(before, after, "refused: {:?}", status.last_error),
            more => panic!("refused {more} times"),
        }
        let changed = [before.0 != after.0, before.1 != after.1, before.2 != after.2];
        assert!((1..).zip(changed).all(|(of, changed)| !changed || of == id), "{id} changed another's value");
        sound(&after);
    });
}

fn sound((target, endpoints, inbound): &Values) {
    match target.as_deref() {
        Some(Target::Service { backend, .. }) => assert!(backend.port > 0 && is_word(&backend.to_string(), "-._/:")),
        Some(Target::Workload { endpoint, .. }) => sound_endpoint(endpoint),
        Some(Target::Unknown) | None => {}
    }
    if let Some(EndpointSet { list: all, .. }) = endpoints.as_deref() {
        all.iter().for_each(sound_endpoint);
        assert!(all.len() <= 10_000);
        assert!(all.windows(2).all(|two| two[0].addr < two[1].addr), "not in their order, or twice: {all:?}");
    }
    assert!(inbound.as_deref().is_none_or(|policy| !policy.ports.contains_key(&0)));
}

fn sound_endpoint(endpoint: &Endpoint) {
    let ip = endpoint.addr.ip();
    let odd = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip != ip.to_canonical();
    assert!(!odd && endpoint.addr.port() > 0, "{endpoint:?}");
    assert!((1..=10_000).contains(&endpoint.traits.weight), "{endpoint:?}");
    assert!(is_word(&endpoint.name, "-._/") && is_word(&endpoint.traits.zone, "-._"), "{endpoint:?}");
    assert!(endpoint.traits.peer(ip).is_none_or(|peer| peer.addr.port() > 0 && peer.addr.ip() == ip), "{endpoint:?}");
}

fn is_word(text: &str, marks: &str) -> bool {
    text.len() <= 400 && text.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c))
}
