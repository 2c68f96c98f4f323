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
    backend: Backend,
    /// Where `backend` has its endpoints from, when they are a Service's.
    endpoints: Option<Subscription<EndpointSet>>,
    metrics: Metrics,
    http: [OnceLock<Arc<metrics::Http>>; 2],
    /// Boxed, since few targets have both kinds.
    tcp: OnceLock<Box<[OnceLock<Arc<metrics::Tcp>>; 3]>>,
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
        if self.subscription.is_known() || self.asked_in_vain.load(Ordering::Relaxed) {
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
        let new = Route::new(self.dialed, says, discovery, reach, metrics);
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
    ) -> Arc<Self> {
        let unknown = model::Target::Unknown;
        let target = says.as_deref().unwrap_or(&unknown);
        let backend = Backend::new(&name_of(target), reach);
        let endpoints = match target {
            model::Target::Unknown => {
                backend.apply(as_it_is(dialed).into());
                None
            }
            model::Target::Workload { endpoint, .. } => {
                backend.apply(endpoint.clone().into());
                None
            }
            model::Target::Service { backend: id, .. } => Some(discovery.endpoints(id)),
        };
        let (protocol, http, tcp) = (target.protocol(), Default::default(), Default::default());
        let route = Arc::new(Self { of: says, protocol, backend, endpoints, metrics: metrics.clone(), http, tcp });
        if let Some(endpoints) = &route.endpoints {
            let ipv4 = dialed.is_ipv4();
            endpoints.follow(&route, move |route: &Route, set: &EndpointSet| route.backend.apply(set.of_family(ipv4)));
        }
        route
    }

    /// The endpoints behind it, once their first list is there; it is not waited for longer than `within`.
    pub(super) async fn backend(&self, within: Duration) -> &Backend {
        if let Some(endpoints) = &self.endpoints
            && !endpoints.is_known()
        {
            // Boxed: later requests need no room for it.
            Box::pin(endpoints.first(within)).await;
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
        self.tcp.get_or_init(Box::default)[slot]
            .get_or_init(|| self.metrics.tcp(Direction::Outbound, self.backend.name(), tls))
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
    model::Endpoint { addr, name: Box::default(), traits: Arc::default() }
}
