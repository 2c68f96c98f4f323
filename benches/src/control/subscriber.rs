//! A proxy, as far as destination can tell: the link that proxies use, Hello, subscriptions, acknowledgements.
//!
//! Invariant: it asks as a proxy does (its own policy, targets, their endpoints), acknowledges each snapshot, and never
//! ends by itself. Non-goal: what a proxy would do with the answers.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail};
use mesh_mtls::dial::dial;
use mesh_mtls::messages::{LARGEST, Link};
use mesh_mtls::spiffe::Id;
use mesh_mtls::tls::Connector;
use mesh_proto::discovery as wire;
use prost::Message as _;
use tokio::sync::oneshot;
use wire::watch_request::Kind;
use wire::watch_response::Snapshot;

use super::board::{Board, Place};
use super::manifests;

/// Who it is, and what its application talks to.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Its workload's.
    pub address: Ipv4Addr,
    /// By number.
    pub services: Vec<usize>,
}

/// Where destination is, and how to get there.
#[derive(Clone, Debug)]
pub struct Way {
    /// `host:port`.
    pub addr: String,
    /// Who it must prove to be.
    pub id: Id,
    /// With the proxies' certificate.
    pub connector: Connector,
}

/// Follows until the stream ends, which is an error. `served` is told once each subscription was answered.
///
/// # Errors
/// Why it ended, or what was wrong with an answer.
pub async fn follow(
    way: Way,
    proxy: Proxy,
    board: Arc<Board>,
    served: oneshot::Sender<()>,
) -> anyhow::Result<Infallible> {
    let io = dial(&way.addr, &way.id, &way.connector).await.context("connect")?;
    let mut link = Link::new(io, LARGEST);
    link.send(&request(Kind::Hello(hello(&proxy))));
    for (id, resource) in (1..).zip(resources(&proxy)) {
        link.send(&request(Kind::Subscribe(wire::Subscribe { id, resource: Some(resource) })));
    }
    let places: Vec<_> = proxy.services.iter().map(|service| board.follow(*service)).collect();
    let mut unanswered: Vec<_> = (1..).take(resources(&proxy).count()).collect();
    let mut served = Some(served);
    while let Some(message) = link.next().await? {
        if message.is_empty() {
            continue;
        }
        let now = Instant::now();
        let wire::WatchResponse { id, version, snapshot } = wire::WatchResponse::decode(message)?;
        note(&board, &places, id, snapshot, now)?;
        link.send(&request(Kind::Ack(wire::Ack { id, version, error: String::new() })));
        unanswered.retain(|waiting| *waiting != id);
        if unanswered.is_empty()
            && let Some(served) = served.take()
        {
            // Nobody listens when the bench is at its end.
            let _ = served.send(());
        }
    }
    bail!("destination has ended the stream")
}

fn note(board: &Board, places: &[Place], id: u64, snapshot: Option<Snapshot>, now: Instant) -> anyhow::Result<()> {
    match snapshot.context("an update without a snapshot")? {
        Snapshot::Endpoints(wire::Endpoints { endpoints, .. }) => {
            // After the policy come pairs: a target, and its endpoints.
            let place = (usize::try_from(id)? / 2).wrapping_sub(1);
            let place = places.get(place).with_context(|| format!("endpoints for subscription {id}"))?;
            if endpoints.len() != manifests::ENDPOINTS || endpoints.iter().any(|endpoint| endpoint.identity.is_empty())
            {
                bail!("{} endpoints, or one without identity", endpoints.len());
            }
            board.heard(*place, now, |address| endpoints.iter().any(|endpoint| is_at(endpoint, address)));
        }
        Snapshot::Outbound(wire::OutboundTarget { kind: Some(wire::outbound_target::Kind::Service(_)) })
        | Snapshot::Inbound(_) => {}
        Snapshot::End(wire::End { reason }) => bail!("destination ends the stream: {reason}"),
        Snapshot::Outbound(target) => bail!("a target is not known as a service: {target:?}"),
    }
    Ok(())
}

fn is_at(endpoint: &wire::Endpoint, address: Ipv4Addr) -> bool {
    endpoint.address.as_ref().is_some_and(|at| at.ip[..] == address.octets())
}

fn request(kind: Kind) -> wire::WatchRequest {
    wire::WatchRequest { kind: Some(kind) }
}

fn hello(proxy: &Proxy) -> wire::Hello {
    let addresses = vec![proxy.address.octets().to_vec().into()];
    wire::Hello { proxy_version: "bench".to_owned(), addresses, ..wire::Hello::default() }
}

fn resources(proxy: &Proxy) -> impl Iterator<Item = wire::Resource> {
    use wire::resource::Kind;
    let of_services = proxy.services.iter().flat_map(|service| {
        let addr = manifests::address(*service);
        let ip = match addr.ip() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let target = wire::SocketAddress { ip: ip.into(), port: u32::from(addr.port()) };
        [Kind::Outbound(target), Kind::Endpoints(manifests::backend(*service))]
    });
    // Numbered from 1 on: the policy is 1, so that a target has an even number and its endpoints the next.
    let kinds = std::iter::once(Kind::Inbound(wire::Inbound {})).chain(of_services);
    kinds.map(|kind| wire::Resource { kind: Some(kind) })
}
