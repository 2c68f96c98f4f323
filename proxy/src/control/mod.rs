//! The client of the control plane: streams in, cells out. Wire types die here.
//!
//! Read in this order: [`Discovery`] (what others call), [`Subscription`] (what they hold), `driver` (the stream), `table`
//! with `cells` and `ledger` (what is known, what is to be said), `parse` (wire to model), `common` (kept once).
//!
//! Invariant: the newest good value of a resource stays until a different good one replaces it, whatever happens to the stream
//! or comes over it; each resource has one subscription on the wire, however many hold it, and none when nobody does.
//! Not here: for how long a target is worth holding, what to do without a value; those are the callers' decisions.

mod cells;
mod common;
mod driver;
mod ledger;
#[cfg(test)]
mod models;
mod parse;
mod status;
mod subscription;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
// By this name, so that models can put their own in its place.
use std::sync::{self, Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_mtls::credentials::Credentials;
use mesh_mtls::dial::dial;
use mesh_mtls::{messages, spiffe, tls};
use mesh_proto::discovery as wire;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use crate::metrics;
use crate::model::{BackendId, EndpointSet, Health, InboundPolicy, Target};
use crate::resilience::backoff;
use cells::Cell;
use common::Common;
use ledger::Resource;
use parse::Snapshot;
use table::{Outcome, Table};

pub use status::{Known, Status};
pub use subscription::Subscription;

/// Where destination is and how to keep to it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port`.
    pub addr: String,
    /// Who it must prove to be.
    pub id: spiffe::Id,
    /// The pauses between two streams.
    pub backoff: backoff::Settings,
    /// How long a stream may take to open: name, TCP, TLS and the first answer.
    pub open_within: Duration,
    /// Most original destinations, and most backends, at a time.
    pub max_targets: usize,
    /// Largest update, in bytes of the wire.
    pub max_message: usize,
}

impl Settings {
    /// The usual ones, for the destination `id` at `addr`.
    pub fn new(addr: String, id: spiffe::Id) -> Self {
        Settings {
            addr,
            id,
            // What changed while it was away is known soon after it is back.
            backoff: backoff::Settings { max: Duration::from_secs(4), ..backoff::Settings::default() },
            open_within: Duration::from_secs(10),
            max_targets: 10_000,
            max_message: messages::LARGEST,
        }
    }
}

/// Who the proxy stands beside, as it introduces itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The proxy's version.
    pub version: String,
    /// The workload's own addresses.
    pub addresses: Vec<IpAddr>,
    /// Empty: the one of the certificate.
    pub namespace: String,
    /// For logs and status; may be empty.
    pub workload: String,
}

impl From<Hello> for wire::Hello {
    fn from(hello: Hello) -> Self {
        wire::Hello {
            proxy_version: hello.version,
            addresses: hello.addresses.into_iter().map(|ip| ledger::octets(ip).into()).collect(),
            namespace: hello.namespace,
            workload: hello.workload,
        }
    }
}

/// The handle to ask with. Cheap to clone, usable from every thread.
#[derive(Clone, Debug)]
pub struct Discovery {
    shared: Arc<Shared>,
}

impl Discovery {
    /// A handle, and the task that feeds it for as long as it is polled. The stream opens once `credentials` has a
    /// certificate; subscriptions may begin before.
    pub fn new(
        settings: Settings,
        hello: Hello,
        connector: tls::Connector,
        credentials: Credentials,
        metrics: metrics::Discovery,
    ) -> (Discovery, impl Future<Output = ()> + Send + 'static) {
        let shared = Arc::new(Shared::new(settings.max_targets, metrics));
        let discovery = Discovery { shared: Arc::clone(&shared) };
        let task = async move {
            credentials.certified().await;
            let dial = || dial(&settings.addr, &settings.id, &connector);
            driver::run(&shared, &settings, hello.into(), dial).await;
        };
        (discovery, task)
    }

    /// The same over connections that `dial` makes, whose other end knows who we are.
    pub fn over<D, F, IO, E>(
        dial: D,
        settings: Settings,
        hello: Hello,
        metrics: metrics::Discovery,
    ) -> (Discovery, impl Future<Output = ()> + Send + 'static)
    where
        D: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<IO, E>> + Send,
        IO: AsyncRead + AsyncWrite + Unpin + Send,
        E: std::error::Error + Send + Sync + 'static,
    {
        let shared = Arc::new(Shared::new(settings.max_targets, metrics));
        let discovery = Discovery { shared: Arc::clone(&shared) };
        let task = async move { driver::run(&shared, &settings, hello.into(), dial).await };
        (discovery, task)
    }

    /// What is behind an original destination.
    pub fn outbound(&self, addr: SocketAddr) -> Subscription<Target> {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        self.subscribe(&Resource::Outbound(addr), |table| table.hold_target(addr))
    }

    /// The endpoints of a backend.
    pub fn endpoints(&self, backend: &BackendId) -> Subscription<EndpointSet> {
        self.subscribe(&Resource::Endpoints(backend.clone()), |table| table.hold_endpoints(backend))
    }

    /// What holds for connections to our own workload.
    pub fn inbound(&self) -> Subscription<InboundPolicy> {
        self.subscribe(&Resource::Inbound, Table::hold_inbound)
    }

    /// What was found of the own application; said again on each new stream.
    pub fn report(&self, health: Health) {
        self.shared.update(|table| (table.report(health), None));
    }

    /// The same, unless nothing was reported, or nothing bad.
    pub fn report_if_unwell(&self, health: Health) {
        self.shared.update(|table| {
            let is_unwell = table.health().is_some_and(|known| !known.is_healthy);
            (
                if is_unwell {
                    table.report(health)
                },
                None,
            )
        });
    }

    /// How the stream is, and how much is known.
    pub fn status(&self) -> Status {
        self.shared.lock().status(Instant::now())
    }

    /// The next thing to say on the stream, for programs that are their own destination instead of polling the task.
    pub fn next_request(&self) -> Option<wire::WatchRequest> {
        self.shared.lock().next_request()
    }

    /// Takes an update as if the stream had brought it; see [`Discovery::next_request`].
    pub fn take(&self, update: wire::WatchResponse) {
        self.shared.apply(update, Instant::now());
    }

    fn subscribe<T>(
        &self,
        resource: &Resource,
        hold: impl FnOnce(&mut Table) -> Option<(u64, Arc<Cell<T>>)>,
    ) -> Subscription<T> {
        let held = self.shared.update(|table| (hold(table), Some(resource.clone())));
        match held {
            Some((id, cell)) => Subscription::held(id, cell, Arc::clone(&self.shared)),
            None => Subscription::over_limit(),
        }
    }
}

/// The table with its lock, the driver's wake-up, and the meters.
struct Shared {
    table: Mutex<Table>,
    common: Mutex<Common>,
    /// Rung when something may be due. Only the driver waits.
    wake: Notify,
    metrics: metrics::Discovery,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Shared {
    fn new(limit: usize, metrics: metrics::Discovery) -> Self {
        metrics.connected(false);
        let table = Mutex::new(Table::new(limit, Instant::now()));
        Shared { table, common: Mutex::default(), wake: Notify::new(), metrics }
    }

    /// Nothing below panics half-way through a change, so a poisoned table is a whole one.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change of who holds a resource, which `change` names.
    fn update<R>(&self, change: impl FnOnce(&mut Table) -> (R, Option<Resource>)) -> R {
        let mut table = self.lock();
        let (result, resource) = change(&mut table);
        if let Some(resource) = resource {
            // Under the lock, so that of two changes the later one's figure stays.
            self.metrics.subscriptions(resource.kind(), table.held(&resource));
        }
        if table.is_due() {
            self.wake.notify_one();
        }
        result
    }

    fn release(&self, id: u64) {
        self.update(|table| ((), table.release(id)));
    }

    fn connected(&self) {
        self.lock().connected(Instant::now());
        self.metrics.connected(true);
        tracing::info!("discovery stream is up");
    }

    fn disconnected(&self, why: String) {
        self.lock().disconnected(why, Instant::now());
        self.metrics.connected(false);
    }

    /// Takes an update over, or refuses it. Parsed before the lock is taken: the largest take milliseconds.
    fn apply(&self, update: wire::WatchResponse, now: Instant) {
        let mut snapshot = Snapshot::try_from(update.snapshot);
        if let Ok(snapshot) = &mut snapshot {
            self.common.lock().unwrap_or_else(PoisonError::into_inner).share(snapshot);
        }
        let outcome = self.lock().apply(update.id, update.version, snapshot, now);
        match outcome {
            Outcome::Applied(kind, news) => {
                news();
                self.metrics.update(kind);
            }
            Outcome::Refused(why) => {
                self.metrics.rejected();
                tracing::warn!("refused a discovery update, what was known stays: {why}");
            }
            Outcome::Dropped => {}
        }
    }
}
