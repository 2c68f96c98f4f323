//! The discovery service: one stream per proxy, over mutual TLS.
//!
//! Read in this order: `wire` (messages), `pace` (how often), `session` (what a stream asked for and was told), `message`
//! (how that travels), `connection` (the task of one), `health` (of workloads), `admission`.
//!
//! Invariant: a proxy costs a bounded amount, whatever it sends or does not read: subscriptions, connections and
//! waits have limits, and what waits to be sent is a mark. An index that is not whole answers nobody.
//! Non-goal: authorizing what a proxy may ask; addresses of endpoints are no secret within the mesh, and an inbound policy
//! is given by proven identity only.

mod admission;
mod by_id;
mod connection;
mod health;
mod message;
mod pace;
mod session;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_kit::shutdown::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};

pub use admission::{Admission, Place};
pub use connection::Client;
pub use wire::encode;

use crate::index::Index;
use crate::metrics::Service as Metrics;

/// Why nobody is told anything, so that a proxy keeps what it has and asks again.
const NOT_LOADED: &str = "not all manifests could be read since the start; the log of destination says which";

/// What a proxy may cost, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Between two snapshots of one subscription.
    pub interval: Duration,
    /// From the handshake to Hello.
    pub hello_within: Duration,
    /// A proxy that has not taken a message within this time, and a second for each 64 KiB of it, is disconnected.
    pub stall: Duration,
    /// Between pings.
    pub ping_interval: Duration,
    /// A proxy that has not answered a ping within this time is disconnected.
    pub ping_timeout: Duration,
    /// Subscriptions of one stream.
    pub subscriptions: usize,
    /// Addresses in one Hello.
    pub addresses: usize,
    /// Connections of all proxies.
    pub connections: usize,
    /// Connections from one address.
    pub connections_per_address: usize,
    /// What a proxy said of its workload's health counts for so long after its stream has ended.
    pub health_kept: Duration,
    /// The longest request, in bytes.
    pub request: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(100),
            hello_within: Duration::from_secs(10),
            stall: Duration::from_secs(10),
            ping_interval: mesh_mtls::dial::PING_INTERVAL,
            ping_timeout: mesh_mtls::dial::PING_TIMEOUT,
            subscriptions: 10_000,
            addresses: 64,
            connections: 10_000,
            connections_per_address: 2_048,
            health_kept: Duration::from_mins(1),
            request: 16 * 1024,
        }
    }
}

/// The service. Clones share everything.
#[derive(Clone, Debug)]
pub struct Discovery {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    index: Arc<Mutex<Index>>,
    metrics: Metrics,
    shutdown: Shutdown,
    /// A publication of health waits.
    publishing: AtomicBool,
    /// A task forgets reports of streams that have ended.
    forgetting: AtomicBool,
}

impl Discovery {
    /// Serves snapshots of `index` until `shutdown`.
    pub fn new(settings: Settings, index: Arc<Mutex<Index>>, metrics: Metrics, shutdown: Shutdown) -> Self {
        let (publishing, forgetting) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Shared { settings, index, metrics, shutdown, publishing, forgetting };
        Self { shared: Arc::new(shared) }
    }

    /// Serves one connection to its end. It costs what it costs as long as this future lives.
    pub fn serve<IO>(self, io: IO, client: Client, place: Place) -> impl Future<Output = ()> + use<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        connection::serve(self.shared, io, client, place)
    }
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
