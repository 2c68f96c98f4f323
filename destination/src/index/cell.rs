//! A watched resource's newest snapshot, and who is to be told of the next one.
//!
//! Invariant: telling is a mark, not a message: however many changes come, a subscription has one mark at most, so a reader
//! that does not read costs nothing. A watch that is dropped leaves nothing behind. No lock is held across an await.
//! Non-goal: the pace at which readers are served (`service::pace`).

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashSet};
use std::hash::{Hash, Hasher};
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
        lock(&cell.inner).followers.insert(Follower { marks: Arc::downgrade(&marks), id });
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
        let follower = Follower { marks: Arc::downgrade(&self.marks), id: self.id };
        let mut inner = lock(&self.cell.inner);
        inner.followers.remove(&follower);
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
    followers: HashSet<Follower>,
}

/// A subscription of a reader, whose marks live as long as its watch.
#[derive(Debug)]
struct Follower {
    marks: Weak<Marks>,
    id: u64,
}

impl PartialEq for Follower {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.marks.ptr_eq(&other.marks)
    }
}

impl Eq for Follower {}

impl Hash for Follower {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.marks.as_ptr(), self.id).hash(state);
    }
}

impl Cell {
    pub(super) fn new(resource: Resource, snapshot: Snapshot, abandoned: Arc<AtomicBool>) -> Self {
        let (latest, followers) = (Arc::new(snapshot), HashSet::new());
        let inner = Mutex::new(Inner { latest, followers });
        Self { resource, inner, abandoned }
    }

    pub(super) fn resource(&self) -> &Resource {
        &self.resource
    }

    pub(super) fn latest(&self) -> Arc<Snapshot> {
        Arc::clone(&lock(&self.inner).latest)
    }

    pub(super) fn publish(&self, snapshot: Snapshot) {
        let mut inner = lock(&self.inner);
        inner.latest = Arc::new(snapshot);
        for follower in &inner.followers {
            if let Some(marks) = follower.marks.upgrade() {
                marks.set(follower.id);
            }
        }
    }

    pub(super) fn is_watched(&self) -> bool {
        !lock(&self.inner).followers.is_empty()
    }
}

/// A cell in a set, which is found by its resource.
#[derive(Debug)]
pub(super) struct ByResource(pub(super) Arc<Cell>);

impl Borrow<Resource> for ByResource {
    fn borrow(&self) -> &Resource {
        &self.0.resource
    }
}

impl PartialEq for ByResource {
    fn eq(&self, other: &Self) -> bool {
        self.0.resource == other.0.resource
    }
}

impl Eq for ByResource {}

impl Hash for ByResource {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.resource.hash(state);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
