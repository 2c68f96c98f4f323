//! The golden signals of HTTP, per direction, target and kind of TLS.
//!
//! Invariant: what [`Http::request`] began is counted as ended exactly once, by [`Request::finish`] or by the drop of
//! the guard. Absent: retries (they belong to the balancer) and routes (no label of ours has a path).

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::family::{self, HISTOGRAM_SERIES};
use super::registry::{Counter, Gauge, Histogram, Label, Registry, label};
use super::table::Table;

/// Series of an [`Http`] from its begin; its statuses come on top, one each.
pub(super) const SERIES: usize = 2 + 2 * HISTOGRAM_SERIES;

/// Pairs of status and end that a target tells apart; others are counted as `status="other"` with their class.
const STATUSES: usize = 16;

/// No response was seen.
const NO_STATUS: u16 = 0;

/// Status codes of gRPC by their number (the protocol's list), then what is none of them.
const GRPC: [&str; 18] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
    "other",
];
const GRPC_OTHER: u8 = 17;
const NO_GRPC: u8 = u8::MAX;

/// Classes of statuses; the last is for what is no status of HTTP.
const CLASSES: [&str; 7] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx", "other"];

/// The handles of one label set. Made once per connection or target, used for each request.
pub struct Http {
    registry: Arc<Registry>,
    labels: Vec<Label>,
    requests: Counter,
    in_flight: Gauge,
    duration: Arc<Histogram>,
    first_byte: Arc<Histogram>,
    statuses: Table<(u16, End), Counter, STATUSES>,
    other: Table<(usize, End), Counter, { 2 * CLASSES.len() }>,
    /// Boxed, since most targets never need it.
    grpc: OnceLock<Box<[OnceLock<Counter>; GRPC.len()]>>,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Complete,
    Cut,
}

impl End {
    fn as_str(self) -> &'static str {
        match self {
            End::Complete => "complete",
            End::Cut => "cut",
        }
    }
}

impl Http {
    pub(super) fn new(registry: Arc<Registry>, labels: Vec<Label>) -> Self {
        Self {
            requests: registry.counter(&family::HTTP_REQUESTS, &labels),
            in_flight: registry.gauge(&family::HTTP_IN_FLIGHT, &labels),
            duration: registry.histogram(&family::HTTP_DURATION, &labels),
            first_byte: registry.histogram(&family::HTTP_FIRST_BYTE, &labels),
            statuses: Table::new(),
            other: Table::new(),
            grpc: OnceLock::new(),
            labels,
            registry,
        }
    }

    /// Begins a request: it is in flight until the guard ends.
    pub fn request(self: &Arc<Self>, now: Instant) -> Request {
        self.requests.increment(1);
        self.in_flight.increment(1.0);
        Request { http: Arc::clone(self), began: now, status: NO_STATUS, grpc: NO_GRPC, ended: false }
    }

    fn ended(&self, status: u16, end: End) {
        let class = class(status);
        let make = |status: &str| {
            let mut labels = self.labels.clone();
            labels.push(label("status", status.to_owned()));
            labels.push(label("class", CLASSES[class]));
            labels.push(label("end", end.as_str()));
            self.registry.counter(&family::HTTP_RESPONSES, &labels)
        };
        let exact = || match status {
            NO_STATUS => make("none"),
            status => make(&status.to_string()),
        };
        let known = self.statuses.find((status, end), || self.registry.has_room(1), exact);
        if let Some(counter) = known.or_else(|| self.other(class, end, || make("other"))) {
            counter.increment(1);
        }
    }

    /// Room for each class and end, so there is always one.
    fn other(&self, class: usize, end: End, make: impl Fn() -> Counter) -> Option<&Counter> {
        self.other.find((class, end), || true, make)
    }

    fn grpc_ended(&self, status: u8) {
        let make = || {
            let mut labels = self.labels.clone();
            labels.push(label("grpc_status", GRPC[usize::from(status)]));
            self.registry.counter(&family::GRPC_RESPONSES, &labels)
        };
        let known = self.grpc.get_or_init(Box::default);
        known[usize::from(status)].get_or_init(make).increment(1);
    }
}

/// The index in [`CLASSES`].
fn class(status: u16) -> usize {
    match status {
        NO_STATUS => 0,
        100..600 => usize::from(status / 100),
        _ => CLASSES.len() - 1,
    }
}

/// A request in flight. Dropping it without [`Request::finish`] means that the exchange was cut off.
pub struct Request {
    http: Arc<Http>,
    began: Instant,
    status: u16,
    grpc: u8,
    ended: bool,
}

impl Request {
    /// The head of a response has come. Interim ones (1xx, but 101) are passed over; the first final one sets the
    /// first-byte time.
    pub fn response(&mut self, status: u16, now: Instant) {
        if (100..200).contains(&status) && status != 101 {
            return;
        }
        if self.status == NO_STATUS {
            let waited = now.saturating_duration_since(self.began);
            self.http.first_byte.record(waited);
        }
        self.status = status;
    }

    /// A `grpc-status` has come, in the trailers or, for a response of trailers only, in the head.
    pub fn grpc(&mut self, status: u16) {
        self.grpc = u8::try_from(status).map_or(GRPC_OTHER, |status| status.min(GRPC_OTHER));
    }

    /// The response has ended as it should.
    pub fn finish(mut self, now: Instant) {
        self.end(End::Complete, now);
    }

    fn end(&mut self, end: End, now: Instant) {
        self.ended = true;
        self.http.in_flight.decrement(1.0);
        self.http.ended(self.status, end);
        if self.status != NO_STATUS {
            let took = now.saturating_duration_since(self.began);
            self.http.duration.record(took);
        }
        if self.grpc != NO_GRPC {
            self.http.grpc_ended(self.grpc);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.ended {
            self.end(End::Cut, Instant::now());
        }
    }
}
