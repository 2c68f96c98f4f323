//! What a subscriber holds: the newest value of one resource, and the lease that keeps it coming.
//!
//! Invariant: subscriptions of one resource share one cell and one line on the wire; both end with the last of them.
//! Not here: what the values mean.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Shared;
use super::cells::{Cell, Follower};

/// The newest state of a resource, as long as somebody holds this.
#[derive(Debug)]
pub struct Subscription<T> {
    cell: Arc<Cell<T>>,
    /// `None` above the limit: nothing will ever come.
    lease: Option<Lease>,
}

/// Ends its share of the subscription when dropped.
#[derive(Debug)]
struct Lease {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.release(self.id);
    }
}

impl<T> Subscription<T> {
    pub(super) fn held(id: u64, cell: Arc<Cell<T>>, shared: Arc<Shared>) -> Self {
        Subscription { cell, lease: Some(Lease { shared, id }) }
    }

    /// One that destination is not told of.
    pub(super) fn over_limit() -> Self {
        Subscription { cell: Arc::new(Cell::new()), lease: None }
    }

    /// The newest value; `None` until destination has answered, never again after.
    pub fn current(&self) -> Option<Arc<T>> {
        self.cell.value()
    }

    /// Whether destination has answered.
    pub fn is_known(&self) -> bool {
        self.cell.is_known()
    }

    /// The newest value, waiting for the first one up to `within`; not at all where none will come.
    pub async fn first(&self, within: Duration) -> Option<Arc<T>> {
        match self.current() {
            None if self.is_over_limit() => None,
            None => tokio::time::timeout(within, self.cell.first()).await.ok(),
            known => known,
        }
    }

    /// Calls `tell` with the value that there is, and with each new one before anybody who waits for it goes on, as long as
    /// `follower` exists. It must not come back to this room.
    pub fn follow<F>(&self, follower: &Arc<F>, tell: impl FnMut(&F, &T) + Send + 'static)
    where
        F: Send + Sync + 'static,
    {
        self.cell.follow(Box::new(Following { follower: Arc::downgrade(follower), tell }));
    }

    /// Whether there were too many subscriptions to begin this one: it will never have a value, and holding on to it is
    /// of no use; a later attempt may fare better.
    pub fn is_over_limit(&self) -> bool {
        self.lease.is_none()
    }
}

/// What a follower does with a value, while he exists.
struct Following<F, C> {
    follower: Weak<F>,
    tell: C,
}

impl<T, F, C> Follower<T> for Following<F, C>
where
    F: Send + Sync,
    C: FnMut(&F, &T) + Send,
{
    fn tell(&mut self, value: &T) -> bool {
        self.follower.upgrade().map(|follower| (self.tell)(&follower, value)).is_some()
    }

    fn is_gone(&self) -> bool {
        self.follower.strong_count() == 0
    }
}
