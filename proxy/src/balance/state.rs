//! What `/state` shows of a backend and of each of its endpoints.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::Settings;
use super::list::{Business, List};
use crate::model::policy::{BalancingKind, HashKey};

/// A backend.
#[derive(Debug, Serialize)]
pub struct State {
    /// `namespace/name` of the policies that hold for it; none: the proxy's defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Arc<str>>,
    balancing: &'static str,
    /// What equal requests have in common, where they go by hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<Hash>,
    /// More endpoints are out than the breaker allows: it is not heeded.
    panic: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Limited>,
    endpoints: Vec<EndpointState>,
}

#[derive(Debug, Serialize)]
struct Hash {
    /// In the order in which they are looked for.
    keys: Vec<String>,
    /// Of the mean load, before a key moves on.
    bounded_load_percent: u32,
}

#[derive(Debug, Serialize)]
struct Limited {
    requests: usize,
    pending: usize,
    connections: usize,
}

/// One endpoint.
#[derive(Debug, Serialize)]
struct EndpointState {
    addr: SocketAddr,
    name: Box<str>,
    identity: Option<String>,
    zone: Box<str>,
    /// It is of the proxy's own zone, where zones make a difference.
    #[serde(skip_serializing_if = "Option::is_none")]
    near: Option<bool>,
    weight: u16,
    /// Of what it would get otherwise: less in slow start, and when it asked to be spared.
    share: f64,
    latency_ms: f64,
    in_flight: usize,
    load: f64,
    failing: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    breaker: Option<BreakerState>,
}

/// A breaker that has something to say.
#[derive(Debug, Serialize)]
struct BreakerState {
    open: bool,
    /// Until a probe may go there; 0: now, or one is on its way.
    probe_in_ms: u128,
    failures_in_a_row: u32,
}

impl State {
    pub(super) fn of(list: &List, limited: Option<[usize; 3]>, settings: &Settings, now: Instant) -> Self {
        Self {
            policy: list.policy().map(|policy| Arc::clone(&policy.name)),
            balancing: match list.kind() {
                None | Some(BalancingKind::PeakEwma) => "PeakEwma",
                Some(BalancingKind::LeastRequest) => "LeastRequest",
                Some(BalancingKind::RoundRobin) => "RoundRobin",
                Some(BalancingKind::ConsistentHash { .. }) => "ConsistentHash",
            },
            hash: list.kind().and_then(hash),
            panic: list.has_ejected() && list.is_in_panic(&list.breaker()),
            limits: limited.map(|[requests, pending, connections]| Limited { requests, pending, connections }),
            endpoints: (0..list.len()).map(|i| endpoint(list, i, settings, now)).collect(),
        }
    }
}

fn hash(kind: &BalancingKind) -> Option<Hash> {
    let BalancingKind::ConsistentHash { keys, bounded_load_percent } = kind else { return None };
    let key = |key: &HashKey| match key {
        HashKey::Header(name) => format!("header {name}"),
        HashKey::Cookie(cookie) => format!("cookie {}", cookie.name),
        HashKey::SourceAddress => "source address".to_owned(),
        HashKey::Query(name) => format!("query {name}"),
    };
    Some(Hash { keys: keys.iter().map(key).collect(), bounded_load_percent: *bounded_load_percent })
}

fn endpoint(list: &List, i: usize, settings: &Settings, now: Instant) -> EndpointState {
    let model = &list.models()[i];
    let Business { latency, in_flight, load } = list.business(i, settings, now);
    EndpointState {
        addr: model.addr,
        name: Box::from(&*model.name),
        identity: model.traits.sidecar.as_ref().map(|sidecar| sidecar.id.to_string()),
        zone: model.traits.zone.clone(),
        near: list.zones().map(|zones| zones.near.iter().any(|near| *near as usize == i)),
        weight: model.traits.weight,
        share: list.share(i, now),
        latency_ms: latency * 1e3,
        in_flight,
        load,
        failing: list.is_failing(i),
        breaker: breaker(list, i, now),
    }
}

fn breaker(list: &List, i: usize, now: Instant) -> Option<BreakerState> {
    let vitals = list.vitals(i)?;
    let (until, failures_in_a_row) = (vitals.ejected_until(), vitals.failures_in_a_row());
    (until.is_some() || failures_in_a_row > 0).then(|| BreakerState {
        open: until.is_some(),
        probe_in_ms: until.map_or(0, |until| until.saturating_duration_since(now).as_millis()),
        failures_in_a_row,
    })
}
