//! Bulkheads: how many requests and connections a backend may have at once, and how many wait for their turn.
//!
//! Invariant: who finds no place waits, if others who wait leave room for it and no longer than the policy says; all else is
//! refused at once. A place is given back when it is dropped. Limits may change while places are held. A connection has its
//! place for as long as it is open, and one that a pool keeps unused is closed when another one needs its place.
//! Non-goal: HTTP/2 connections, which are few and shared; limits of requests bound what they carry.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::http::h1_pool::{Pool, Ticket};
use crate::model::policy::Limits;

/// The limits of a backend, of all that is sent there.
#[derive(Debug)]
pub(super) struct Bulkhead {
    requests: Arc<Gate>,
    connections: Arc<Gate>,
    /// Those that have connections.
    pools: Mutex<Vec<Weak<Pool>>>,
}

/// At most so many at once.
#[derive(Debug)]
struct Gate {
    free: Semaphore,
    most: AtomicUsize,
    /// Held places that are not given back, since there are fewer now.
    owed: AtomicUsize,
    waiting: AtomicUsize,
}

/// A place, until dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Gate>);

/// Why there was no place: for people.
pub(super) type Full = &'static str;

const REQUESTS: Full = "the backend's limit of requests in flight is reached (limits.requests)";
const PENDING: Full = "the backend's limit of requests that wait is reached (limits.pendingRequests)";
const WAITED: Full = "no place became free for the request in time (limits.pendingWait)";
const CONNECTIONS: Full = "the backend's limit of connections is reached (limits.connections)";

/// How long is waited when a policy says only how many may.
const WAIT: Duration = Duration::from_secs(1);
/// How many wait when a policy says only how long.
const WAITING: u32 = 1024;

impl Default for Bulkhead {
    fn default() -> Self {
        Self { requests: Gate::new(), connections: Gate::new(), pools: Mutex::default() }
    }
}

impl Bulkhead {
    /// Makes these the limits.
    pub(super) fn set(&self, limits: &Limits) {
        self.requests.resize(limits.requests);
        self.connections.resize(limits.connections);
    }

    /// For a request, after its turn.
    pub(super) async fn request(&self, limits: &Limits) -> Result<Option<Place>, Full> {
        if limits.requests.is_none() {
            return Ok(None);
        }
        if let Some(place) = self.requests.take() {
            return Ok(Some(place));
        }
        let most = match (limits.pending, limits.pending_wait) {
            (Some(pending), _) => pending,
            (None, Some(_)) => WAITING,
            (None, None) => return Err(REQUESTS),
        };
        self.requests.wait(most as usize, limits.pending_wait.unwrap_or(WAIT)).await.map(Some)
    }

    /// For a connection: at once or not at all.
    pub(super) fn connection(&self, limits: &Limits) -> Result<Option<Place>, Full> {
        match limits.connections {
            None => Ok(None),
            Some(_) => self.one_connection().map(Some),
        }
    }

    /// The same for a connection that `pool` will keep.
    pub(super) fn pooled(&self, pool: &Arc<Pool>) -> Result<Ticket, Full> {
        let place = self.one_connection()?;
        let mut pools = self.pools();
        if !pools.iter().any(|known| Weak::as_ptr(known) == Arc::as_ptr(pool)) {
            pools.retain(|known| known.strong_count() > 0);
            pools.push(Arc::downgrade(pool));
        }
        Ok(Arc::new(place))
    }

    fn one_connection(&self) -> Result<Place, Full> {
        loop {
            if let Some(place) = self.connections.take() {
                return Ok(place);
            }
            if !self.pools().iter().filter_map(Weak::upgrade).any(|pool| pool.make_room()) {
                return Err(CONNECTIONS);
            }
        }
    }

    fn pools(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests that have a place, those that wait, connections.
    pub(super) fn state(&self) -> [usize; 3] {
        [self.requests.held(), self.requests.waiting.load(Ordering::Relaxed), self.connections.held()]
    }
}

impl Gate {
    fn new() -> Arc<Self> {
        let (most, owed, waiting) = Default::default();
        Arc::new(Self { free: Semaphore::new(0), most, owed, waiting })
    }

    fn resize(&self, most: Option<u32>) {
        let most = most.map_or(0, |most| most as usize).min(Semaphore::MAX_PERMITS / 2);
        let before = self.most.swap(most, Ordering::Relaxed);
        if most < before {
            let taken = self.free.forget_permits(before - most);
            self.owed.fetch_add(before - most - taken, Ordering::Relaxed);
        }
        (before..most).for_each(|_| self.give_back());
    }

    fn held(&self) -> usize {
        let most = self.most.load(Ordering::Relaxed) + self.owed.load(Ordering::Relaxed);
        most.saturating_sub(self.free.available_permits())
    }

    fn take(self: &Arc<Self>) -> Option<Place> {
        let permit = self.free.try_acquire().ok()?;
        permit.forget();
        Some(Place(Arc::clone(self)))
    }

    async fn wait(self: &Arc<Self>, most: usize, longest: Duration) -> Result<Place, Full> {
        let _waiting = Waiting::among(most, &self.waiting).ok_or(PENDING)?;
        let Ok(Ok(permit)) = timeout(longest, self.free.acquire()).await else { return Err(WAITED) };
        permit.forget();
        Ok(Place(Arc::clone(self)))
    }

    fn give_back(&self) {
        let pay = |owed: usize| owed.checked_sub(1);
        if self.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).is_err() {
            self.free.add_permits(1);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// One of those that wait.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn among(most: usize, waiting: &'a AtomicUsize) -> Option<Self> {
        let join = |waiting: usize| (waiting < most).then_some(waiting + 1);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, join).ok().map(|_| Self(waiting))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(requests: u32, pending: Option<u32>, wait_ms: Option<u64>) -> Limits {
        let pending_wait = wait_ms.map(Duration::from_millis);
        Limits { requests: Some(requests), pending, pending_wait, ..Limits::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_beyond_the_limit_is_refused_at_once_or_waits_its_time() {
        let bulkhead = Bulkhead::default();
        let at_once = limits(1, None, None);
        bulkhead.set(&at_once);
        let held = bulkhead.request(&at_once).await.unwrap();
        assert_eq!(bulkhead.request(&at_once).await.unwrap_err(), REQUESTS);
        let patient = limits(1, Some(1), Some(50));
        assert_eq!(bulkhead.request(&patient).await.unwrap_err(), WAITED);
        let (first, second) = tokio::join!(bulkhead.request(&patient), bulkhead.request(&patient));
        assert_eq!((first.unwrap_err(), second.unwrap_err()), (WAITED, PENDING));
        let free = async {
            tokio::task::yield_now().await;
            drop(held);
        };
        let (waited, ()) = tokio::join!(bulkhead.request(&patient), free);
        assert!(waited.unwrap().is_some());
        assert_eq!(bulkhead.state(), [0, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn limits_shrink_and_grow_while_places_are_held() {
        let bulkhead = Bulkhead::default();
        bulkhead.set(&limits(3, None, None));
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(bulkhead.request(&limits(3, None, None)).await.unwrap());
        }
        let small = limits(1, None, None);
        bulkhead.set(&small);
        held.truncate(1);
        assert!(bulkhead.request(&small).await.is_err(), "one is held, and one is the limit");
        held.clear();
        let one = bulkhead.request(&small).await.unwrap();
        assert!(bulkhead.request(&small).await.is_err());
        bulkhead.set(&limits(2, None, None));
        let two = bulkhead.request(&small).await.unwrap();
        assert!(bulkhead.request(&small).await.is_err());
        drop((one, two));
        assert_eq!(bulkhead.state(), [0, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn limits_that_shrink_twice_while_all_is_held_are_right_in_the_end() {
        let bulkhead = Bulkhead::default();
        bulkhead.set(&limits(4, None, None));
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(bulkhead.request(&limits(4, None, None)).await.unwrap());
        }
        for most in [1, 3, 2] {
            bulkhead.set(&limits(most, None, None));
        }
        held.clear();
        let two = limits(2, None, None);
        let held = [bulkhead.request(&two).await.unwrap(), bulkhead.request(&two).await.unwrap()];
        assert!(bulkhead.request(&two).await.is_err());
        drop(held);
    }
}
