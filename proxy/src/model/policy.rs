//! What policies say of requests, backends and the proxy's own ports, as plain data.
//!
//! Invariant: values are whole and within bounds (`control::parse`), so nobody checks again. `None` is the proxy's default
//! wherever there is one; a duration that may be switched off is a [`Limit`].
//! Non-goal: what is done about it: state machines are `resilience`'s, the rest is of the rooms that use them.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use mesh_mtls::spiffe;

use super::BackendId;
use super::route::TextMatch;

/// A time that a policy sets: `None` means that there is none.
pub type Limit = Option<Duration>;

/// What holds for requests and connections of a destination, or of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestPolicy {
    /// `namespace/name` of the policies that it comes from.
    pub name: Arc<str>,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// `None`: only what surely did not reach an application is sent again.
    pub retries: Option<Retries>,
    /// How many retries there may be.
    pub budget: Option<Budget>,
    /// The first that fits a request counts.
    pub faults: Box<[Fault]>,
}

/// How long things may take; `None` is the proxy's default, `Some(None)` no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// A request with all its tries, to the end of its response.
    pub request: Option<Limit>,
    /// From the end of the request to the head of its response.
    pub response_headers: Option<Limit>,
    /// One try, to the head of its response.
    pub backend: Option<Limit>,
    /// A stream without a frame either way.
    pub stream_idle: Option<Limit>,
    /// A connection without a byte either way.
    pub tcp_idle: Option<Limit>,
    /// A connection that one side has ended.
    pub half_close: Option<Limit>,
}

/// When a request is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Beyond the first try.
    pub attempts: u32,
    /// On these.
    pub statuses: Box<[RangeInclusive<u16>]>,
    /// On these codes of gRPC; bit `n` is code `n`.
    pub grpc: u32,
    /// When no connection came about.
    pub connect_failure: bool,
    /// When the connection or stream was lost before a response.
    pub reset: bool,
    /// When the upstream refused the stream.
    pub refused_stream: bool,
    /// When the upstream did not answer in time.
    pub timeout: bool,
    /// Before the first retry at most; it doubles.
    pub backoff: Duration,
    /// Before each retry, beside what is drawn from `backoff`.
    pub least_backoff: Duration,
    /// At most.
    pub max_backoff: Duration,
    /// The longest `Retry-After` that is waited for.
    pub max_retry_after: Duration,
}

/// How many retries there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Of requests.
    pub percent: u32,
    /// Beside that.
    pub min_per_second: u32,
    /// Requests count so long.
    pub ttl: Duration,
}

/// What is done to a share of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// All have to fit.
    pub headers: Box<[(HeaderName, TextMatch)]>,
    /// For this share, in parts per million: so long.
    pub delay: Option<(u32, Duration)>,
    /// For this share, in parts per million: an answer.
    pub abort: Option<(u32, Abort)>,
}

/// The answer in place of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// To requests.
    pub status: StatusCode,
    /// To calls of gRPC; `None`: what the status means there.
    pub grpc: Option<u8>,
}

/// What holds for a backend, whichever way requests come to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendPolicy {
    /// `namespace/name` of the policies that it comes from.
    pub name: Arc<str>,
    /// When an endpoint is passed by.
    pub breaker: Breaker,
    /// How much there may be at once.
    pub limits: Limits,
    /// How an endpoint is chosen.
    pub balancing: Balancing,
    /// Of one attempt; `None`: the proxy's default.
    pub connect_timeout: Option<Duration>,
    /// In turn, while none before has an endpoint that is well.
    pub failover: Box<[BackendId]>,
}

/// When an endpoint is passed by for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// Not at all when false; connections that fail are seen to all the same.
    pub is_enabled: bool,
    /// So many in a row.
    pub consecutive_failures: u32,
    /// Or a share of successes below this, in thousandths,
    pub success_permille: u32,
    /// of the requests of so long,
    pub window: Duration,
    /// if there were at least so many.
    pub min_requests: u32,
    /// The first time for so long; it doubles, with jitter.
    pub min_ejection: Duration,
    /// At most.
    pub max_ejection: Duration,
    /// Of a backend's endpoints; beyond it all are used.
    pub max_ejected_percent: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            is_enabled: true,
            consecutive_failures: 7,
            success_permille: 800,
            window: Duration::from_secs(10),
            min_requests: 10,
            min_ejection: Duration::from_secs(1),
            max_ejection: Duration::from_secs(60),
            max_ejected_percent: 50,
        }
    }
}

/// How much there may be at once, from one proxy to one backend. `None` is no limit, or the proxy's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections.
    pub connections: Option<u32>,
    /// Requests in flight.
    pub requests: Option<u32>,
    /// Requests that wait for one of those to end.
    pub pending: Option<u32>,
    /// How long they wait.
    pub pending_wait: Option<Duration>,
    /// Requests of a connection before it is closed.
    pub requests_per_connection: Option<u32>,
    /// A connection is closed when it is so old, give or take a tenth.
    pub connection_age: Option<Duration>,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balancing {
    /// By what.
    pub kind: BalancingKind,
    /// A new endpoint's share grows over so long.
    pub slow_start: Option<Duration>,
    /// All zones alike.
    pub ignores_zones: bool,
}

/// By what an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BalancingKind {
    /// Expected latency times load, of two drawn at random.
    #[default]
    PeakEwma,
    /// Requests in flight, of two drawn at random.
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// Equal keys go to the same one.
    ConsistentHash {
        /// The first that a request has.
        keys: Box<[HashKey]>,
        /// Most load of one endpoint, in percent of the mean.
        bounded_load_percent: u32,
    },
}

/// What a request is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// A field's value.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(HashCookie),
    /// The client's IP address.
    SourceAddress,
    /// A parameter of the query.
    Query(Box<str>),
}

/// A cookie to hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashCookie {
    /// Its name.
    pub name: Box<str>,
    /// For clients that have none, one is set: its `Path` and `Max-Age`.
    pub set: Option<(Box<str>, Option<Duration>)>,
}

/// Requests of one session go to one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPersistence {
    /// What carries the session.
    pub carrier: SessionCarrier,
    /// A session ends so long after it began.
    pub absolute: Option<Duration>,
    /// And so long after its last request.
    pub idle: Option<Duration>,
}

/// What carries a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionCarrier {
    /// A field, which the client sends back.
    Header(HeaderName),
    /// A cookie.
    Cookie {
        /// Its name.
        name: Box<str>,
        /// It outlives the browser's session.
        is_permanent: bool,
    },
}

/// Requests are sent there as well, and what comes back is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where, or why not.
    pub to: Result<BackendId, Box<str>>,
    /// So many of `denominator` requests.
    pub numerator: u32,
    /// At least 1.
    pub denominator: u32,
}

/// Who may read answers from other origins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Whose pages.
    pub origins: Box<[Origin]>,
    /// With cookies.
    pub credentials: bool,
    /// With these methods.
    pub methods: Allowed<Method>,
    /// With these fields.
    pub headers: Allowed<HeaderName>,
    /// They see these fields of answers.
    pub exposed: Allowed<HeaderName>,
    /// How long browsers remember this.
    pub max_age: Option<Duration>,
}

/// An origin that is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Each.
    Any,
    /// This one.
    Exact(HeaderValue),
    /// All that begin with the first (`https://`) and end with the second (`.example.com:8443`), with something between.
    Within(Box<str>, Box<str>),
}

/// Everything, or a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed<T> {
    /// `*`
    Any,
    /// These.
    These(Box<[T]>),
}

/// How fast requests may come to a port; each part that is there has to allow a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// `namespace/name` of the policies that it comes from.
    pub name: Arc<str>,
    /// All together.
    pub total: Option<Rate>,
    /// Those of each client, by its identity; all that have none are one.
    pub per_client: Option<Rate>,
    /// Instead, for some.
    pub clients: Box<[(spiffe::Id, Rate)]>,
    /// By the value of a field.
    pub header: Option<HeaderRates>,
}

/// Rates by the value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRates {
    /// The field.
    pub name: HeaderName,
    /// For each value.
    pub per_value: Option<Rate>,
    /// Instead, for some.
    pub values: Box<[(Box<str>, Rate)]>,
}

/// A rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests.
    pub per_minute: u64,
    /// At once, when none came for long; at least 1.
    pub burst: u32,
}

/// What the proxy asks of its own application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Where.
    pub port: u16,
    /// What.
    pub probe: Probe,
    /// From one to the next.
    pub interval: Duration,
    /// Of one.
    pub timeout: Duration,
    /// Failures in a row that make it unhealthy.
    pub unhealthy_after: u32,
    /// Successes in a row that make it healthy.
    pub healthy_after: u32,
}

/// A question of a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `GET`.
    Http {
        /// Of the request.
        path: Box<str>,
        /// `Host`; `None`: the address.
        host: Option<Box<str>>,
        /// Statuses of success.
        expected: RangeInclusive<u16>,
    },
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// The service; may be empty.
        service: Box<str>,
    },
    /// A connection comes about.
    Tcp,
}
