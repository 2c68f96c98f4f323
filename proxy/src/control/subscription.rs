//! What a subscriber holds: the newest value of one resource, and the lease that keeps it coming.
//!
//! Invariant: subscriptions of one resource share one cell and one line on the wire; both end with the last of them.
//! Not here: what the values mean.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Shared;
use super::cells::Values;
use super::ledger::Resource;

/// The newest state of a resource, as long as somebody holds one of these.
#[derive(Debug)]
pub struct Subscription<T> {
    values: Values<T>,
    /// `None` above the limit: nothing will ever come.
    lease: Option<Arc<Lease>>,
}

/// Ends its share of the subscription when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) shared: Arc<Shared>,
    pub(super) resource: Resource,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.release(&self.resource);
    }
}

impl<T> Subscription<T> {
    pub(super) fn held(values: Values<T>, lease: Lease) -> Self {
        Subscription { values, lease: Some(Arc::new(lease)) }
    }

    /// One that destination is not told of. Its cell has no writer, so nobody waits for it in vain.
    pub(super) fn over_limit() -> Self {
        Subscription { values: watch::channel(None).1, lease: None }
    }

    /// The newest value; `None` until destination has answered, never again after.
    pub fn current(&self) -> Option<Arc<T>> {
        self.values.borrow().clone()
    }

    /// Waits until there is a value that this handle has not waited for yet; for ever, if none comes. Cancel safe.
    pub async fn changed(&mut self) {
        if self.values.changed().await.is_err() {
            pending().await
        }
    }

    /// The newest value, waiting for the first one up to `within`.
    pub async fn first(&self, within: Duration) -> Option<Arc<T>> {
        if let Some(value) = self.current() {
            return Some(value);
        }
        let mut values = self.values.clone();
        let known = tokio::time::timeout(within, values.wait_for(Option::is_some)).await;
        known.ok()?.ok()?.clone()
    }

    /// Whether there were too many subscriptions to begin this one: it will never have a value, and holding on to it is
    /// of no use; a later attempt may fare better.
    pub fn is_over_limit(&self) -> bool {
        self.lease.is_none()
    }
}

impl<T> Clone for Subscription<T> {
    fn clone(&self) -> Self {
        Subscription { values: self.values.clone(), lease: self.lease.clone() }
    }
}
