//! The live cell of anchors and leaf that all handshakes read.
//!
//! Invariant: one owner writes (the Certify client, or a service that watches its files), everybody reads the newest
//! value; nothing has to be rebuilt or restarted when either changes. Non-goal: open connections; they keep the
//! certificates that they were made with.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::timeout;

pub use crate::anchors::Anchors;
pub use crate::leaf::Leaf;

/// The wall clock is looked at this often, for it may be set.
const LOOK: Duration = Duration::from_secs(60);

/// Anchors and leaf, shared by all clones.
#[derive(Clone, Debug)]
pub struct Credentials {
    anchors: Arc<watch::Sender<Anchors>>,
    leaf: Arc<watch::Sender<Option<Arc<Leaf>>>>,
}

impl Credentials {
    /// Starts without a leaf.
    pub fn new(anchors: Anchors) -> Self {
        Self { anchors: Arc::new(watch::Sender::new(anchors)), leaf: Arc::new(watch::Sender::new(None)) }
    }

    /// The anchors in force.
    pub fn anchors(&self) -> Anchors {
        self.anchors.borrow().clone()
    }

    /// Puts anchors in force for all handshakes from now on. True when they differ from those before.
    pub fn set_anchors(&self, anchors: Anchors) -> bool {
        self.anchors.send_if_modified(|current| {
            let changed = *current != anchors;
            *current = anchors;
            changed
        })
    }

    /// The newest leaf, which may have expired meanwhile; [`Credentials::usable_leaf`] does not return such.
    pub fn leaf(&self) -> Option<Arc<Leaf>> {
        self.leaf.borrow().clone()
    }

    /// The leaf, when it has not expired at `now`.
    pub fn usable_leaf(&self, now: SystemTime) -> Option<Arc<Leaf>> {
        self.leaf().filter(|leaf| now <= leaf.not_after())
    }

    /// Puts a leaf in force for all handshakes from now on.
    pub fn set_leaf(&self, leaf: Leaf) -> Arc<Leaf> {
        let leaf = Arc::new(leaf);
        self.leaf.send_replace(Some(Arc::clone(&leaf)));
        leaf
    }

    /// Waits for the first leaf.
    pub async fn certified(&self) -> Arc<Leaf> {
        let mut leaf = self.watch_leaf();
        loop {
            if let Some(leaf) = leaf.borrow_and_update().clone() {
                return leaf;
            }
            if leaf.changed().await.is_err() {
                // Cannot be while `self` keeps the sender; waiting is what this function promises.
                std::future::pending::<()>().await;
            }
        }
    }

    /// For readiness: tells whether there is a leaf that has not expired by the wall clock, at once and at each change,
    /// until it is dropped. Whoever sets the clock is noticed within a minute.
    pub async fn follow_usable(&self, mut on_change: impl FnMut(bool)) {
        let mut leaf = self.watch_leaf();
        let mut told = None;
        loop {
            let not_after = leaf.borrow_and_update().as_ref().map(|leaf| leaf.not_after());
            let left = not_after.and_then(|end| end.duration_since(SystemTime::now()).ok());
            if told != Some(left.is_some()) {
                told = Some(left.is_some());
                on_change(left.is_some());
            }
            // A leaf holds to the end of its last moment, so a look must come after it.
            let wait = left.map_or(LOOK, |left| (left + Duration::from_millis(1)).min(LOOK));
            // `self` keeps the sender, so there is nothing but changes to hear of.
            let _ = timeout(wait, leaf.changed()).await;
        }
    }

    /// Wakes whenever the anchors change.
    pub fn watch_anchors(&self) -> watch::Receiver<Anchors> {
        self.anchors.subscribe()
    }

    /// Wakes whenever the leaf changes.
    pub fn watch_leaf(&self) -> watch::Receiver<Option<Arc<Leaf>>> {
        self.leaf.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ca, Template, until};

    #[tokio::test]
    async fn whether_a_leaf_is_usable_follows_its_end_and_its_renewal() {
        let ca = Ca::root("root");
        let credentials = Credentials::new(ca.anchors());
        let told = watch::Sender::new(vec![]);
        let mut seen = told.subscribe();
        let following = tokio::spawn({
            let credentials = credentials.clone();
            async move { credentials.follow_usable(|usable| told.send_modify(|all| all.push(usable))).await }
        });
        let issue = |seconds| {
            let template = Template { not_after: time::Duration::seconds(seconds), ..Template::default() };
            credentials.set_leaf(ca.issue(&template).leaf())
        };
        until(&mut seen, |all| *all == [false]).await;
        let short = issue(2);
        until(&mut seen, |all| *all == [false, true]).await;
        until(&mut seen, |all| *all == [false, true, false]).await;
        assert!(SystemTime::now() > short.not_after(), "told too early");
        issue(3600);
        until(&mut seen, |all| *all == [false, true, false, true]).await;
        issue(7200); // nothing new
        issue(-1);
        until(&mut seen, |all| *all == [false, true, false, true, false]).await;
        following.abort();
    }
}
