//! Wire messages to model types: the place where wire types die.
//!
//! Invariant: a value that leaves here is whole and checked (ports, addresses, names, identities, sizes); anything odd refuses
//! the message as a whole, and nothing a peer sends can panic us. Equal snapshots parse to equal values, whatever order the
//! endpoints came in.
//! Not here: what values have in common (`common`), which subscription a message belongs to (`ledger`), what becomes of the value (`table`).

mod policies;
mod routes;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use mesh_mtls::spiffe;
use mesh_proto::discovery as wire;

use crate::model::{
    BackendId, Endpoint, EndpointSet, InboundPolicy, Name, PortPolicy, Protocol, Sidecar, Target, Traits,
};

/// Most endpoints of one backend.
pub(super) const MAX_ENDPOINTS: usize = 10_000;
/// Largest relative weight.
const MAX_WEIGHT: u32 = 10_000;
/// Longest `namespace/workload`: a DNS label, a slash, a DNS name.
const MAX_ENDPOINT_NAME: usize = 63 + 1 + 253;
/// Most zones that an endpoint is meant for; further ones do not matter.
const MAX_HINTS: usize = 16;
/// Most health checks of a workload.
const MAX_CHECKS: usize = 16;
/// Longest namespace, as Kubernetes has it.
const MAX_NAMESPACE: usize = 63;
/// Longest name of a Service or a zone.
const MAX_NAME: usize = 253;

/// Why an update was refused. The text goes back to the control plane.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("snapshot of another kind than was asked for")]
    OtherKind,
    #[error("IP address of {0} bytes")]
    IpLength(usize),
    #[error("port {0} is not within 1 to 65535")]
    Port(u32),
    #[error("{0} cannot be an endpoint's address")]
    EndpointAddress(IpAddr),
    #[error("{0} is empty, too long, or has characters that a name cannot have")]
    Name(&'static str),
    #[error("identity of {0} is no SPIFFE id of a workload")]
    Identity(SocketAddr),
    #[error("weight {0} is above {MAX_WEIGHT}")]
    Weight(u32),
    #[error("protocol {0} is unknown")]
    Protocol(i32),
    #[error("{0} endpoints are more than {MAX_ENDPOINTS}")]
    TooManyEndpoints(usize),
    #[error("endpoint {0} is there twice")]
    DuplicateEndpoint(SocketAddr),
    #[error("port {0} is there twice")]
    DuplicatePort(u16),
    #[error("route {route}: {what}")]
    Route { route: String, what: String },
    #[error("policy {policy}: {what}")]
    Policy { policy: String, what: String },
}

/// The newest state of a resource, parsed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Snapshot {
    Outbound(Target),
    Endpoints(EndpointSet),
    Inbound(InboundPolicy),
}

impl TryFrom<Option<wire::watch_response::Snapshot>> for Snapshot {
    type Error = Malformed;

    fn try_from(snapshot: Option<wire::watch_response::Snapshot>) -> Result<Self, Malformed> {
        use wire::watch_response::Snapshot as Wire;
        match snapshot.ok_or(Malformed::Missing("snapshot"))? {
            Wire::Outbound(target) => target.try_into().map(Snapshot::Outbound),
            Wire::Endpoints(endpoints) => endpoints.try_into().map(Snapshot::Endpoints),
            Wire::Inbound(policy) => policy.try_into().map(Snapshot::Inbound),
            // Of the stream, and not of a subscription.
            Wire::End(_) => Err(Malformed::OtherKind),
        }
    }
}

impl TryFrom<wire::OutboundTarget> for Target {
    type Error = Malformed;

    fn try_from(target: wire::OutboundTarget) -> Result<Self, Malformed> {
        use wire::outbound_target::Kind;
        Ok(match target.kind.ok_or(Malformed::Missing("kind of target"))? {
            Kind::Unknown(_) => Target::Unknown,
            Kind::Service(service) => Target::Service {
                backend: service.backend.ok_or(Malformed::Missing("backend"))?.try_into()?,
                protocol: protocol(service.protocol)?,
                routes: service.routes.map(routes::parse).transpose()?.map(Arc::new),
                policy: policies::requests(service.policy)?,
            },
            Kind::Workload(workload) => Target::Workload {
                endpoint: workload.endpoint.ok_or(Malformed::Missing("endpoint"))?.try_into()?,
                protocol: protocol(workload.protocol)?,
            },
        })
    }
}

impl TryFrom<wire::BackendRef> for BackendId {
    type Error = Malformed;

    fn try_from(backend: wire::BackendRef) -> Result<Self, Malformed> {
        if !is_name(&backend.namespace, MAX_NAMESPACE) {
            return Err(Malformed::Name("namespace"));
        }
        if !is_name(&backend.service, MAX_NAME) {
            return Err(Malformed::Name("service"));
        }
        let (namespace, service) = (backend.namespace.into(), backend.service.into());
        Ok(BackendId { namespace, service, port: port(backend.port)? })
    }
}

impl TryFrom<wire::Endpoints> for EndpointSet {
    type Error = Malformed;

    fn try_from(endpoints: wire::Endpoints) -> Result<Self, Malformed> {
        let (endpoints, policy) = (endpoints.endpoints, policies::backend(endpoints.policy)?);
        if endpoints.len() > MAX_ENDPOINTS {
            return Err(Malformed::TooManyEndpoints(endpoints.len()));
        }
        let names = Name::all_of(endpoints.iter().map(|endpoint| &*endpoint.name));
        let named = endpoints.into_iter().zip(names);
        let mut parsed = named.map(|(it, name)| endpoint(it, name)).collect::<Result<Vec<_>, _>>()?;
        // Sorted, equal sets are equal values, and a duplicate stands beside its twin.
        parsed.sort_unstable_by_key(|endpoint| endpoint.addr);
        if let Some(twins) = parsed.windows(2).find(|pair| pair[0].addr == pair[1].addr) {
            return Err(Malformed::DuplicateEndpoint(twins[0].addr));
        }
        Ok(EndpointSet { list: parsed.into(), policy })
    }
}

impl TryFrom<wire::Endpoint> for Endpoint {
    type Error = Malformed;

    fn try_from(alone: wire::Endpoint) -> Result<Self, Malformed> {
        let name = Name::from(&*alone.name);
        endpoint(alone, name)
    }
}

impl TryFrom<wire::InboundPolicy> for InboundPolicy {
    type Error = Malformed;

    fn try_from(policy: wire::InboundPolicy) -> Result<Self, Malformed> {
        let mut ports = BTreeMap::new();
        for declared in policy.ports {
            let number = port(declared.port)?;
            let rates = policies::rates(declared.rates)?;
            let declared = PortPolicy { protocol: protocol(declared.protocol)?, rates };
            if ports.insert(number, declared).is_some() {
                return Err(Malformed::DuplicatePort(number));
            }
        }
        if policy.checks.len() > MAX_CHECKS {
            return Err(Malformed::Policy { policy: "health check".into(), what: format!("more than {MAX_CHECKS}") });
        }
        let checks = policy.checks.into_iter().map(policies::check).collect::<Result<_, _>>()?;
        Ok(InboundPolicy { ports, zone: zone(policy.zone)?, checks })
    }
}

fn endpoint(endpoint: wire::Endpoint, name: Name) -> Result<Endpoint, Malformed> {
    let address = endpoint.address.ok_or(Malformed::Missing("address"))?;
    let addr = SocketAddr::new(endpoint_ip(&address.ip)?, port(address.port)?);
    if !name.is_empty() && !is_qualified_name(&name) {
        return Err(Malformed::Name("name"));
    }
    let sidecar = sidecar(addr, &endpoint.identity, endpoint.tunnel_port)?;
    let hints = endpoint.hints.into_iter().take(MAX_HINTS).map(zone).collect::<Result<_, _>>()?;
    let traits = Traits { sidecar, weight: weight(endpoint.weight)?, zone: zone(endpoint.zone)?, hints };
    Ok(Endpoint { addr, name, traits: traits.into() })
}

/// Empty when unknown.
fn zone(zone: String) -> Result<Box<str>, Malformed> {
    if zone.is_empty() || is_name(&zone, MAX_NAME) { Ok(zone.into()) } else { Err(Malformed::Name("zone")) }
}

/// Without an identity there is no sidecar to speak to, and the tunnel port means nothing.
fn sidecar(endpoint: SocketAddr, identity: &str, tunnel_port: u32) -> Result<Option<Sidecar>, Malformed> {
    if identity.is_empty() {
        return Ok(None);
    }
    let id = identity.parse::<spiffe::Id>().map_err(|_| Malformed::Identity(endpoint))?;
    Ok(Some(Sidecar { id, port: port(tunnel_port)? }))
}

fn weight(weight: u32) -> Result<u16, Malformed> {
    let known = u16::try_from(weight).ok().filter(|_| weight <= MAX_WEIGHT);
    // An unset field is 0 on the wire.
    known.map(|weight| weight.max(1)).ok_or(Malformed::Weight(weight))
}

fn protocol(number: i32) -> Result<Protocol, Malformed> {
    Ok(match wire::Protocol::try_from(number).map_err(|_| Malformed::Protocol(number))? {
        wire::Protocol::Detect => Protocol::Detect,
        wire::Protocol::Http1 => Protocol::Http1,
        wire::Protocol::Http2 => Protocol::Http2,
        wire::Protocol::Grpc => Protocol::Grpc,
        wire::Protocol::Opaque => Protocol::Opaque,
    })
}

fn port(number: u32) -> Result<u16, Malformed> {
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or(Malformed::Port(number))
}

/// An address that a workload elsewhere can have. An IPv4-mapped one is the IPv4 address that it names, so that
/// `::ffff:127.0.0.1` is loopback here as it is for the kernel.
fn endpoint_ip(bytes: &[u8]) -> Result<IpAddr, Malformed> {
    let ip = match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(v4), _) => IpAddr::from(v4),
        (_, Ok(v6)) => IpAddr::from(v6).to_canonical(),
        _ => return Err(Malformed::IpLength(bytes.len())),
    };
    let odd = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    if odd { Err(Malformed::EndpointAddress(ip)) } else { Ok(ip) }
}

/// `namespace/workload`.
fn is_qualified_name(text: &str) -> bool {
    let Some((namespace, name)) = text.split_once('/') else {
        return false;
    };
    text.len() <= MAX_ENDPOINT_NAME && is_name(namespace, MAX_NAMESPACE) && is_name(name, MAX_NAME)
}

/// Names become labels of metrics, words of logs and fields of `/state`, so they keep to what Kubernetes allows in a name
/// or a label's value.
fn is_name(text: &str, longest: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !text.is_empty() && text.len() <= longest && text.bytes().all(allowed)
}
