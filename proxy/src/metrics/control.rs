//! What the clients of identity and discovery show.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::balancer::float;
use super::family;
use super::registry::{Counter, Gauge, Registry, label};
use super::table::{Reasons, Table};

/// The state of our own certificate.
#[derive(Clone)]
pub struct Identity(Arc<IdentityHandles>);

struct IdentityHandles {
    registry: Arc<Registry>,
    expiry: Gauge,
    renewals: Reasons<12>,
    bundles: Counter,
}

impl Identity {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self(Arc::new(IdentityHandles {
            expiry: registry.gauge(&family::CERTIFICATE_EXPIRY, &[]),
            renewals: Reasons::new(&family::RENEWALS, vec![], "result"),
            bundles: registry.counter(&family::TRUST_BUNDLE_UPDATES, &[]),
            registry,
        }))
    }

    /// A certificate that ends at `not_after` is in use now.
    pub fn certified(&self, not_after: SystemTime) {
        let since = not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.0.expiry.set(since.as_secs_f64());
    }

    /// An attempt to get a certificate ended: `ok`, or the reason of failure.
    pub fn renewal(&self, result: &'static str) {
        self.0.renewals.count(&self.0.registry, result);
    }

    /// New trust anchors were taken over.
    pub fn trust_bundle_updated(&self) {
        self.0.bundles.increment(1);
    }
}

/// The state of the discovery stream.
#[derive(Clone)]
pub struct Discovery(Arc<DiscoveryHandles>);

struct DiscoveryHandles {
    registry: Arc<Registry>,
    connected: Gauge,
    updates: Reasons<8>,
    rejections: Counter,
    subscriptions: Table<&'static str, Gauge, 8>,
}

impl Discovery {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        Self(Arc::new(DiscoveryHandles {
            connected: registry.gauge(&family::DISCOVERY_CONNECTED, &[]),
            updates: Reasons::new(&family::DISCOVERY_UPDATES, vec![], "kind"),
            rejections: registry.counter(&family::DISCOVERY_REJECTIONS, &[]),
            subscriptions: Table::new(),
            registry,
        }))
    }

    /// Whether the stream is up now.
    pub fn connected(&self, now: bool) {
        self.0.connected.set(if now { 1.0 } else { 0.0 });
    }

    /// An update of this kind was taken over.
    pub fn update(&self, kind: &'static str) {
        self.0.updates.count(&self.0.registry, kind);
    }

    /// An update was refused as malformed; the state before it stays.
    pub fn rejected(&self) {
        self.0.rejections.increment(1);
    }

    /// How many subscriptions of this kind there are now. At most 8 kinds are shown.
    pub fn subscriptions(&self, kind: &'static str, now: usize) {
        let make = || self.0.registry.gauge(&family::DISCOVERY_SUBSCRIPTIONS, &[label("kind", kind)]);
        if let Some(gauge) = self.0.subscriptions.find(kind, || true, make) {
            gauge.set(float(now));
        }
    }
}
