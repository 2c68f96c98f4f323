//! Everything that the proxy measures: names, labels, buckets, handles and guards. The only room that spells a metric's
//! name.
//!
//! [`Metrics`] gives out handles (`http`, `tcp`, `balancer`, ..) that are made once per label set and are then a few
//! atomic operations per event: no lock, no hash and no allocation for a request. What goes up comes down in the `Drop` of a
//! guard ([`Request`], [`Connection`], [`Balancer`], [`Open`]).
//!
//! Invariant: the number of series is bounded. New label sets stop at [`Settings::max_series`]; what comes after counts
//! under `target="overflow"` (statuses: `status="other"`), so sums stay right and only the detail is lost. On top of
//! the cap come only series that the code bounds: reasons, kinds, two kinds of zones, and per label set at most 14
//! `status="other"` and 18 of gRPC.
//!
//! The series of a target end when nobody has used it for [`Settings::idle`], and make room for others: [`Metrics::sweep`].
//! A counter that comes back begins at 0, as after a restart, which Prometheus' `rate` knows.

mod balancer;
mod cache;
mod control;
mod family;
mod http;
#[cfg(test)]
mod models;
mod registry;
mod table;
mod tcp;

#[cfg(test)]
mod tests;

// By this name, so that models can put their own in its place.
use std::sync::{self, Arc, OnceLock};
use std::time::{Duration, Instant};

pub use self::balancer::{Balancer, Open, Timeouts, Tunnels, Zone, Zones};
pub use self::control::{Discovery, Identity};
pub use self::http::{Http, Request};
pub use self::tcp::{Connection, Tcp};

use self::cache::{ServerNames, Targets};
use self::registry::{Counter, Gauge, Label, Registry, label};
use self::table::Reasons;

/// Bounds of the measuring.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// New label sets are counted as overflow from this many series on. A target of HTTP takes about 40, one of TCP
    /// about 6.
    pub max_series: usize,
    /// The series of a target that nobody uses any more end after this time.
    pub idle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_series: 4000, idle: Duration::from_mins(2) }
    }
}

/// Which way a connection goes, seen from the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the proxy's own workload.
    Inbound,
    /// From the proxy's own workload.
    Outbound,
}

impl Direction {
    const BOTH: [Self; 2] = [Self::Inbound, Self::Outbound];

    fn as_str(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
}

/// What protects a connection between hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tls {
    /// Mutual TLS of the mesh.
    Mutual,
    /// Nothing: plaintext.
    None,
    /// TLS of the applications, passed through.
    Foreign,
}

impl Tls {
    const COUNT: usize = 3;

    fn as_str(self) -> &'static str {
        match self {
            Tls::Mutual => "mutual",
            Tls::None => "none",
            Tls::Foreign => "foreign",
        }
    }
}

/// A cache per direction and kind of TLS.
type PerLabels<T> = [Targets<T>; 2 * Tls::COUNT];

/// The proxy's metrics; clones share everything.
#[derive(Clone)]
pub struct Metrics(Arc<Shared>);

struct Shared {
    // Handles hold the registry and not this struct, which holds the handles.
    registry: Arc<Registry>,
    idle: Duration,
    _build: Gauge,
    series: Gauge,
    http: PerLabels<Http>,
    tcp: PerLabels<Tcp>,
    balancers: Targets<balancer::Target>,
    server_names: ServerNames,
    directions: [PerDirection; 2],
    health_checks: Reasons<4>,
    healthy: OnceLock<Gauge>,
    faults: Reasons<4>,
    mirrored: Reasons<8>,
    tunnels: Tunnels,
    ejections: Counter,
    identity: Identity,
    discovery: Discovery,
}

struct PerDirection {
    errors: Reasons<48>,
    detections: Reasons<8>,
    handshakes: Reasons<16>,
    refused: Reasons<16>,
    http2_abuse: Reasons<16>,
    accept_errors: Counter,
}

impl PerDirection {
    fn new(registry: &Registry, direction: Direction) -> Self {
        let labels = || vec![label("direction", direction.as_str())];
        Self {
            errors: Reasons::new(&family::ERRORS, labels(), "reason"),
            detections: Reasons::new(&family::DETECTIONS, labels(), "protocol"),
            handshakes: Reasons::new(&family::HANDSHAKES, labels(), "result"),
            refused: Reasons::new(&family::REFUSED, labels(), "reason"),
            http2_abuse: Reasons::new(&family::HTTP2_ABUSE, labels(), "reason"),
            accept_errors: registry.counter(&family::ACCEPT_ERRORS, &labels()),
        }
    }
}

impl Metrics {
    /// Metrics of their own, not the process' global ones.
    pub fn new(settings: Settings) -> Self {
        let registry = Arc::new(Registry::new(settings.max_series));
        let version = label("version", mesh_kit::build::VERSION);
        let build = registry.gauge(&family::BUILD_INFO, &[version]);
        build.set(1.0);
        Self(Arc::new(Shared {
            _build: build,
            series: registry.gauge(&family::SERIES, &[]),
            http: std::array::from_fn(|_| Targets::new()),
            tcp: std::array::from_fn(|_| Targets::new()),
            balancers: Targets::new(),
            server_names: ServerNames::new(),
            directions: Direction::BOTH.map(|direction| PerDirection::new(&registry, direction)),
            health_checks: Reasons::new(&family::HEALTH_CHECKS, Vec::new(), "result"),
            healthy: OnceLock::new(),
            faults: Reasons::new(&family::FAULTS, Vec::new(), "kind"),
            mirrored: Reasons::new(&family::MIRRORED, Vec::new(), "result"),
            tunnels: Tunnels::new(&registry),
            ejections: registry.counter(&family::EJECTIONS, &[]),
            identity: Identity::new(Arc::clone(&registry)),
            discovery: Discovery::new(Arc::clone(&registry)),
            idle: settings.idle,
            registry,
        }))
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.series.set(balancer::float(self.0.registry.series()));
        let mut text = self.0.registry.render();
        mesh_kit::metrics::process::render(&mut text);
        text
    }

    /// Ends the series of targets that nobody has used for a while; to be called now and then.
    pub fn sweep(&self, now: Instant) {
        let Shared { http, tcp, balancers, idle, registry, .. } = &*self.0;
        // Each of them, whatever the others had: `|` does not stop at the first.
        let http = http.iter().fold(false, |ended, targets| targets.sweep(now, *idle) | ended);
        let tcp = tcp.iter().fold(false, |ended, targets| targets.sweep(now, *idle) | ended);
        if http | tcp | balancers.sweep(now, *idle) {
            registry.prune();
        }
    }

    /// The handles of an HTTP target, to be kept for as long as it is in use.
    pub fn http(&self, direction: Direction, target: &str, tls: Tls) -> Arc<Http> {
        let registry = &self.0.registry;
        self.0.http[index(direction, tls)].find(registry, target, http::SERIES + 1, |target| {
            Http::new(Arc::clone(registry), labels(direction, target, tls))
        })
    }

    /// The handles of an opaque target, to be kept for as long as it is in use.
    pub fn tcp(&self, direction: Direction, target: &str, tls: Tls) -> Arc<Tcp> {
        let registry = &self.0.registry;
        self.0.tcp[index(direction, tls)].find(registry, target, tcp::SERIES + 1, |target| {
            Tcp::new(Arc::clone(registry), labels(direction, target, tls))
        })
    }

    /// The handles of a balancer.
    pub fn balancer(&self, target: &str) -> Balancer {
        let registry = &self.0.registry;
        Balancer::new(self.0.balancers.find(registry, target, balancer::SERIES, |target| {
            balancer::Target::new(Arc::clone(registry), vec![target])
        }))
    }

    /// The mesh itself answered or reset something.
    pub fn error(&self, direction: Direction, reason: &'static str) {
        self.direction(direction).errors.count(&self.0.registry, reason);
    }

    /// The application was asked how it is: `ok` or `failed`.
    pub fn health_check(&self, result: &'static str) {
        self.0.health_checks.count(&self.0.registry, result);
    }

    /// Whether all of the application's health checks succeed.
    pub fn healthy(&self, is_healthy: bool) {
        let gauge = self.0.healthy.get_or_init(|| self.0.registry.gauge(&family::HEALTHY, &[]));
        gauge.set(f64::from(u8::from(is_healthy)));
    }

    /// A policy has done this to a request: `delay` or `abort`.
    pub fn fault(&self, kind: &'static str) {
        self.0.faults.count(&self.0.registry, kind);
    }

    /// What came of a copy of a request: `answered`, `failed`, `too_slow`, `dropped` or `invalid`.
    pub fn mirrored(&self, result: &'static str) {
        self.0.mirrored.count(&self.0.registry, result);
    }

    /// Detection came to a verdict: `http1`, `http2`, `tls`, `opaque`, `server_first` or `timeout`.
    pub fn detected(&self, direction: Direction, protocol: &'static str) {
        self.direction(direction).detections.count(&self.0.registry, protocol);
    }

    /// A handshake of ours ended: `ok`, or the reason of `mesh_mtls`.
    pub fn handshake(&self, direction: Direction, result: &'static str) {
        self.direction(direction).handshakes.count(&self.0.registry, result);
    }

    /// TLS of the applications passes through; 100 names are told apart.
    pub fn foreign_sni(&self, direction: Direction, sni: Option<&str>) {
        self.0.server_names.count(&self.0.registry, direction, sni.unwrap_or_default());
    }

    /// A connection was closed before it was anybody's: a loop, a direct hit, too many of them.
    pub fn refused(&self, direction: Direction, reason: &'static str) {
        self.direction(direction).refused.count(&self.0.registry, reason);
    }

    /// An HTTP/2 connection was ended because of what its peer did.
    pub fn http2_abuse(&self, direction: Direction, reason: &'static str) {
        self.direction(direction).http2_abuse.count(&self.0.registry, reason);
    }

    /// The listener could not accept.
    pub fn accept_error(&self, direction: Direction) {
        self.direction(direction).accept_errors.increment(1);
    }

    /// The gauges of connections between sidecars.
    pub fn tunnels(&self) -> Tunnels {
        self.0.tunnels.clone()
    }

    /// A circuit breaker has put an endpoint out.
    pub fn ejection(&self) {
        self.0.ejections.increment(1);
    }

    /// The handles of the identity client.
    pub fn identity(&self) -> Identity {
        self.0.identity.clone()
    }

    /// The handles of the discovery client.
    pub fn discovery(&self) -> Discovery {
        self.0.discovery.clone()
    }

    fn direction(&self, direction: Direction) -> &PerDirection {
        &self.0.directions[direction as usize]
    }
}

fn index(direction: Direction, tls: Tls) -> usize {
    direction as usize * Tls::COUNT + tls as usize
}

fn labels(direction: Direction, target: Label, tls: Tls) -> Vec<Label> {
    vec![label("direction", direction.as_str()), target, label("tls", tls.as_str())]
}
