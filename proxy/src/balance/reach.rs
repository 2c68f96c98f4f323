//! The means to reach endpoints: connectors, and one tunnel pool per sidecar, whatever backends it serves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mesh_mtls::anchors::Anchors;
use mesh_mtls::tls;

use super::SharedSettings;
use crate::http::{Settings as HttpSettings, h2_pool};
use crate::metrics::Metrics;
use crate::model::Peer;
use crate::net::Connector;

/// What all backends of one worker share.
pub struct Reach {
    pub(super) connector: Connector,
    pub(super) tls: tls::Connector,
    pub(super) http: Arc<HttpSettings>,
    pub(super) settings: SharedSettings,
    pub(super) metrics: Metrics,
    tunnels: Mutex<HashMap<Peer, Weak<h2_pool::Pool>>>,
}

impl Reach {
    /// The means of one worker.
    pub fn new(
        connector: Connector,
        tls: tls::Connector,
        http: Arc<HttpSettings>,
        settings: SharedSettings,
        metrics: Metrics,
    ) -> Arc<Self> {
        Arc::new(Self { connector, tls, http, settings, metrics, tunnels: Mutex::default() })
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
