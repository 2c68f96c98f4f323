//! The values of one kind of resource: a cell for each that somebody holds.
//!
//! Invariant: a cell is there exactly as long as it has holders; a value, once known, is only ever replaced by a different
//! one, never taken back. A cell is small (no `watch` channel): a proxy has thousands.
//! Not here: the wire (`ledger`), who holds (`subscription`).

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

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

/// Cells by resource.
#[derive(Debug)]
pub(super) struct Cells<K, T>(HashMap<K, Held<T>>);

#[derive(Debug)]
struct Held<T> {
    /// The subscription on the wire.
    id: u64,
    holders: usize,
    cell: Arc<Cell<T>>,
}

impl<K, T> Default for Cells<K, T> {
    fn default() -> Self {
        Cells(HashMap::new())
    }
}

impl<K: Eq + Hash + Clone, T: PartialEq + Send + Sync + 'static> Cells<K, T> {
    /// One more holder of `key`: the subscription's id and the cell. The first one makes the cell, with the id that `start`
    /// gives it, unless there are `limit` cells already.
    pub(super) fn hold(&mut self, key: &K, limit: usize, start: impl FnOnce() -> u64) -> Option<(u64, Arc<Cell<T>>)> {
        if let Some(held) = self.0.get_mut(key) {
            held.holders += 1;
            return Some((held.id, Arc::clone(&held.cell)));
        }
        if self.0.len() >= limit {
            return None;
        }
        let (id, cell) = (start(), Arc::new(Cell::new()));
        self.0.insert(key.clone(), Held { id, holders: 1, cell: Arc::clone(&cell) });
        Some((id, cell))
    }

    /// One holder less; whether it was the last one.
    pub(super) fn release(&mut self, key: &K) -> bool {
        let Some(held) = self.0.get_mut(key) else { return false };
        held.holders -= 1;
        if held.holders > 0 {
            return false;
        }
        self.0.remove(key);
        true
    }

    /// The newest value of `key`.
    pub(super) fn news(&self, key: &K, value: T) -> Option<News> {
        let cell = Arc::clone(&self.0.get(key)?.cell);
        Some(Box::new(move || cell.put(value)))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
