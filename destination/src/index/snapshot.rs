//! What can be watched, and what is known of it. Plain data.
//!
//! Invariant: a snapshot never changes; its encoding is made once, by whoever needs it first, and shared.
//! Non-goal: the encoding itself (`service::wire`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use mesh_mtls::spiffe;

use crate::model::{Name, Protocol, route};

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
    /// Said: its workload's addresses, canonical.
    pub addresses: BTreeSet<IpAddr>,
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

    /// The encoding; `encode` is called by the first who asks.
    pub fn encoded(&self, encode: impl FnOnce(&Self) -> Bytes) -> Bytes {
        self.encoded.get_or_init(|| encode(self)).clone()
    }
}

/// What is known, by kind of resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Of an original destination.
    Outbound(Target),
    /// Of a backend, ordered by address.
    Endpoints(Vec<Endpoint>),
    /// Of a workload's ports; those that are absent are to be detected.
    Inbound(BTreeMap<u16, Protocol>),
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
    },
    /// A workload: exactly this endpoint.
    Workload {
        /// Which.
        endpoint: Endpoint,
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
    /// How long they may take.
    pub timeouts: route::Timeouts,
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
}
