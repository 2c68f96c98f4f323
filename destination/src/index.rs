//! All objects, and the snapshots of what somebody watches.
//!
//! Invariant: synchronous and pure: the same objects give the same snapshots, in whatever order they came. Changes gather
//! until [`Index::publish`], which computes each watched resource that they concern once, and tells of those that differ.
//! Versions grow with each change, and equal snapshots are never told again. What nobody watches is not computed.
//! Non-goal: where objects come from, and how snapshots travel.

mod cell;
mod health;
mod objects;
mod policies;
mod relation;
mod resolve;
mod routes;
mod shadows;
mod snapshot;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use cell::{ByResource, Cell};
pub use cell::{Marked, Marks, Watch};
use health::Reports;
pub use health::{Reported, Reporter};
use objects::Objects;
pub use resolve::{SIDECAR_PORTS, TUNNEL_PORT};
pub use snapshot::{
    Backend, BackendPolicy, Dialed, Endpoint, Endpoints, Inbound, InboundPort, Proxy, RankedMatch, Rates,
    RequestPolicy, Resource, Routed, RoutedMirror, RoutedRule, Routes, Snapshot, State, Target,
};

pub use status::{About, Condition, Reason, Status};

use crate::model::{Key, Kind, Name, Object};

/// Abandoned cells are swept away whenever their map has grown by this much since the last time.
const SWEEP_EVERY: usize = 1024;

/// See the module.
#[derive(Debug)]
pub struct Index {
    objects: Objects,
    touched: Touched,
    watched: HashSet<ByResource>,
    /// Some of `watched` may not be any more.
    abandoned: Arc<AtomicBool>,
    sweep_at: usize,
    revision: u64,
    completeness: Completeness,
    reports: Reports,
    /// Routes and policies whose newest version cannot be used, and why.
    rejected: BTreeMap<Key, String>,
}

/// Whether the source has told of all that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// Not yet: what is not here may well exist, and nobody is to be told that it does not.
    Partial,
    /// It has; what is not here does not exist.
    Whole,
}

/// What changed since the last publication. Mostly that is little, and each watched resource is held against it.
#[derive(Debug, Default)]
struct Touched {
    addresses: BTreeSet<IpAddr>,
    services: BTreeSet<Name>,
}

impl Touched {
    fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.services.is_empty()
    }

    fn concerns(&self, resource: &Resource) -> bool {
        match resource {
            Resource::Outbound(dialed) => self.addresses.contains(&dialed.addr.ip()),
            Resource::Endpoints(backend) => self.services.contains(&backend.service),
            Resource::Inbound(proxy) => {
                let mut addresses = proxy.addresses.iter();
                addresses.any(|address| self.addresses.contains(address))
            }
        }
    }
}

impl Index {
    /// An empty one, whose workloads are of `trust_domain`.
    pub fn new(trust_domain: impl Into<String>) -> Self {
        Self {
            objects: Objects::new(trust_domain.into()),
            touched: Touched::default(),
            watched: HashSet::new(),
            abandoned: Arc::default(),
            sweep_at: SWEEP_EVERY,
            revision: 1,
            completeness: Completeness::Partial,
            reports: Reports::default(),
            rejected: BTreeMap::new(),
        }
    }

    /// Whether all that there is has been told of.
    pub fn completeness(&self) -> Completeness {
        self.completeness
    }

    /// All that there is has been applied and published. This is for good: later on the source keeps what it cannot read.
    pub fn complete(&mut self) {
        self.completeness = Completeness::Whole;
    }

    /// Adds an object, in place of its predecessor if there is one.
    pub fn apply(&mut self, object: Object) {
        self.objects.apply(object, &mut self.touched);
    }

    /// Removes an object; nothing happens when there is none.
    pub fn delete(&mut self, key: &Key) {
        self.objects.delete(key, &mut self.touched);
    }

    /// Makes `objects` all that there is.
    pub fn reset(&mut self, objects: impl IntoIterator<Item = Object>) {
        let mut gone = self.objects.keys();
        for object in objects {
            gone.remove(&object.key());
            self.apply(object);
        }
        for key in &gone {
            self.delete(key);
        }
    }

    /// Makes all changes since the last call visible, at once. `seen` says since when they are known. Returns how many
    /// watched resources changed.
    pub fn publish(&mut self, seen: Instant) -> usize {
        if self.touched.is_empty() {
            return 0;
        }
        let touched = std::mem::take(&mut self.touched);
        if self.abandoned.load(Ordering::Acquire) {
            self.sweep();
        }
        let version = self.revision + 1;
        let mut changed = 0;
        for ByResource(cell) in &self.watched {
            let resource = cell.resource();
            if !touched.concerns(resource) {
                continue;
            }
            let state = self.objects.resolve(resource, &self.reports);
            let before = cell.latest();
            if before.state != state {
                tell_of_preservation(resource, &before.state, &state);
                cell.publish(Snapshot::new(version, Some(seen), state));
                changed += 1;
            }
        }
        self.revision = version;
        changed
    }

    /// Watches a resource on behalf of the subscription `id` of whoever reads `marks`, which gets a mark for each change
    /// that is published from now on. Dropping the result ends it.
    pub fn watch(&mut self, resource: Resource, marks: &Arc<Marks>, id: u64) -> Watch {
        let cell = match self.watched.get(&resource) {
            Some(ByResource(cell)) => Arc::clone(cell),
            None => self.cell(resource),
        };
        Watch::new(cell, Arc::clone(marks), id)
    }

    fn cell(&mut self, resource: Resource) -> Arc<Cell> {
        if self.watched.len() >= self.sweep_at {
            self.sweep();
        }
        // Changes that wait for publication are told of twice to a newcomer at worst: publication compares.
        let state = self.objects.resolve(&resource, &self.reports);
        let snapshot = Snapshot::new(self.revision, None, state);
        let cell = Arc::new(Cell::new(resource, snapshot, Arc::clone(&self.abandoned)));
        self.watched.insert(ByResource(Arc::clone(&cell)));
        cell
    }

    /// Forgets what nobody watches any more.
    fn sweep(&mut self) {
        // First, so that what is abandoned meanwhile is found the next time.
        self.abandoned.store(false, Ordering::Release);
        self.watched.retain(|ByResource(cell)| cell.is_watched());
        self.sweep_at = 2 * self.watched.len() + SWEEP_EVERY;
    }

    /// All routes and policies whose newest version cannot be used, and why.
    pub fn reject(&mut self, rejected: BTreeMap<Key, String>) {
        self.rejected = rejected;
    }

    /// What became of each route and policy, in the order of their names.
    pub fn statuses(&self) -> Vec<Status> {
        self.objects.statuses(&self.rejected)
    }

    /// Rules of routes that no request reaches, and why.
    pub fn unreachable(&self) -> Vec<(Key, String)> {
        self.objects.unreachable()
    }

    /// Watched backends whose endpoints all stay although more than half are not well, and how many those are.
    pub fn preserved(&self) -> Vec<(Backend, usize)> {
        let preserved =
            self.watched.iter().filter_map(|ByResource(cell)| match (cell.resource(), &cell.latest().state) {
                (Resource::Endpoints(backend), State::Endpoints(endpoints)) if endpoints.is_preserved => {
                    Some((backend.clone(), endpoints.unhealthy))
                }
                _ => None,
            });
        preserved.collect()
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.objects.count(kind)
    }

    /// Grows with each publication that may have changed something.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How many resources are kept up to date.
    pub fn watched(&self) -> usize {
        self.watched.len()
    }
}

/// Says when more than half of a backend's endpoints are not well, and when that is over.
fn tell_of_preservation(resource: &Resource, before: &State, now: &State) {
    let (Resource::Endpoints(Backend { service, port }), State::Endpoints(before), State::Endpoints(now)) =
        (resource, before, now)
    else {
        return;
    };
    let (unhealthy, endpoints) = (now.unhealthy, now.list.len());
    match (before.is_preserved, now.is_preserved) {
        (false, true) => {
            tracing::warn!(%service, port, unhealthy, endpoints, "more than half of the endpoints are not well: all stay in use");
        }
        (true, false) => {
            tracing::info!(%service, port, unhealthy, endpoints, "endpoints that are not well are out of use again")
        }
        _ => {}
    }
}
