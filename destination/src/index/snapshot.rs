//! What can be watched, and what is known of it. Plain data.
//!
//! Invariant: a snapshot never changes; its encoding is made once, by whoever needs it first, and shared.
//! Non-goal: the encoding itself (`service::wire`).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh_mtls::spiffe;

use crate::model::{Name, Protocol, policy, route};

/// Something that a proxy can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// What is behind an original destination, for clients of a namespace.
    Outbound(Dialed),
    /// The endpoints of a backend.
    Endpoints(Backend),
    /// How the ports of a proxy's own workload are to be read.
    Inbound(Arc<Proxy>),
}

/// An original destination, and whose.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dialed {
    /// The address, canonical.
    pub addr: SocketAddr,
    /// The client's namespace, as it proved: its own routes act for it.
    pub namespace: Arc<str>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    /// The Service.
    pub service: Name,
    /// Its port, not the target port.
    pub port: u16,
}

/// A proxy: what it says of itself, and what it proved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// Said: its workload's addresses, canonical, each once and in their order.
    pub addresses: Box<[IpAddr]>,
    /// Proved.
    pub id: spiffe::Id,
}

/// The newest that is known of a resource.
#[derive(Debug)]
pub struct Snapshot {
    /// Grows with each change of the resource.
    pub version: u64,
    /// When the change was seen that led to it; none when it was there before anybody asked.
    pub changed_at: Option<Instant>,
    /// What is known.
    pub state: State,
    encoded: OnceLock<Bytes>,
}

impl Snapshot {
    pub(super) fn new(version: u64, changed_at: Option<Instant>, state: State) -> Self {
        Self { version, changed_at, state, encoded: OnceLock::new() }
    }

    /// The encoding; `encode` is called by the first who asks, and for each who asks for what only one proxy does.
    pub fn encoded(&self, encode: impl FnOnce(&Self) -> Bytes) -> Bytes {
        if matches!(self.state, State::Inbound(_)) {
            return encode(self);
        }
        self.encoded.get_or_init(|| encode(self)).clone()
    }
}

/// What is known, by kind of resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Of an original destination.
    Outbound(Target),
    /// Of a backend.
    Endpoints(Endpoints),
    /// Of a proxy's own workload.
    Inbound(Inbound),
}

/// What is known of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Ordered by address.
    pub list: Vec<Endpoint>,
    /// None: defaults.
    pub policy: Option<Arc<BackendPolicy>>,
    /// How many are not well by their own checks.
    pub unhealthy: usize,
    /// They are in the list all the same, because they are more than half.
    pub is_preserved: bool,
}

/// What is known of a proxy's own workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inbound {
    /// Those that are absent are to be detected.
    pub ports: BTreeMap<u16, InboundPort>,
    /// Empty when unknown.
    pub zone: Arc<str>,
    /// All have to succeed.
    pub checks: Vec<policy::HealthCheck>,
}

/// A port of a proxy's own workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundPort {
    /// How to read the bytes.
    pub protocol: Protocol,
    /// How fast requests may come; none: as they like.
    pub rates: Option<Arc<Rates>>,
}

/// What holds for requests of a destination, or of a rule: the words of all policies that count for it, and of the rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestPolicy {
    /// `namespace/name` of the policies, joined by commas.
    pub name: String,
    /// How long things may take.
    pub timeouts: policy::Timeouts,
    /// When they are sent again.
    pub retries: Option<policy::Retries>,
    /// How many times.
    pub budget: Option<policy::Budget>,
    /// What is done to them on purpose.
    pub faults: Vec<policy::Fault>,
}

/// What holds for a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendPolicy {
    /// As in [`RequestPolicy`].
    pub name: String,
    /// When an endpoint is passed by.
    pub breaker: Option<policy::Breaker>,
    /// How much there may be at once.
    pub limits: Option<policy::Limits>,
    /// How an endpoint is chosen.
    pub balancing: Option<policy::Balancing>,
    /// Of one attempt to connect.
    pub connect: Option<Duration>,
    /// In turn, when no endpoint is well.
    pub failover: Vec<policy::Port>,
}

/// How fast requests may come to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rates {
    /// As in [`RequestPolicy`].
    pub name: String,
    /// The rates.
    pub limits: policy::RateLimits,
    /// What service accounts are of.
    pub trust_domain: Arc<str>,
}

/// What is behind an original destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nothing of the mesh.
    Unknown,
    /// A Service: one of its endpoints.
    Service {
        /// Which.
        backend: Backend,
        /// How to read the bytes.
        protocol: Protocol,
        /// What requests meet in place of the backend; none when no route is attached.
        routes: Option<Arc<Routes>>,
        /// Of requests that no rule takes because there are none, and of connections; none: defaults.
        policy: Option<Arc<RequestPolicy>>,
    },
    /// A workload: exactly this endpoint.
    Workload {
        /// Which; boxed, for most targets are Services.
        endpoint: Box<Endpoint>,
        /// How to read the bytes.
        protocol: Protocol,
    },
}

/// The routes of a Service's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    /// In the order in which they are tried; a request that none fits has no route.
    pub matches: Vec<RankedMatch>,
    /// What they lead to.
    pub rules: Vec<RoutedRule>,
}

/// A match of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankedMatch {
    /// The place of the rule.
    pub rule: usize,
    /// What has to fit.
    pub on: route::Match,
}

/// A rule, with its references followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutedRule {
    /// `namespace/route`, and the rule's own name when it has one.
    pub name: String,
    /// What is done to each request.
    pub filters: route::Filters,
    /// Where requests go.
    pub backends: Vec<Routed>,
    /// What holds for them; none: defaults.
    pub policy: Option<Arc<RequestPolicy>>,
    /// How requests of one session go to one endpoint.
    pub session: Option<route::SessionPersistence>,
    /// Where filters send copies to: those of the rule, in order.
    pub mirrors: Vec<RoutedMirror>,
}

/// Where copies go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutedMirror {
    /// There, or why not.
    pub to: Result<Backend, String>,
    /// So many
    pub numerator: u32,
    /// of so many.
    pub denominator: u32,
}

/// A share of a rule's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    /// Where they go, or why they cannot.
    pub to: Result<Backend, String>,
    /// Relative.
    pub weight: u32,
    /// Done after those of the rule.
    pub filters: route::Filters,
    /// As those of the rule.
    pub mirrors: Vec<RoutedMirror>,
}

/// Where an application listens, and who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where the application listens.
    pub address: SocketAddr,
    /// `namespace/workload`; empty when unknown.
    pub name: Arc<str>,
    /// Whom its sidecar proves to be; none: it has no sidecar.
    pub identity: Option<spiffe::Id>,
    /// Empty when unknown.
    pub zone: Arc<str>,
    /// Relative.
    pub weight: u32,
    /// Zones that it is meant for; none: all.
    pub hints: Option<Arc<[String]>>,
}
