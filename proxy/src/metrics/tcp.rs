//! Opaque connections, per direction, target and kind of TLS.
//!
//! Invariant: what [`Tcp::open`] began is counted as closed exactly once.

use std::sync::Arc;

use super::balancer::{Zone, Zones};
use super::family;
use super::registry::{Counter, Gauge, Label, Registry};
use super::table::Reasons;

/// Series of a [`Tcp`] from its begin; the reasons of closing come on top, one each.
pub(super) const SERIES: usize = 4;

/// The handles of one label set.
pub struct Tcp {
    registry: Arc<Registry>,
    opened: Counter,
    open: Gauge,
    sent: Counter,
    received: Counter,
    closed: Reasons<12>,
}

impl Tcp {
    pub(super) fn new(registry: Arc<Registry>, labels: Vec<Label>) -> Self {
        Self {
            opened: registry.counter(&family::TCP_OPENED, &labels),
            open: registry.gauge(&family::TCP_OPEN, &labels),
            sent: registry.counter(&family::TCP_SENT, &labels),
            received: registry.counter(&family::TCP_RECEIVED, &labels),
            closed: Reasons::new(&family::TCP_CLOSED, labels, "reason"),
            registry,
        }
    }

    /// Begins a connection: it is open until the guard ends.
    pub fn open(self: &Arc<Self>) -> Connection {
        self.opened.increment(1);
        self.open.increment(1.0);
        Connection { tcp: Arc::clone(self), zone: None, reason: "cut" }
    }
}

/// An open connection. Dropping it without [`Connection::close`] counts as closed for the reason `cut`.
pub struct Connection {
    tcp: Arc<Tcp>,
    /// The upstream's, where it is known. Boxed, since few are.
    zone: Option<Box<(Zones, Zone)>>,
    reason: &'static str,
}

impl Connection {
    /// Its bytes count for the zone of its upstream as well.
    #[must_use]
    pub fn to_zone(mut self, zone: Option<(Zones, Zone)>) -> Self {
        self.zone = zone.map(Box::new);
        self
    }

    /// Bytes that went towards the upstream.
    pub fn sent(&self, bytes: u64) {
        self.tcp.sent.increment(bytes);
        if let Some((zones, zone)) = self.zone.as_deref() {
            zones.sent(*zone, bytes);
        }
    }

    /// Bytes that came from the upstream.
    pub fn received(&self, bytes: u64) {
        self.tcp.received.increment(bytes);
        if let Some((zones, zone)) = self.zone.as_deref() {
            zones.received(*zone, bytes);
        }
    }

    /// The connection has ended, and why.
    pub fn close(mut self, reason: &'static str) {
        self.reason = reason;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tcp.open.decrement(1.0);
        self.tcp.closed.count(&self.tcp.registry, self.reason);
    }
}
