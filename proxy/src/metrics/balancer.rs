//! What a balancer and the tunnels under it show.
//!
//! Invariant: gauges are sums of what their holders contribute, and a holder takes its part back when it is dropped; so
//! several balancers may share a label set (those beyond the series cap do).

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use super::registry::{Counter, Gauge, Label, Registry, label};
use super::table::Reasons;
use super::{Direction, family};

/// Series of a [`Target`] from its begin; the reasons of retries come on top, one each.
pub(super) const SERIES: usize = 2;

/// The handles of one target, shared by its balancers.
pub(super) struct Target {
    registry: Arc<Registry>,
    available: Gauge,
    failing: Gauge,
    retries: Reasons<12>,
    /// Boxed, since most targets never need it.
    rare: OnceLock<Box<Rare>>,
}

struct Rare {
    results: Reasons<8>,
    timeouts: Reasons<8>,
    /// The own zone's, and those of all others.
    zones: [OnceLock<Crossing>; 2],
}

/// What goes to one kind of zone.
struct Crossing {
    requests: Counter,
    sent: Counter,
    received: Counter,
}

impl Crossing {
    fn new(registry: &Registry, mut labels: Vec<Label>, zone: &'static str) -> Self {
        labels.push(label("zone", zone));
        let counter = |family| registry.counter(family, &labels);
        let (requests, sent) = (counter(&family::ZONE_REQUESTS), counter(&family::ZONE_SENT));
        Self { requests, sent, received: counter(&family::ZONE_RECEIVED) }
    }
}

impl Target {
    pub(super) fn new(registry: Arc<Registry>, labels: Vec<Label>) -> Self {
        let endpoints = |state: &'static str| {
            let mut labels = labels.clone();
            labels.push(label("state", state));
            registry.gauge(&family::BALANCER_ENDPOINTS, &labels)
        };
        Self {
            available: endpoints("available"),
            failing: endpoints("failing"),
            retries: Reasons::new(&family::RETRIES, labels, "reason"),
            rare: OnceLock::new(),
            registry,
        }
    }
}

impl Target {
    fn rare(&self) -> &Rare {
        self.rare.get_or_init(|| {
            let labels = self.retries.labels();
            let results = Reasons::new(&family::RETRY_RESULTS, labels.clone(), "result");
            let timeouts = Reasons::new(&family::TIMEOUTS, labels, "kind");
            Box::new(Rare { results, timeouts, zones: Default::default() })
        })
    }
}

/// Counts what took too long at one target.
#[derive(Clone)]
pub struct Timeouts(Arc<Target>);

impl Timeouts {
    /// A limit has ended a try, a request or a connection: `request`, `response_headers`, `backend_request`, `deadline`,
    /// `stream_idle`, `tcp_idle` or `half_close`.
    pub fn count(&self, kind: &'static str) {
        self.0.rare().timeouts.count(&self.0.registry, kind);
    }
}

/// Where an endpoint is, seen from the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// In the proxy's own zone.
    Local,
    /// In another one.
    Other,
}

/// Counts what goes to a target's endpoints, by their zone.
#[derive(Clone)]
pub struct Zones(Arc<Target>);

impl Zones {
    /// A request goes out.
    pub fn request(&self, to: Zone) {
        self.crossing(to).requests.increment(1);
    }

    /// Bytes that went to an endpoint.
    pub fn sent(&self, to: Zone, bytes: u64) {
        self.crossing(to).sent.increment(bytes);
    }

    /// Bytes that came from it.
    pub fn received(&self, from: Zone, bytes: u64) {
        self.crossing(from).received.increment(bytes);
    }

    fn crossing(&self, zone: Zone) -> &Crossing {
        let (registry, rare) = (&self.0.registry, self.0.rare());
        let word = match zone {
            Zone::Local => "local",
            Zone::Other => "other",
        };
        rare.zones[zone as usize].get_or_init(|| Crossing::new(registry, rare.timeouts.labels(), word))
    }
}

/// One balancer's handles. Its endpoints leave the gauges when it is dropped.
pub struct Balancer {
    target: Arc<Target>,
    available: AtomicU32,
    failing: AtomicU32,
}

impl Balancer {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self { target, available: AtomicU32::new(0), failing: AtomicU32::new(0) }
    }

    /// How many endpoints there are now, by state.
    pub fn endpoints(&self, available: usize, failing: usize) {
        let [available, failing] = [available, failing].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        contribute(&self.target.available, &self.available, available);
        contribute(&self.target.failing, &self.failing, failing);
    }

    /// What came of a retry, or of the wish for one.
    pub fn retry_result(&self, result: &'static str) {
        self.target.rare().results.count(&self.target.registry, result);
    }

    /// To be kept by what outlives a request's way to its endpoint.
    pub fn timeouts(&self) -> Timeouts {
        Timeouts(Arc::clone(&self.target))
    }

    /// To be kept by what goes to an endpoint whose zone is known.
    pub fn zones(&self) -> Zones {
        Zones(Arc::clone(&self.target))
    }

    /// A request is sent once more, and why.
    pub fn retry(&self, reason: &'static str) {
        self.target.retries.count(&self.target.registry, reason);
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.endpoints(0, 0);
    }
}

/// Puts `now` in the place of what was contributed before.
fn contribute(gauge: &Gauge, part: &AtomicU32, now: u32) {
    let before = part.swap(now, Relaxed);
    if now > before {
        gauge.increment(f64::from(now - before));
    } else if before > now {
        gauge.decrement(f64::from(before - now));
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of things in memory are far below 2^53")]
pub(super) fn float(count: usize) -> f64 {
    count as f64
}

/// Connections between sidecars and the streams on them.
#[derive(Clone)]
pub struct Tunnels {
    connections: [Gauge; 2],
    streams: [Gauge; 2],
}

impl Tunnels {
    pub(super) fn new(registry: &Registry) -> Self {
        let both =
            |family| Direction::BOTH.map(|direction| registry.gauge(family, &[label("direction", direction.as_str())]));
        Self { connections: both(&family::TUNNEL_CONNECTIONS), streams: both(&family::TUNNEL_STREAMS) }
    }

    /// A connection is open until the guard is dropped.
    pub fn connection(&self, direction: Direction) -> Open {
        Open::new(&self.connections[direction as usize])
    }

    /// A stream is open until the guard is dropped.
    pub fn stream(&self, direction: Direction) -> Open {
        Open::new(&self.streams[direction as usize])
    }
}

/// One more on a gauge, as long as it lives.
pub struct Open(Gauge);

impl Open {
    fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
