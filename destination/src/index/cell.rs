//! A watched resource's newest snapshot, and who is to be told of the next one.
//!
//! Invariant: telling is a mark, not a message: however many changes come, a subscription has one mark at most, so a reader
//! that does not read costs nothing. A watch that is dropped leaves nothing behind. No lock is held across an await.
//! Non-goal: the pace at which readers are served (`service::pace`).

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;

use super::snapshot::{Resource, Snapshot};

/// The subscriptions of one reader that changed since it last looked.
#[derive(Debug, Default)]
pub struct Marks {
    inner: Mutex<Unread>,
}

#[derive(Debug, Default)]
struct Unread {
    marked: Marked,
    reader: Option<Waker>,
}

/// What changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Marked {
    /// The subscriptions.
    pub ids: BTreeSet<u64>,
    /// How many changes came to a subscription that was marked already.
    pub repeated: u64,
}

impl Marks {
    /// Takes all marks, and wakes `reader` when there is one again.
    pub fn take(&self, reader: &Waker) -> Marked {
        let mut inner = lock(&self.inner);
        match &mut inner.reader {
            Some(known) => known.clone_from(reader),
            none => *none = Some(reader.clone()),
        }
        std::mem::take(&mut inner.marked)
    }

    fn set(&self, id: u64) {
        let mut inner = lock(&self.inner);
        let is_first = inner.marked.ids.is_empty();
        if !inner.marked.ids.insert(id) {
            inner.marked.repeated += 1;
        }
        if is_first && let Some(reader) = &inner.reader {
            reader.wake_by_ref();
        }
    }
}

/// A subscription's view of a resource.
#[derive(Debug)]
pub struct Watch {
    cell: Arc<Cell>,
    marks: Arc<Marks>,
    id: u64,
}

impl Watch {
    pub(super) fn new(cell: Arc<Cell>, marks: Arc<Marks>, id: u64) -> Self {
        let follower = Arc::downgrade(&marks);
        let key = (follower.as_ptr() as usize, id);
        lock(&cell.inner).followers.insert(key, follower);
        Self { cell, marks, id }
    }

    /// What is watched.
    pub fn resource(&self) -> &Resource {
        &self.cell.resource
    }

    /// The newest snapshot.
    pub fn latest(&self) -> Arc<Snapshot> {
        self.cell.latest()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let key = (Arc::as_ptr(&self.marks) as usize, self.id);
        let mut inner = lock(&self.cell.inner);
        inner.followers.remove(&key);
        if inner.followers.is_empty() {
            self.cell.abandoned.store(true, Ordering::Release);
        }
    }
}

#[derive(Debug)]
pub(super) struct Cell {
    resource: Resource,
    inner: Mutex<Inner>,
    /// Of all cells of the index: one of them is not watched any more.
    abandoned: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Inner {
    latest: Arc<Snapshot>,
    /// By the address of the reader's marks (alive as long as the watch, which holds them) and subscription.
    followers: HashMap<(usize, u64), Weak<Marks>>,
}

impl Cell {
    pub(super) fn new(resource: Resource, snapshot: Snapshot, abandoned: Arc<AtomicBool>) -> Self {
        let (latest, followers) = (Arc::new(snapshot), HashMap::new());
        let inner = Mutex::new(Inner { latest, followers });
        Self { resource, inner, abandoned }
    }

    pub(super) fn latest(&self) -> Arc<Snapshot> {
        Arc::clone(&lock(&self.inner).latest)
    }

    pub(super) fn publish(&self, snapshot: Snapshot) {
        let mut inner = lock(&self.inner);
        inner.latest = Arc::new(snapshot);
        for ((_, id), follower) in &inner.followers {
            if let Some(marks) = follower.upgrade() {
                marks.set(*id);
            }
        }
    }

    pub(super) fn is_watched(&self) -> bool {
        !lock(&self.inner).followers.is_empty()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
