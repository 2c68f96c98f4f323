//! `TrafficPolicy`: how requests, backends and ports are steered and protected. Plain data.
//!
//! Invariant: values are within the bounds that a proxy takes. `None` is "not said": a less specific policy's word counts, or the
//! proxy's default. Non-goal: which policy counts (`index::policies`).

use std::num::NonZeroU16;
use std::time::Duration;

use super::route::TextMatch;
use super::{Key, Name, Protocol};

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficPolicy {
    /// Its name. It acts for targets of its own namespace.
    pub name: Name,
    /// `metadata.creationTimestamp`, empty when absent.
    pub created: String,
    /// What it is for.
    pub targets: Vec<Target>,
    /// What it says.
    pub spec: Spec,
}

/// What a policy is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The object.
    pub subject: Subject,
    /// Or a part of it.
    pub section: Section,
}

/// An object that a policy can be for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A Service.
    Service(Name),
    /// A route.
    Route(Key),
}

/// The part of an object that a policy is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Section {
    /// All of it.
    Whole,
    /// The port, or the rule, of this name.
    Name(String),
    /// The port of this number.
    Port(NonZeroU16),
}

/// What a policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// How bytes are to be read.
    pub protocol: Option<Protocol>,
    /// How long things may take.
    pub timeouts: Option<Timeouts>,
    /// When requests are sent again.
    pub retries: Option<Retries>,
    /// How many times, over all requests.
    pub budget: Option<Budget>,
    /// When an endpoint is passed by.
    pub breaker: Option<Breaker>,
    /// How much there may be at once.
    pub limits: Option<Limits>,
    /// How an endpoint is chosen.
    pub balancing: Option<Balancing>,
    /// Where requests go when no endpoint is well, in turn.
    pub failover: Option<Vec<Port>>,
    /// How fast requests may come to the serving sidecar.
    pub rates: Option<RateLimits>,
    /// What is done to requests on purpose; the first that fits counts.
    pub faults: Option<Vec<Fault>>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The Service.
    pub service: Name,
    /// Its port.
    pub port: NonZeroU16,
}

/// How long things may take; zero is without end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// A request, with all its tries.
    pub request: Option<Duration>,
    /// To the head of the response.
    pub response_headers: Option<Duration>,
    /// One try.
    pub backend: Option<Duration>,
    /// A stream without a frame.
    pub stream_idle: Option<Duration>,
    /// A connection without a byte.
    pub tcp_idle: Option<Duration>,
    /// A connection that one side has ended.
    pub half_close: Option<Duration>,
    /// An attempt to connect; never zero.
    pub connect: Option<Duration>,
}

/// When requests are sent again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retries {
    /// Beyond the first try, 1 to 10.
    pub attempts: u32,
    /// Ranges of statuses, both ends included.
    pub statuses: Vec<(u16, u16)>,
    /// Codes of gRPC.
    pub grpc: Vec<u32>,
    /// When no connection came about.
    pub connect_failure: bool,
    /// When the connection was lost before a response.
    pub reset: bool,
    /// When the stream was refused.
    pub refused_stream: bool,
    /// When the backend did not answer in time.
    pub timeout: bool,
    /// Of one try; above what timeouts say.
    pub per_try: Option<Duration>,
    /// Before the first retry.
    pub backoff: Option<Duration>,
    /// Added to each backoff.
    pub least_backoff: Option<Duration>,
    /// Before any.
    pub max_backoff: Option<Duration>,
    /// The longest `Retry-After` that is waited for.
    pub max_retry_after: Option<Duration>,
}

/// How many retries there may be over all requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Of requests.
    pub percent: u32,
    /// Beside that.
    pub min_per_second: u32,
    /// Requests count so long.
    pub ttl: Duration,
}

/// When an endpoint is passed by for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    /// `enabled: false`
    pub is_disabled: bool,
    /// In a row.
    pub consecutive_failures: Option<u32>,
    /// In thousandths, at least 1.
    pub success_permille: Option<u32>,
    /// For that share.
    pub window: Option<Duration>,
    /// For that share.
    pub min_requests: Option<u32>,
    /// The first time.
    pub min_ejection: Option<Duration>,
    /// At most.
    pub max_ejection: Option<Duration>,
    /// Of endpoints, 1 to 100.
    pub max_ejected_percent: Option<u32>,
}

/// How much there may be at once; nothing is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections.
    pub connections: Option<u32>,
    /// Requests in flight.
    pub requests: Option<u32>,
    /// Requests that wait.
    pub pending: Option<u32>,
    /// How long they wait.
    pub pending_wait: Option<Duration>,
    /// Requests of a connection.
    pub requests_per_connection: Option<u32>,
    /// Age of a connection.
    pub connection_age: Option<Duration>,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balancing {
    /// By what.
    pub kind: BalancingKind,
    /// What a request is known by; only where equal keys go to the same endpoint.
    pub hash: Vec<HashKey>,
    /// Most load of one endpoint then, 101 to 10,000.
    pub bounded_load_percent: Option<u32>,
    /// A new endpoint's share grows over so long.
    pub slow_start: Option<Duration>,
    /// All zones alike.
    pub ignores_zones: bool,
}

/// By what an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BalancingKind {
    /// Expected latency.
    #[default]
    PeakEwma,
    /// Requests in flight.
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// By a key of the request.
    ConsistentHash,
}

/// What a request is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// A field, in lower case.
    Header(String),
    /// A cookie.
    Cookie(HashCookie),
    /// The client's address.
    SourceAddress,
    /// A parameter of the query.
    Query(String),
}

/// A cookie that requests are known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashCookie {
    /// Its name.
    pub name: String,
    /// Of a cookie that is set.
    pub path: String,
    /// Of a cookie that is set; none: the browser's session.
    pub ttl: Option<Duration>,
    /// For clients that have none, one is set.
    pub set: bool,
}

/// How fast requests may come to a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// All together.
    pub total: Option<Rate>,
    /// Those of each client.
    pub per_client: Option<Rate>,
    /// Instead, for service accounts.
    pub clients: Vec<(Vec<Name>, Rate)>,
    /// By the value of a field.
    pub header: Option<HeaderRates>,
}

/// Rates by the value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRates {
    /// The field, in lower case.
    pub name: String,
    /// For each value.
    pub per_value: Option<Rate>,
    /// Instead, for some.
    pub values: Vec<(Vec<String>, Rate)>,
}

/// A rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// 1 to 60,000,000.
    pub per_minute: u64,
    /// At once, at least 1.
    pub burst: u32,
}

/// What is done to a share of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// All have to fit; names are in lower case.
    pub headers: Vec<(String, TextMatch)>,
    /// A share in parts per million, and how long.
    pub delay: Option<(u32, Duration)>,
    /// A share in parts per million, and the answer.
    pub abort: Option<(u32, Abort)>,
}

/// The answer in place of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// 200 to 599.
    pub status: u16,
    /// To calls of gRPC; none: what the status means there.
    pub grpc: Option<u32>,
}

/// What a sidecar asks of its own application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Where.
    pub port: NonZeroU16,
    /// What.
    pub probe: Probe,
    /// From one to the next.
    pub interval: Duration,
    /// Of one.
    pub timeout: Duration,
    /// Failures in a row.
    pub unhealthy_after: u32,
    /// Successes in a row.
    pub healthy_after: u32,
}

/// The question of a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `GET`.
    Http {
        /// Of the request.
        path: String,
        /// Empty: the address.
        host: String,
        /// Statuses of success.
        statuses: (u16, u16),
    },
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// May be empty.
        service: String,
    },
    /// A connection.
    Tcp,
}
