//! The values of one kind of resource: a `watch` for each that somebody holds.
//!
//! Invariant: a cell is there exactly as long as it has holders; a value, once known, is only ever replaced by a different
//! one, never taken back.
//! Not here: the wire (`ledger`), who holds (`subscription`).

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use tokio::sync::watch;

/// The end of a cell that a subscriber reads.
pub(super) type Values<T> = watch::Receiver<Option<Arc<T>>>;

/// Cells by resource.
#[derive(Debug)]
pub(super) struct Cells<K, T>(HashMap<K, Cell<T>>);

#[derive(Debug)]
struct Cell<T> {
    /// The subscription on the wire.
    id: u64,
    holders: usize,
    values: watch::Sender<Option<Arc<T>>>,
}

impl<K, T> Default for Cells<K, T> {
    fn default() -> Self {
        Cells(HashMap::new())
    }
}

impl<K: Eq + Hash + Clone, T: PartialEq> Cells<K, T> {
    /// One more holder of `key`. The first one makes the cell, with the id that `start` gives it, unless there are `limit`
    /// cells already.
    pub(super) fn hold(&mut self, key: &K, limit: usize, start: impl FnOnce() -> u64) -> Option<Values<T>> {
        if let Some(cell) = self.0.get_mut(key) {
            cell.holders += 1;
            return Some(cell.values.subscribe());
        }
        if self.0.len() >= limit {
            return None;
        }
        let (values, reader) = watch::channel(None);
        self.0.insert(key.clone(), Cell { id: start(), holders: 1, values });
        Some(reader)
    }

    /// One holder less; after the last one, the subscription that is wanted no more.
    pub(super) fn release(&mut self, key: &K) -> Option<u64> {
        let cell = self.0.get_mut(key)?;
        cell.holders -= 1;
        if cell.holders > 0 {
            return None;
        }
        self.0.remove(key).map(|cell| cell.id)
    }

    /// The newest value; holders hear of it only if it differs from the one before.
    pub(super) fn put(&mut self, key: &K, value: T) {
        let Some(cell) = self.0.get(key) else { return };
        cell.values.send_if_modified(|known| {
            let differs = known.as_deref() != Some(&value);
            if differs {
                *known = Some(Arc::new(value));
            }
            differs
        });
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
