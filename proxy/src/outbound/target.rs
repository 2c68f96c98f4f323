//! An original destination: what discovery says of it, and the backend that stands for it now.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::leg::Leg;
use super::routed::Routed;
use crate::balance::{self, Reach};
use crate::control::{Discovery, Subscription};
use crate::metrics::Metrics;
use crate::model::policy::RequestPolicy;
use crate::model::{self, BackendId, Protocol};
use crate::resilience::budget;
use crate::resilience::idle_cache::Keyed;
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
    /// Opaque connections go here, and requests when no route is attached.
    leg: Arc<Leg>,
    /// Of requests that take no route, and of connections.
    policy: Option<Arc<RequestPolicy>>,
    /// Boxed, since few destinations have routes.
    routed: Option<Box<Routed>>,
}

/// A destination as `/state` shows it.
#[derive(Debug, Serialize)]
pub struct TargetState {
    address: SocketAddr,
    name: Option<Arc<str>>,
    protocol: Option<Protocol>,
    server_first: bool,
    #[serde(flatten)]
    backend: Option<balance::State>,
    /// Retries of each backend.
    budgets: BTreeMap<Arc<str>, budget::State>,
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
        let new = Route::new(self.dialed, says, route.as_deref(), discovery, reach, metrics);
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
            name: route.as_ref().map(|route| Arc::clone(route.leg.now().name())),
            protocol: route.as_ref().map(|route| route.protocol),
            server_first: self.is_server_first(),
            budgets: route.as_ref().map(|route| route.budgets(now)).unwrap_or_default(),
            backend: route.map(|route| route.leg.now().state(now)),
        }
    }
}

impl Keyed for Target {
    type Key = SocketAddr;

    fn key(&self) -> &SocketAddr {
        &self.dialed
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
        before: Option<&Route>,
        discovery: &Discovery,
        reach: &Arc<Reach>,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let unknown = model::Target::Unknown;
        let target = says.as_deref().unwrap_or(&unknown);
        let name = name_of(target);
        let to = |endpoint| Leg::of_endpoint(&name, endpoint, reach, metrics);
        let service = |id: &BackendId| {
            let known = before.and_then(|before| before.leg_of(id)).cloned();
            known.unwrap_or_else(|| Leg::of_service(id, dialed.is_ipv4(), discovery, reach, metrics))
        };
        let (leg, routed, policy) = match target {
            model::Target::Unknown => (to(as_it_is(dialed)), None, None),
            model::Target::Workload { endpoint, .. } => (to(endpoint.clone()), None, None),
            model::Target::Service { backend, routes, policy, .. } => {
                let routed = routes.as_ref().map(|routes| Box::new(Routed::new(routes, service)));
                (service(backend), routed, policy.clone())
            }
        };
        Arc::new(Self { protocol: target.protocol(), of: says, leg, policy, routed })
    }

    /// Where opaque connections go, and requests when no route is attached.
    pub(super) fn leg(&self) -> &Arc<Leg> {
        &self.leg
    }

    /// Of requests that take no route, and of connections; `None`: the proxy's defaults.
    pub(super) fn policy(&self) -> Option<&Arc<RequestPolicy>> {
        self.policy.as_ref()
    }

    fn budgets(&self, now: Instant) -> BTreeMap<Arc<str>, budget::State> {
        let legs = self.routed.iter().flat_map(|routed| routed.legs()).chain([&self.leg]);
        legs.map(|leg| (Arc::clone(leg.now().name()), leg.now().budget_state(now))).collect()
    }

    /// The routes, if any are attached.
    pub(super) fn routed(&self) -> Option<&Routed> {
        self.routed.as_deref()
    }

    fn leg_of(&self, id: &BackendId) -> Option<&Arc<Leg>> {
        let own = matches!(self.of.as_deref(), Some(model::Target::Service { backend, .. }) if backend == id);
        if own { Some(&self.leg) } else { self.routed.as_ref()?.leg_of(id) }
    }
}

fn name_of(target: &model::Target) -> String {
    match target {
        model::Target::Unknown => "unknown".into(),
        model::Target::Service { backend, .. } => backend.to_string(),
        model::Target::Workload { endpoint, .. } if endpoint.name.is_empty() => "workload".into(),
        model::Target::Workload { endpoint, .. } => format!("{}:{}", endpoint.name, endpoint.addr.port()),
    }
}

fn as_it_is(addr: SocketAddr) -> model::Endpoint {
    model::Endpoint { addr, name: model::Name::default(), traits: Arc::default() }
}
