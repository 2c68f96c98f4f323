//! Kubernetes-style objects, reduced to what discovery decides on. Plain data; parsed by `manifest`, held by `index`.
//!
//! Invariant: values are checked before they get here: names are DNS names, ports are 1 to 65535, addresses can be dialed
//! and are canonical (never IPv4-mapped IPv6). Non-goal: fields that nobody reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

pub mod policy;
pub mod route;

pub use policy::TrafficPolicy;
pub use route::Route;

/// Labels of an object, or what a selector asks of them.
pub type Labels = BTreeMap<String, String>;

/// Ports whose protocol is server-first or not HTTP: opaque unless something declares otherwise.
pub const OPAQUE_PORTS: [u16; 8] = [25, 587, 3306, 4444, 5432, 6379, 9300, 11211];

/// A namespaced name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The namespace.
    pub namespace: String,
    /// The name within it.
    pub name: String,
}

impl Name {
    /// Both parts, as they are.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// RFC 1123's label.
pub fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// RFC 1123's subdomain.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// What kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `mesh.internal/v1alpha1` Workload.
    Workload,
    /// `gateway.networking.k8s.io/v1` HTTPRoute.
    HttpRoute,
    /// `gateway.networking.k8s.io/v1` GRPCRoute.
    GrpcRoute,
    /// `mesh.internal/v1alpha1` TrafficPolicy.
    TrafficPolicy,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Service, Self::EndpointSlice, Self::Workload, Self::HttpRoute, Self::GrpcRoute, Self::TrafficPolicy];

    /// As manifests spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Workload => "Workload",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TrafficPolicy => "TrafficPolicy",
        }
    }

    /// Whether an error in one leaves everything beside it in use: without it requests still find their way.
    pub fn is_rejected_alone(self) -> bool {
        matches!(self, Self::HttpRoute | Self::GrpcRoute | Self::TrafficPolicy)
    }

    /// The `apiVersion` that goes with it.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Service => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::Workload | Self::TrafficPolicy => "mesh.internal/v1alpha1",
            Self::HttpRoute | Self::GrpcRoute => "gateway.networking.k8s.io/v1",
        }
    }
}

/// What makes an object the same object when it changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// Namespace and name.
    pub name: Name,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// Anything that a source feeds to the index.
#[expect(clippy::large_enum_variant, reason = "objects are on their way when they are this: the index keeps each kind by itself")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A name and addresses for a set of endpoints.
    Service(Service),
    /// Some of a Service's endpoints.
    EndpointSlice(EndpointSlice),
    /// An address that something of ours, or nothing, stands behind.
    Workload(Workload),
    /// Where requests to a Service go.
    HttpRoute(Route),
    /// Where gRPC calls to a Service go.
    GrpcRoute(Route),
    /// How requests to a Service are steered and protected.
    TrafficPolicy(Box<TrafficPolicy>),
}

impl Object {
    /// Kind, namespace and name.
    pub fn key(&self) -> Key {
        let (kind, name) = match self {
            Self::Service(service) => (Kind::Service, &service.name),
            Self::EndpointSlice(slice) => (Kind::EndpointSlice, &slice.name),
            Self::Workload(workload) => (Kind::Workload, &workload.name),
            Self::HttpRoute(route) => (Kind::HttpRoute, &route.name),
            Self::GrpcRoute(route) => (Kind::GrpcRoute, &route.name),
            Self::TrafficPolicy(policy) => (Kind::TrafficPolicy, &policy.name),
        };
        let name = name.clone();
        Key { kind, name }
    }
}

/// How a port's bytes are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// The first bytes decide.
    Detect,
    /// HTTP/1.
    Http1,
    /// HTTP/2, from the first byte on.
    Http2,
    /// gRPC.
    Grpc,
    /// Not looked at.
    Opaque,
}

impl Protocol {
    /// The meaning of an `appProtocol`; none when it has no meaning here, which is the same as its absence.
    pub fn from_app_protocol(text: &str) -> Option<Self> {
        Some(match text {
            "http" | "kubernetes.io/ws" => Self::Http1,
            "http2" | "kubernetes.io/h2c" => Self::Http2,
            "grpc" => Self::Grpc,
            "tcp" | "tls" | "https" | "kubernetes.io/wss" | "mesh.internal/opaque" => Self::Opaque,
            "mesh.internal/detect" => Self::Detect,
            _ => return None,
        })
    }

    /// What holds for a port that nothing declares.
    pub fn default_for(port: u16) -> Self {
        if OPAQUE_PORTS.contains(&port) { Self::Opaque } else { Self::Detect }
    }
}

/// A Service. Of its ports only those of TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// Its virtual addresses; none when it is headless.
    pub addresses: BTreeSet<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Which workloads stand behind it; empty: none, it has slices or nothing.
    pub selector: Labels,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty when the Service has one port only and does not name it.
    pub name: String,
    /// Where clients connect to.
    pub port: NonZeroU16,
    /// Where the application listens.
    pub target: TargetPort,
    /// From `appProtocol`.
    pub protocol: Option<Protocol>,
}

/// Where a Service's port leads, on each workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// This one.
    Number(NonZeroU16),
    /// The workload's port of this name.
    Name(String),
}

/// Some of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its name.
    pub name: Name,
    /// The Service, of the same namespace; none when no label says so.
    pub service: Option<String>,
    /// Ports of all endpoints in it.
    pub ports: Vec<SlicePort>,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// A port of all endpoints in a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the Service's port.
    pub name: String,
    /// Where the application listens.
    pub port: NonZeroU16,
}

/// An endpoint in a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// All of them reach the same thing.
    pub addresses: Vec<IpAddr>,
    /// Whether it takes new connections.
    pub readiness: Readiness,
    /// Empty when unknown.
    pub zone: String,
    /// Zones that it is meant for; none: all.
    pub hints: Vec<String>,
}

/// Whether an endpoint takes new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// It does not.
    NotReady,
}

/// An address that is not a pod: a VM, a process in a network namespace, something external.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its name.
    pub name: Name,
    /// What Services select it by.
    pub labels: Labels,
    /// In the order of the manifest.
    pub addresses: Vec<IpAddr>,
    /// Whether a sidecar stands beside it.
    pub mesh: Mesh,
    /// Empty when unknown.
    pub zone: String,
    /// What it is known to listen on.
    pub ports: Vec<WorkloadPort>,
    /// Relative, 1 to 10,000.
    pub weight: u32,
    /// All have to succeed.
    pub checks: Vec<policy::HealthCheck>,
}

/// Whether a sidecar stands beside a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mesh {
    /// One does, and proves to be this service account of the workload's namespace.
    Meshed {
        /// Its name.
        service_account: String,
    },
    /// None does.
    Plain,
}

/// A port that a workload listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadPort {
    /// For the named target ports of Services; may be empty.
    pub name: String,
    /// Where it listens.
    pub port: NonZeroU16,
    /// From `appProtocol`.
    pub protocol: Option<Protocol>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_protocol_means_what_kubernetes_says_it_means() {
        for (text, protocol) in [
            ("http", Protocol::Http1),
            ("kubernetes.io/ws", Protocol::Http1),
            ("http2", Protocol::Http2),
            ("kubernetes.io/h2c", Protocol::Http2),
            ("grpc", Protocol::Grpc),
            ("tcp", Protocol::Opaque),
            ("tls", Protocol::Opaque),
            ("https", Protocol::Opaque),
            ("kubernetes.io/wss", Protocol::Opaque),
            ("mesh.internal/opaque", Protocol::Opaque),
            ("mesh.internal/detect", Protocol::Detect),
        ] {
            assert_eq!(Protocol::from_app_protocol(text), Some(protocol), "{text}");
        }
        assert_eq!(Protocol::from_app_protocol("mysql"), None);
    }

    #[test]
    fn server_first_ports_are_opaque_by_default() {
        assert_eq!(Protocol::default_for(3306), Protocol::Opaque);
        assert_eq!(Protocol::default_for(8080), Protocol::Detect);
    }
}
