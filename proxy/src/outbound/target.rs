//! An original destination: what discovery says of it, and the backend that stands for it now.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::balance::{Backend, EndpointState, Failed, Load, Reach};
use crate::control::{Discovery, Subscription};
use crate::metrics::{self, Direction, Metrics, Tls};
use crate::model::{self, EndpointSet, Protocol};
use crate::net::Stream;
use crate::sniff::Seen;

/// A destination that the application dials.
pub struct Target {
    dialed: SocketAddr,
    subscription: Subscription<model::Target>,
    asked_in_vain: AtomicBool,
    server_first: AtomicBool,
    route: Mutex<Option<Arc<Route>>>,
}

/// What holds for a destination until discovery says otherwise.
pub struct Route {
    of: Option<Arc<model::Target>>,
    pub(super) protocol: Protocol,
    dialed: SocketAddr,
    backend: Arc<Backend>,
    applied: AtomicBool,
    endpoints: Option<Subscription<EndpointSet>>,
    _follow: Option<Follow>,
    metrics: Metrics,
    http: [OnceLock<Arc<metrics::Http>>; 2],
    tcp: [OnceLock<Arc<metrics::Tcp>>; 3],
}

/// A destination as `/state` shows it.
#[derive(Debug, Serialize)]
pub struct TargetState {
    address: SocketAddr,
    name: Option<Arc<str>>,
    protocol: Option<Protocol>,
    server_first: bool,
    endpoints: Vec<EndpointState>,
}

impl TargetState {
    /// What was dialed.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Target {
    pub(super) fn new(dialed: SocketAddr, subscription: Subscription<model::Target>) -> Self {
        let (asked_in_vain, server_first, route) = Default::default();
        Self { dialed, subscription, asked_in_vain, server_first, route }
    }

    /// Whether discovery was not even asked.
    pub(super) fn is_over_limit(&self) -> bool {
        self.subscription.is_over_limit()
    }

    /// Waits until discovery has answered, `within` at most, and only once in vain.
    pub(super) async fn known(&self, within: Duration) {
        if self.subscription.current().is_some() || self.asked_in_vain.load(Ordering::Relaxed) {
            return;
        }
        if self.subscription.first(within).await.is_none() {
            self.asked_in_vain.store(true, Ordering::Relaxed);
            tracing::warn!(destination = %self.dialed, "discovery does not answer; passed through as it is");
        }
    }

    /// The route by what discovery says now.
    pub fn route(&self, discovery: &Discovery, reach: &Arc<Reach>, metrics: &Metrics) -> Arc<Route> {
        let says = self.subscription.current();
        let mut route = self.route.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = &*route
            && same(route.of.as_ref(), says.as_ref())
        {
            return Arc::clone(route);
        }
        let new = Arc::new(Route::new(self.dialed, says, discovery, reach, metrics));
        *route = Some(Arc::clone(&new));
        new
    }

    /// Whether the server has spoken first before.
    pub(super) fn is_server_first(&self) -> bool {
        self.server_first.load(Ordering::Relaxed)
    }

    /// Remembers the verdict for the connections to come.
    pub(super) fn remember(&self, seen: &Seen) {
        if *seen == Seen::Nothing {
            return;
        }
        self.server_first.store(*seen == Seen::ServerFirst, Ordering::Relaxed);
    }

    pub(super) fn state(&self, now: Instant) -> TargetState {
        let route = self.route.lock().unwrap_or_else(PoisonError::into_inner).clone();
        TargetState {
            address: self.dialed,
            name: route.as_ref().map(|route| Arc::clone(route.backend.name())),
            protocol: route.as_ref().map(|route| route.protocol),
            server_first: self.is_server_first(),
            endpoints: route.map(|route| route.backend.state(now)).unwrap_or_default(),
        }
    }
}

fn same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

impl Route {
    fn new(
        dialed: SocketAddr,
        says: Option<Arc<model::Target>>,
        discovery: &Discovery,
        reach: &Arc<Reach>,
        metrics: &Metrics,
    ) -> Self {
        let unknown = model::Target::Unknown;
        let target = says.as_deref().unwrap_or(&unknown);
        let protocol = target.protocol();
        let name = name_of(target);
        let backend = Arc::new(Backend::new(&name, reach));
        let endpoints = match target {
            model::Target::Unknown => {
                backend.apply(vec![as_it_is(dialed)]);
                None
            }
            model::Target::Workload { endpoint, .. } => {
                backend.apply(vec![endpoint.clone()]);
                None
            }
            model::Target::Service { backend: id, .. } => Some(discovery.endpoints(id)),
        };
        let follow =
            endpoints.clone().map(|endpoints| Follow(tokio::spawn(follow(Arc::clone(&backend), endpoints, dialed))));
        Self {
            metrics: metrics.clone(),
            http: Default::default(),
            tcp: Default::default(),
            of: says,
            protocol,
            dialed,
            backend,
            applied: AtomicBool::new(false),
            endpoints,
            _follow: follow,
        }
    }

    /// The endpoints behind it, once their first list is there; it is not waited for longer than `within`.
    pub(super) async fn backend(&self, within: Duration) -> &Backend {
        if let Some(endpoints) = &self.endpoints
            && !self.applied.load(Ordering::Relaxed)
            && endpoints.first(within).await.is_some()
        {
            // `follow` may not have had its turn yet; both apply the newest list.
            apply(&self.backend, endpoints, self.dialed);
            self.applied.store(true, Ordering::Relaxed);
        }
        &self.backend
    }

    /// A byte stream to one of the endpoints.
    pub(super) async fn open(&self, protocol: Option<Protocol>) -> Result<(Stream, Load), Failed> {
        self.backend(FIRST_ENDPOINTS).await.open(protocol).await
    }

    /// Handles for HTTP over what protects the way to the endpoint.
    pub(super) fn http(&self, tls: Tls) -> &Arc<metrics::Http> {
        let name = self.backend.name();
        self.http[usize::from(tls == Tls::Mutual)].get_or_init(|| self.metrics.http(Direction::Outbound, name, tls))
    }

    /// Handles for opaque connections; TLS of the application's own counts where the mesh adds none.
    pub(super) fn tcp(&self, tls: Tls, seen: &Seen) -> &Arc<metrics::Tcp> {
        let (slot, tls) = match (tls, seen) {
            (Tls::None, Seen::Tls(_)) => (2, Tls::Foreign),
            (tls, _) => (usize::from(tls == Tls::Mutual), tls),
        };
        self.tcp[slot].get_or_init(|| self.metrics.tcp(Direction::Outbound, self.backend.name(), tls))
    }
}

/// How long the first list of a backend's endpoints is waited for.
pub(super) const FIRST_ENDPOINTS: Duration = Duration::from_secs(1);

fn name_of(target: &model::Target) -> String {
    match target {
        model::Target::Unknown => "unknown".into(),
        model::Target::Service { backend, .. } => backend.to_string(),
        model::Target::Workload { endpoint, .. } if endpoint.name.is_empty() => "workload".into(),
        model::Target::Workload { endpoint, .. } => format!("{}:{}", endpoint.name, endpoint.addr.port()),
    }
}

fn as_it_is(addr: SocketAddr) -> model::Endpoint {
    model::Endpoint { addr, name: Arc::default(), peer: None, weight: 1, zone: Arc::default() }
}

/// The task that applies updates as they come; ends with its route.
struct Follow(tokio::task::JoinHandle<()>);

impl Drop for Follow {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn follow(backend: Arc<Backend>, mut endpoints: Subscription<EndpointSet>, dialed: SocketAddr) {
    loop {
        apply(&backend, &endpoints, dialed);
        endpoints.changed().await;
    }
}

fn apply(backend: &Backend, endpoints: &Subscription<EndpointSet>, dialed: SocketAddr) {
    if let Some(set) = endpoints.current() {
        backend.apply(set.of_family(&dialed));
    }
}
