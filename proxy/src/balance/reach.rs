//! The means to reach endpoints: connectors, one tunnel pool per sidecar, whatever backends it serves, and one bulkhead per
//! backend, whatever destinations and workers lead there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mesh_mtls::anchors::Anchors;
use mesh_mtls::tls;

use super::SharedSettings;
use super::bulkhead::Bulkhead;
use crate::http::{Settings as HttpSettings, h2_pool};
use crate::metrics::Metrics;
use crate::model::Peer;
use crate::net::Connector;

/// The limits of backends by their names, for all workers together.
#[derive(Clone, Default)]
pub struct Bulkheads(Arc<Mutex<HashMap<Arc<str>, Weak<Bulkhead>>>>);

/// What all backends of one worker share.
pub struct Reach {
    pub(super) connector: Connector,
    pub(super) tls: tls::Connector,
    pub(super) http: Arc<HttpSettings>,
    pub(super) settings: SharedSettings,
    pub(super) metrics: Metrics,
    tunnels: Mutex<HashMap<Peer, Weak<h2_pool::Pool>>>,
    bulkheads: Bulkheads,
    zone: Mutex<Arc<str>>,
    /// How often `zone` has changed: a look at it takes no lock.
    moves: AtomicU32,
}

impl Reach {
    /// The means of one worker.
    pub fn new(
        connector: Connector,
        tls: tls::Connector,
        http: Arc<HttpSettings>,
        settings: SharedSettings,
        metrics: Metrics,
        bulkheads: Bulkheads,
    ) -> Arc<Self> {
        let (tunnels, zone, moves) = Default::default();
        Arc::new(Self { connector, tls, http, settings, metrics, tunnels, bulkheads, zone, moves })
    }

    /// Says in which zone the proxy is; empty: unknown.
    pub fn be_in(&self, zone: &str) {
        let mut known = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
        if **known != *zone {
            *known = zone.into();
            self.moves.fetch_add(1, Ordering::Release);
        }
    }

    /// The proxy's own zone, and how often it has changed.
    pub(super) fn zone(&self) -> (Arc<str>, u32) {
        let known = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&known), self.moves())
    }

    /// See [`Reach::zone`].
    pub(super) fn moves(&self) -> u32 {
        self.moves.load(Ordering::Acquire)
    }

    /// The limits of the backend of this name.
    pub(super) fn bulkhead(&self, backend: &Arc<str>) -> Arc<Bulkhead> {
        let mut bulkheads = self.bulkheads.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = bulkheads.get(backend).and_then(Weak::upgrade) {
            return known;
        }
        if bulkheads.len() == bulkheads.capacity() {
            bulkheads.retain(|_, bulkhead| bulkhead.strong_count() > 0);
        }
        let bulkhead = Arc::default();
        bulkheads.insert(Arc::clone(backend), Arc::downgrade(&bulkhead));
        bulkhead
    }

    /// What is trusted now.
    pub fn anchors(&self) -> Anchors {
        self.tls.anchors()
    }

    /// The tunnels to `peer`: the same ones for all that goes there.
    pub(super) fn tunnels(&self, peer: &Peer) -> Arc<h2_pool::Pool> {
        let mut tunnels = self.tunnels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = tunnels.get(peer).and_then(Weak::upgrade) {
            return pool;
        }
        if tunnels.len() == tunnels.capacity() {
            tunnels.retain(|_, pool| pool.strong_count() > 0);
        }
        let dial = h2_pool::Dial::Mutual(peer.clone(), self.tls.clone());
        let pool = h2_pool::Pool::new(dial, self.connector.clone(), Arc::clone(&self.http), self.metrics.clone());
        tunnels.insert(peer.clone(), Arc::downgrade(&pool));
        pool
    }
}
