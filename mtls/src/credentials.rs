//! The live cell of anchors and leaf that all handshakes read.
//!
//! Invariant: one owner writes (the Certify client, or a service that watches its files), everybody reads the newest
//! value; nothing has to be rebuilt or restarted when either changes. Non-goal: open connections; they keep the
//! certificates that they were made with.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

pub use crate::anchors::Anchors;
pub use crate::leaf::Leaf;

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

    /// Wakes whenever the anchors change.
    pub fn watch_anchors(&self) -> watch::Receiver<Anchors> {
        self.anchors.subscribe()
    }

    /// Wakes whenever the leaf changes.
    pub fn watch_leaf(&self) -> watch::Receiver<Option<Arc<Leaf>>> {
        self.leaf.subscribe()
    }
}
