//! Wire messages to what they ask for, and snapshots to bytes: the place where wire types live and die.
//!
//! Invariant: nothing a proxy sends panics or is taken on trust: lengths, ports and names are checked here.
//! Non-goal: whether a request fits the stream (`session`).

mod policies;
mod routes;

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use mesh_proto::discovery as wire;
use prost::Message as _;

use crate::index::{Backend, Endpoint, Snapshot, State, TUNNEL_PORT, Target};
use crate::model::{Name, Protocol, is_label, is_subdomain};

/// Why a request cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("address of {0} bytes")]
    Address(usize),
    #[error("port {0} is not within 1 to 65535")]
    Port(u32),
    #[error("{0} is no DNS name")]
    Name(&'static str),
}

/// What a proxy says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    Hello { addresses: Vec<IpAddr>, version: String, namespace: String, workload: String },
    Subscribe { id: u64, to: Wanted },
    Unsubscribe { id: u64 },
    Ack { id: u64, version: u64, error: String },
    Health { healthy: bool, detail: String },
}

/// A resource, as far as a proxy names it; who it is itself is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Outbound(SocketAddr),
    Endpoints(Backend),
    Inbound,
}

impl TryFrom<wire::WatchRequest> for Request {
    type Error = Malformed;

    fn try_from(request: wire::WatchRequest) -> Result<Self, Malformed> {
        use wire::watch_request::Kind;
        Ok(match request.kind.ok_or(Malformed::Missing("kind of request"))? {
            Kind::Hello(hello) => Self::Hello {
                addresses: hello.addresses.iter().map(|bytes| address(bytes)).collect::<Result<_, _>>()?,
                version: hello.proxy_version,
                namespace: hello.namespace,
                workload: hello.workload,
            },
            Kind::Subscribe(subscribe) => Self::Subscribe {
                id: subscribe.id,
                to: subscribe
                    .resource
                    .and_then(|resource| resource.kind)
                    .ok_or(Malformed::Missing("resource"))?
                    .try_into()?,
            },
            Kind::Unsubscribe(wire::Unsubscribe { id }) => Self::Unsubscribe { id },
            Kind::Ack(wire::Ack { id, version, error }) => Self::Ack { id, version, error },
            Kind::Health(wire::Health { healthy, detail }) => Self::Health { healthy, detail },
        })
    }
}

impl TryFrom<wire::resource::Kind> for Wanted {
    type Error = Malformed;

    fn try_from(kind: wire::resource::Kind) -> Result<Self, Malformed> {
        use wire::resource::Kind;
        Ok(match kind {
            Kind::Outbound(addr) => Self::Outbound(SocketAddr::new(address(&addr.ip)?, port(addr.port)?)),
            Kind::Endpoints(backend) => {
                if !is_label(&backend.namespace) {
                    return Err(Malformed::Name("namespace of backend"));
                }
                if !is_subdomain(&backend.service) {
                    return Err(Malformed::Name("service of backend"));
                }
                let port = port(backend.port)?;
                Self::Endpoints(Backend { service: Name::new(backend.namespace, backend.service), port })
            }
            Kind::Inbound(wire::Inbound {}) => Self::Inbound,
        })
    }
}

fn address(bytes: &[u8]) -> Result<IpAddr, Malformed> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let address = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    // An IPv4 address in IPv6 clothes is the IPv4 address.
    address.map(|address| address.to_canonical()).map_err(|_| Malformed::Address(bytes.len()))
}

fn port(port: u32) -> Result<u16, Malformed> {
    u16::try_from(port).ok().filter(|port| *port != 0).ok_or(Malformed::Port(port))
}

/// Most endpoints that a proxy takes of a backend.
const MAX_ENDPOINTS: usize = 10_000;
/// Most bytes of a snapshot's endpoints: a proxy takes no message above 4 MiB, and ends the stream that brings one.
const MAX_ENDPOINT_BYTES: usize = 3_584 * 1024;

/// The endpoints that proxies take, by address; those after them are left out.
fn fitting(endpoints: &[Endpoint]) -> impl Iterator<Item = wire::Endpoint> {
    let endpoints = endpoints.iter().take(MAX_ENDPOINTS).map(wire::Endpoint::from);
    endpoints.scan(MAX_ENDPOINT_BYTES, |room, endpoint| {
        let length = endpoint.encoded_len();
        // One byte says that an endpoint follows.
        let length = 1 + prost::length_delimiter_len(length) + length;
        *room = room.checked_sub(length)?;
        Some(endpoint)
    })
}

/// All of the response but the subscription's id, so that all subscriptions share the bytes. Fields may stand in any
/// order, and an id of zero is not written (both: protobuf's encoding). Beside it, how many endpoints it leaves out;
/// other resources are small: their bounds are the length of a name, and the number of ports.
pub fn encode(snapshot: &Snapshot) -> (Bytes, usize) {
    let message = wire::watch_response::Snapshot::from(&snapshot.state);
    let omitted = match (&snapshot.state, &message) {
        (State::Endpoints(all), wire::watch_response::Snapshot::Endpoints(kept)) => {
            all.list.len() - kept.endpoints.len()
        }
        _ => 0,
    };
    let response = wire::WatchResponse { id: 0, version: snapshot.version, snapshot: Some(message) };
    (response.encode_to_vec().into(), omitted)
}

impl From<&State> for wire::watch_response::Snapshot {
    fn from(state: &State) -> Self {
        match state {
            State::Outbound(target) => Self::Outbound(target.into()),
            State::Endpoints(endpoints) => {
                let policy = endpoints.policy.as_deref().map(Into::into);
                Self::Endpoints(wire::Endpoints { endpoints: fitting(&endpoints.list).collect(), policy })
            }
            State::Inbound(inbound) => Self::Inbound(inbound.into()),
        }
    }
}

impl From<&Target> for wire::OutboundTarget {
    fn from(target: &Target) -> Self {
        use wire::outbound_target::Kind;
        let kind = match target {
            Target::Unknown => Kind::Unknown(wire::Unknown {}),
            Target::Service { backend, protocol, routes, policy } => Kind::Service(wire::Service {
                backend: Some(backend.into()),
                protocol: wire::Protocol::from(*protocol).into(),
                routes: routes.as_deref().map(Into::into),
                policy: policy.as_deref().map(Into::into),
            }),
            Target::Workload { endpoint, protocol } => Kind::Workload(wire::Workload {
                endpoint: Some((&**endpoint).into()),
                protocol: wire::Protocol::from(*protocol).into(),
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl From<&Endpoint> for wire::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        let ip = match endpoint.address.ip() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let identity = endpoint.identity.as_ref();
        Self {
            address: Some(wire::SocketAddress { ip: ip.into(), port: u32::from(endpoint.address.port()) }),
            name: endpoint.name.to_string(),
            identity: identity.map_or_else(String::new, ToString::to_string),
            tunnel_port: identity.map_or(0, |_| u32::from(TUNNEL_PORT)),
            weight: endpoint.weight,
            zone: endpoint.zone.to_string(),
            hints: endpoint.hints.as_deref().unwrap_or_default().to_vec(),
        }
    }
}

impl From<Protocol> for wire::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Detect => Self::Detect,
            Protocol::Http1 => Self::Http1,
            Protocol::Http2 => Self::Http2,
            Protocol::Grpc => Self::Grpc,
            Protocol::Opaque => Self::Opaque,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbound(ip: &'static [u8], port: u32) -> Result<Wanted, Malformed> {
        let ip = Bytes::from_static(ip);
        wire::resource::Kind::Outbound(wire::SocketAddress { ip, port }).try_into()
    }

    #[test]
    fn addresses_and_ports_are_checked() {
        let addr = |text: &str| Ok(Wanted::Outbound(text.parse().unwrap()));
        assert_eq!(outbound(&[10, 0, 0, 1], 80), addr("10.0.0.1:80"));
        assert_eq!(outbound(b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x01", 65535), addr("10.0.0.1:65535"));
        for length in [0, 3, 5, 15, 17] {
            assert_eq!(outbound(&[1; 17][..length], 80), Err(Malformed::Address(length)));
        }
        for port in [0, 65536, u32::MAX] {
            assert_eq!(outbound(&[10, 0, 0, 1], port), Err(Malformed::Port(port)));
        }
    }

    #[test]
    fn names_of_backends_are_checked() {
        for (namespace, service, missing) in [
            ("", "web", "namespace of backend"),
            ("shop", "../web", "service of backend"),
            ("shop", "", "service of backend"),
        ] {
            let (namespace, service) = (namespace.to_owned(), service.to_owned());
            let kind = wire::resource::Kind::Endpoints(wire::BackendRef { namespace, service, port: 80 });
            assert_eq!(Wanted::try_from(kind), Err(Malformed::Name(missing)));
        }
    }

    #[test]
    fn empty_messages_are_told_from_others() {
        assert_eq!(Request::try_from(wire::WatchRequest { kind: None }), Err(Malformed::Missing("kind of request")));
        let subscribe = wire::Subscribe { id: 1, resource: Some(wire::Resource { kind: None }) };
        let request = wire::WatchRequest { kind: Some(wire::watch_request::Kind::Subscribe(subscribe)) };
        assert_eq!(Request::try_from(request), Err(Malformed::Missing("resource")));
    }
}
