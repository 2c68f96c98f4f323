//! What the control plane says, as plain data, and the pure decisions on it.
//!
//! Invariant: values of this room were checked when they were made (`control` parses the wire), so nobody downstream checks
//! again. No tokio, no clock, no I/O here. `route` is what requests
//! meet, `policy` how they and backends are treated.

mod name;
pub mod policy;
pub mod route;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_mtls::spiffe;
use serde::Serialize;

pub use name::Name;

/// What is behind an original destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Not of the mesh: forwarded as is.
    Unknown,
    /// An address of a Service: balanced over the backend's endpoints.
    Service {
        /// Where requests go.
        backend: BackendId,
        /// How the bytes are read.
        protocol: Protocol,
        /// What requests meet in place of the backend; `None`: no route is attached.
        routes: Option<Arc<route::Routes>>,
        /// Of requests when there are no routes, and of connections; `None` is the proxy's defaults.
        policy: Option<Arc<policy::RequestPolicy>>,
    },
    /// A workload's own address: exactly this endpoint.
    Workload {
        /// The one endpoint.
        endpoint: Endpoint,
        /// How the bytes are read.
        protocol: Protocol,
    },
}

impl Target {
    /// The declared protocol, `Detect` when nothing is declared.
    pub fn protocol(&self) -> Protocol {
        match self {
            Target::Unknown => Protocol::Detect,
            Target::Service { protocol, .. } | Target::Workload { protocol, .. } => *protocol,
        }
    }
}

/// A port of a Service, written `namespace/service:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId {
    /// The Service's namespace.
    pub namespace: Arc<str>,
    /// The Service's name.
    pub service: Arc<str>,
    /// The Service's port, not the target port.
    pub port: u16,
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.service, self.port)
    }
}

/// How a port's bytes are read. Anything but `Detect` skips detection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The bytes decide.
    #[default]
    Detect,
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC, which is HTTP/2.
    Grpc,
    /// Bytes, forwarded as they are.
    Opaque,
}

/// One place where a backend listens. There may be tens of thousands, so what they have in common is kept once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where the application listens.
    pub addr: SocketAddr,
    /// `namespace/workload`, empty when unknown.
    pub name: Name,
    /// All else.
    pub traits: Arc<Traits>,
}

/// What most endpoints of a backend have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Traits {
    /// The sidecar in front; `None` is spoken to in plaintext.
    pub sidecar: Option<Sidecar>,
    /// Share of the load relative to others, 1 to 10,000.
    pub weight: u16,
    /// Failure domain, empty when unknown.
    pub zone: Box<str>,
    /// Zones that it is meant for; none: all.
    pub hints: Box<[Box<str>]>,
}

/// What sits in front of an endpoint, at the same IP.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sidecar {
    /// The identity that its certificate must carry.
    pub id: spiffe::Id,
    /// Where it accepts tunnels.
    pub port: u16,
}

impl Traits {
    /// The sidecar in front of an endpoint at `ip`, with its address.
    pub fn peer(&self, ip: IpAddr) -> Option<Peer> {
        let sidecar = self.sidecar.as_ref()?;
        Some(Peer { addr: SocketAddr::new(ip, sidecar.port), id: sidecar.id.clone() })
    }

    /// Whether there is a sidecar in front of an endpoint.
    pub fn is_meshed(&self) -> bool {
        self.sidecar.is_some()
    }
}

impl Default for Traits {
    /// Those of a place of which nothing is known.
    fn default() -> Self {
        Traits { sidecar: None, weight: 1, zone: Box::default(), hints: Box::default() }
    }
}

/// A sidecar: where it accepts tunnels and who it must prove to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The endpoint's IP with the sidecar's inbound port.
    pub addr: SocketAddr,
    /// The identity that its certificate must carry.
    pub id: spiffe::Id,
}

/// The endpoints of a backend, newest state, in the order of their addresses, and how it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSet {
    /// Where it listens.
    pub list: Arc<[Endpoint]>,
    /// How it is used; `None` is the proxy's defaults.
    pub policy: Option<Arc<policy::BackendPolicy>>,
}

impl EndpointSet {
    /// The endpoints that a dial to an address of IPv4, or else of IPv6, should use: those of the same IP version, or all of
    /// them when there are none.
    pub fn of_family(&self, ipv4: bool) -> EndpointSet {
        let same = |endpoint: &&Endpoint| endpoint.addr.is_ipv4() == ipv4;
        match self.list.iter().filter(same).count() {
            0 => self.clone(),
            count if count == self.list.len() => self.clone(),
            _ => EndpointSet { list: self.list.iter().filter(same).cloned().collect(), policy: self.policy.clone() },
        }
    }
}

impl From<Endpoint> for EndpointSet {
    fn from(endpoint: Endpoint) -> Self {
        [endpoint].into_iter().collect()
    }
}

impl FromIterator<Endpoint> for EndpointSet {
    /// With the proxy's defaults.
    fn from_iter<T: IntoIterator<Item = Endpoint>>(endpoints: T) -> Self {
        EndpointSet { list: endpoints.into_iter().collect(), policy: None }
    }
}

/// What holds for connections to the proxy's own workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InboundPolicy {
    /// By the application's port.
    pub ports: BTreeMap<u16, PortPolicy>,
    /// The workload's own, empty when unknown.
    pub zone: Box<str>,
    /// What the application is asked.
    pub checks: Box<[policy::HealthCheck]>,
}

/// What the proxy found of its own application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// All checks succeed.
    pub is_healthy: bool,
    /// Which does not, and why; empty when all do.
    pub detail: String,
}

/// What holds for a port of the application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortPolicy {
    /// As declared.
    pub protocol: Protocol,
    /// `None`: none.
    pub rates: Option<Arc<policy::RateLimits>>,
}

impl InboundPolicy {
    /// How the bytes to `port` are read.
    pub fn protocol(&self, port: u16) -> Protocol {
        self.ports.get(&port).map(|declared| declared.protocol).unwrap_or_default()
    }
}
