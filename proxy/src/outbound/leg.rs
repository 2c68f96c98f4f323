//! A backend as a destination uses it: its balancer, where its endpoints come from, what it counts.
//!
//! Invariant: a leg outlives a change of routes as long as they lead to its backend, so its balancer remembers.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::balance::{Backend, Failed, Load, Reach, Wish};
use crate::control::{Discovery, Subscription};
use crate::metrics::{self, Direction, Metrics, Tls};
use crate::model::policy::BackendPolicy;
use crate::model::{BackendId, Endpoint, EndpointSet, Protocol};
use crate::net::Stream;
use crate::sniff::Seen;

/// How long the first list of a backend's endpoints is waited for.
const FIRST_ENDPOINTS: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Leg {
    backend: Backend,
    /// Where `backend` has its endpoints from, when they are a Service's.
    endpoints: Option<Subscription<EndpointSet>>,
    /// Which endpoints of stand-ins it takes.
    is_ipv4: bool,
    /// In turn, while its own endpoints are not well; of the policy that names them.
    stand_ins: Mutex<Option<Box<StandIns>>>,
    metrics: Metrics,
    http: [OnceLock<Arc<metrics::Http>>; 2],
    /// Boxed, since few targets have both kinds.
    tcp: OnceLock<Box<[OnceLock<Arc<metrics::Tcp>>; 3]>>,
}

struct StandIns {
    of: Arc<BackendPolicy>,
    legs: Arc<[Arc<Leg>]>,
}

impl Leg {
    /// Over the endpoints of a Service, those of the IP version that was dialed.
    pub(super) fn of_service(
        id: &BackendId,
        is_ipv4: bool,
        discovery: &Discovery,
        reach: &Arc<Reach>,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let leg = Self::new(&id.to_string(), Some(discovery.endpoints(id)), is_ipv4, reach, metrics);
        if let Some(endpoints) = &leg.endpoints {
            endpoints.follow(&leg, move |leg: &Leg, set: &EndpointSet| leg.backend.apply(set.of_family(is_ipv4)));
        }
        leg
    }

    /// To one endpoint, which stays.
    pub(super) fn of_endpoint(name: &str, endpoint: Endpoint, reach: &Arc<Reach>, metrics: &Metrics) -> Arc<Self> {
        let leg = Self::new(name, None, endpoint.addr.is_ipv4(), reach, metrics);
        leg.backend.apply(endpoint.into());
        leg
    }

    fn new(
        name: &str,
        endpoints: Option<Subscription<EndpointSet>>,
        is_ipv4: bool,
        reach: &Arc<Reach>,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let (stand_ins, http, tcp) = Default::default();
        let (backend, metrics) = (Backend::new(name, reach), metrics.clone());
        Arc::new(Self { backend, endpoints, is_ipv4, stand_ins, metrics, http, tcp })
    }

    /// Its balancer, which may have no endpoint yet.
    pub(super) fn now(&self) -> &Backend {
        &self.backend
    }

    /// Its balancer, once the first list of endpoints is there; it is not waited for longer than a second.
    pub(super) async fn backend(&self) -> &Backend {
        if let Some(endpoints) = &self.endpoints
            && !endpoints.is_known()
        {
            // Boxed: later requests need no room for it.
            Box::pin(endpoints.first(FIRST_ENDPOINTS)).await;
        }
        &self.backend
    }

    /// The leg that stands in for it now: the first of its policy's failover that is well, while it is not itself. All of
    /// them are watched from when the first is named, so that they are known when they are needed.
    pub(super) async fn stand_in(
        &self,
        discovery: &Discovery,
        reach: &Arc<Reach>,
        metrics: &Metrics,
    ) -> Option<Arc<Leg>> {
        let backend = self.backend().await;
        let policy = backend.failover()?;
        let legs = self.stand_ins(policy, discovery, reach, metrics);
        if backend.is_well() {
            return None;
        }
        for leg in legs.iter() {
            // Boxed: it is rare.
            if Box::pin(leg.backend()).await.is_well() {
                return Some(Arc::clone(leg));
            }
        }
        None
    }

    fn stand_ins(
        &self,
        policy: Arc<BackendPolicy>,
        discovery: &Discovery,
        reach: &Arc<Reach>,
        metrics: &Metrics,
    ) -> Arc<[Arc<Leg>]> {
        let mut known = self.stand_ins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_ref().filter(|known| known.of.failover == policy.failover) {
            return Arc::clone(&known.legs);
        }
        let leg = |id: &BackendId| Leg::of_service(id, self.is_ipv4, discovery, reach, metrics);
        let legs: Arc<[_]> = policy.failover.iter().map(leg).collect();
        *known = Some(Box::new(StandIns { of: policy, legs: Arc::clone(&legs) }));
        legs
    }

    /// A byte stream to one of the endpoints.
    pub(super) async fn open(&self, protocol: Option<Protocol>, wish: &Wish) -> Result<(Stream, Load), Failed> {
        self.backend().await.open(protocol, wish).await
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
