//! Rate limits of the application's ports: what holds now, the buckets, and what a refused client is told.
//!
//! Invariant: all workers share the buckets, so a limit is the sidecar's and not a worker's; buckets outlive a change of
//! policy. Where nothing is limited, a request costs one load of a flag.
//! Non-goal: limits over several replicas; each sidecar has its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::header::{HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response};
use serde::Serialize;

use super::Peer;
use crate::http::Body;
use crate::http::answer::{AskedAs, Reason};
use crate::model::InboundPolicy;
use crate::model::policy::{Rate, RateLimits};
use crate::resilience::gcra::{Limiter, Refusal};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rates {
    is_any: AtomicBool,
    ports: Mutex<BTreeMap<u16, Port>>,
}

#[derive(Debug)]
struct Port {
    rates: Arc<RateLimits>,
    limiter: Limiter,
}

/// The limiter of a port as `/state` shows it.
#[derive(Debug, Serialize)]
pub(super) struct PortState {
    port: u16,
    policy: Arc<str>,
    /// What the bucket of all has now, when there is one.
    total_left: Option<u64>,
    /// Buckets of clients that are not full.
    clients: usize,
    /// Buckets of values of the field that are not full.
    values: usize,
    refused: u64,
}

impl Rates {
    /// Makes the limits those of `policy`.
    pub(super) fn apply(&self, policy: &InboundPolicy, now: Instant) {
        let mut ports = self.ports();
        ports.retain(|port, _| policy.ports.get(port).is_some_and(|port| port.rates.is_some()));
        for (number, declared) in &policy.ports {
            let Some(rates) = &declared.rates else { continue };
            let port =
                ports.entry(*number).or_insert_with(|| Port { rates: Arc::clone(rates), limiter: Limiter::new(now) });
            port.rates = Arc::clone(rates);
        }
        self.is_any.store(!ports.is_empty(), Ordering::Relaxed);
    }

    /// Whether a request from `peer` to `port` may pass; it is counted.
    pub(super) fn admit(&self, port: u16, peer: &Peer, headers: &HeaderMap) -> Result<(), Refusal> {
        if !self.is_any.load(Ordering::Relaxed) {
            return Ok(());
        }
        let client = match peer {
            Peer::Mesh(proven) => Some(&proven.id),
            Peer::Stranger => None,
        };
        match self.ports().get_mut(&port) {
            Some(Port { rates, limiter }) => limiter.admit(rates, client, headers, Instant::now()),
            None => Ok(()),
        }
    }

    /// Lets go of buckets that are full.
    pub(super) fn sweep(&self, now: Instant) {
        self.ports().values_mut().for_each(|port| port.limiter.sweep(now));
    }

    pub(super) fn state(&self, now: Instant) -> Vec<PortState> {
        self.ports().iter().map(|(number, port)| port.state(*number, now)).collect()
    }

    fn ports(&self) -> MutexGuard<'_, BTreeMap<u16, Port>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Port {
    fn state(&self, port: u16, now: Instant) -> PortState {
        let (clients, values) = self.limiter.buckets();
        PortState {
            port,
            policy: Arc::clone(&self.rates.name),
            total_left: self.rates.total.map(|rate| self.limiter.left(rate, now)),
            clients,
            values,
            refused: self.limiter.refused(),
        }
    }
}

/// For people: which limit, and what it is.
pub(super) fn detail(refusal: &Refusal) -> String {
    let (requests, seconds) = quota(refusal.rate);
    let Refusal { limit, rate, wait } = refusal;
    let limit = limit.word();
    format!("limit {limit}: {requests} requests in {seconds} s, {} at once; next in {wait:.1?}", rate.burst)
}

/// What a refused client is told: the fields of the sixth draft of draft-ietf-httpapi-ratelimit-headers, which clients read
/// today, where the newest draft's have no readers yet.
pub(super) fn answer(refusal: &Refusal, asked_as: AskedAs, detail: &str) -> Response<Body> {
    let mut response = asked_as.answer(Reason::RateLimited, detail);
    let headers = response.headers_mut();
    if asked_as == AskedAs::Grpc {
        headers.insert("grpc-retry-pushback-ms", number(rounded_up(refusal.wait, Duration::from_millis(1))));
    }
    let (requests, seconds) = quota(refusal.rate);
    let wait = rounded_up(refusal.wait, Duration::from_secs(1));
    headers.insert(RETRY_AFTER, number(wait));
    headers.insert("ratelimit-limit", number(requests));
    headers.insert("ratelimit-remaining", number(0));
    headers.insert("ratelimit-reset", number(wait));
    if let Ok(policy) = HeaderValue::try_from(format!("{requests};w={seconds}")) {
        headers.insert("ratelimit-policy", policy);
    }
    response
}

/// Requests, and in how many seconds.
fn quota(rate: Rate) -> (u64, u64) {
    if rate.per_minute.is_multiple_of(60) { (rate.per_minute / 60, 1) } else { (rate.per_minute, 60) }
}

fn rounded_up(time: Duration, unit: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(unit.as_nanos())).unwrap_or(u64::MAX).max(1)
}

fn number(number: u64) -> HeaderValue {
    number.into()
}

#[cfg(test)]
mod tests {
    use mesh_mtls::spiffe;

    use super::*;
    use crate::model::PortPolicy;
    use crate::resilience::gcra::Limit;

    fn policy(rate: Option<Rate>) -> InboundPolicy {
        let rates = rate.map(|rate| Arc::new(RateLimits { per_client: Some(rate), ..RateLimits::default() }));
        InboundPolicy {
            ports: [(80, PortPolicy { rates, ..PortPolicy::default() })].into(),
            ..InboundPolicy::default()
        }
    }

    #[test]
    fn limits_come_change_and_go_with_the_policy_and_buckets_stay() {
        let (rates, now) = (Rates::default(), Instant::now());
        let client = Peer::mesh(spiffe::Id::new("cluster.local", "shop", "cart").unwrap());
        let admitted = |port| (0..9).filter(|_| rates.admit(port, &client, &HeaderMap::new()).is_ok()).count();
        assert_eq!(admitted(80), 9, "no policy");
        rates.apply(&policy(Some(Rate { per_minute: 1, burst: 3 })), now);
        assert_eq!((admitted(80), admitted(81)), (3, 9));
        rates.apply(&policy(Some(Rate { per_minute: 2, burst: 3 })), now);
        assert_eq!(admitted(80), 0, "what was taken stays taken");
        assert_eq!(serde_json::to_value(rates.state(now)).unwrap()[0]["clients"], 1);
        rates.apply(&policy(None), now);
        assert_eq!(admitted(80), 9);
        assert!(rates.state(now).is_empty());
    }

    #[test]
    fn a_refused_client_learns_when_to_come_again() {
        let rate = Rate { per_minute: 60_000, burst: 50 };
        let refusal = Refusal { limit: Limit::Client, rate, wait: Duration::from_micros(1_500) };
        let http = answer(&refusal, AskedAs::Http, &detail(&refusal));
        assert_eq!(http.status(), 429);
        for (name, value) in [
            ("retry-after", "1"),
            ("ratelimit-limit", "1000"),
            ("ratelimit-remaining", "0"),
            ("ratelimit-reset", "1"),
            ("ratelimit-policy", "1000;w=1"),
            ("mesh-error", "rate_limited; limit client: 1000 requests in 1 s, 50 at once; next in 1.5ms"),
        ] {
            assert_eq!(http.headers()[name], value);
        }
        let grpc = answer(&refusal, AskedAs::Grpc, "");
        assert_eq!(
            (&grpc.headers()["grpc-status"], &grpc.headers()["grpc-retry-pushback-ms"]),
            (&"8".parse().unwrap(), &"2".parse().unwrap())
        );
    }
}
