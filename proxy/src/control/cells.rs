//! The values of one kind of resource: a cell for each subscription.
//!
//! Invariant: a value, once known, is only ever replaced by a different one, never taken back. A cell is small (no `watch`
//! channel): a proxy has thousands.
//! Not here: the wire, and how many hold a subscription (`ledger`), who holds it (`subscription`).

use std::collections::HashMap;
use std::fmt;

use super::Notify;
use super::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Somebody who hears of each value, as long as he exists.
pub(super) trait Follower<T>: Send {
    /// Tells him; false when he is gone.
    fn tell(&mut self, value: &T) -> bool;

    /// Whether he is gone.
    fn is_gone(&self) -> bool;
}

/// The newest value of a resource.
pub(super) struct Cell<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Option<Arc<T>>,
    /// Rung when there is a first value, if somebody waits for it.
    known: Option<Arc<Notify>>,
    /// No vector: most have one or none.
    followers: Box<[Box<dyn Follower<T>>]>,
}

impl<T> Cell<T> {
    pub(super) fn new() -> Self {
        Cell { state: Mutex::new(State { value: None, known: None, followers: Box::default() }) }
    }

    pub(super) fn value(&self) -> Option<Arc<T>> {
        self.lock().value.clone()
    }

    pub(super) fn is_known(&self) -> bool {
        self.lock().value.is_some()
    }

    /// The value, waiting for the first one.
    pub(super) async fn first(&self) -> Arc<T> {
        let bell = match self.value_or_bell() {
            Ok(value) => return value,
            Err(bell) => bell,
        };
        loop {
            // Listens before it looks.
            let known = bell.notified();
            if let Some(value) = self.value() {
                return value;
            }
            known.await;
        }
    }

    fn value_or_bell(&self) -> Result<Arc<T>, Arc<Notify>> {
        let State { value, known, .. } = &mut *self.lock();
        value.clone().ok_or_else(|| Arc::clone(known.get_or_insert_with(|| Arc::new(Notify::new()))))
    }

    /// Tells `follower` the value that there is, and all that come, in their order. Those that are gone make room.
    pub(super) fn follow(&self, mut follower: Box<dyn Follower<T>>) {
        let mut state = self.lock();
        let State { value, followers, .. } = &mut *state;
        let left = std::mem::take(followers).into_iter().filter(|follower| !follower.is_gone());
        let new = value.as_ref().is_none_or(|value| follower.tell(value)).then_some(follower);
        *followers = left.chain(new).collect();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: PartialEq> Cell<T> {
    /// The newest value; followers hear of it only if it differs from the one before.
    fn put(&self, new: T) {
        let mut state = self.lock();
        let State { value, known, followers } = &mut *state;
        if value.as_deref() != Some(&new) {
            let new = value.insert(Arc::new(new));
            let mut left = std::mem::take(followers).into_vec();
            left.retain_mut(|follower| follower.tell(new));
            *followers = left.into();
            if let Some(known) = known.take() {
                known.notify_waiters();
            }
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Cell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cell").field(&self.lock().value).finish()
    }
}

/// A value on its way into its cell. To be called without the table's lock: followers may let go of much.
pub(super) type News = Box<dyn FnOnce() + Send>;

/// Cells by the ids of their subscriptions.
#[derive(Debug)]
pub(super) struct Cells<T>(HashMap<u64, Arc<Cell<T>>>);

impl<T> Default for Cells<T> {
    fn default() -> Self {
        Cells(HashMap::new())
    }
}

impl<T: PartialEq + Send + Sync + 'static> Cells<T> {
    /// The cell of subscription `id`, which is made if there is none.
    pub(super) fn hold(&mut self, id: u64) -> Arc<Cell<T>> {
        Arc::clone(self.0.entry(id).or_insert_with(|| Arc::new(Cell::new())))
    }

    /// The subscription has ended.
    pub(super) fn remove(&mut self, id: u64) {
        self.0.remove(&id);
    }

    /// The newest value of what subscription `id` is about.
    pub(super) fn news(&self, id: u64, value: T) -> Option<News> {
        let cell = Arc::clone(self.0.get(&id)?);
        Some(Box::new(move || cell.put(value)))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
