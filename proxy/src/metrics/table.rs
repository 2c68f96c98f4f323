//! Handles by a small key, made at first use, found without a lock, a hash or an allocation.
//!
//! Invariant: slots are filled from the left and never emptied, so a scan that meets an empty slot has seen all. Meant
//! for a few keys each, the usual ones coming first: a lookup of the first key is one load and one comparison.

use super::family::Family;
use super::registry::{Counter, Label, Registry, label};
use super::sync::OnceLock;

/// At most `N` handles. There are tables for each target, and most hold one or two: room for more is made when it is needed.
pub(super) struct Table<K, V, const N: usize> {
    first: [Slot<K, V>; FIRST],
    more: OnceLock<Box<[Slot<K, V>; N]>>,
}

type Slot<K, V> = OnceLock<(K, V)>;

const FIRST: usize = 2;

impl<K: Copy + Eq, V, const N: usize> Table<K, V, N> {
    pub(super) const fn new() -> Self {
        Self { first: [const { OnceLock::new() }; FIRST], more: OnceLock::new() }
    }

    /// The handle of `key`, made by `make` when it is new. `None` when all slots are taken by others, or when `key` is
    /// new and `admit` refuses.
    pub(super) fn find(&self, key: K, admit: impl Fn() -> bool, make: impl Fn() -> V) -> Option<&V> {
        for slot in (0..N).map(|i| self.slot(i)) {
            if slot.get().is_none() && !admit() {
                return None;
            }
            // Somebody else may fill this slot at the same time, with another key: then the scan goes on.
            let (found, handle) = slot.get_or_init(|| (key, make()));
            if *found == key {
                return Some(handle);
            }
        }
        None
    }

    fn slot(&self, i: usize) -> &Slot<K, V> {
        let more = || self.more.get_or_init(|| Box::new([const { OnceLock::new() }; N]));
        self.first.get(i).unwrap_or_else(|| &more()[i])
    }
}

/// A counter per reason word: one family, fixed labels, and one label that varies.
pub(super) struct Reasons<const N: usize> {
    family: &'static Family,
    labels: Vec<Label>,
    varies: &'static str,
    table: Table<&'static str, Counter, N>,
    /// For the reasons after the first `N`.
    overflow: OnceLock<Counter>,
}

impl<const N: usize> Reasons<N> {
    pub(super) fn new(family: &'static Family, labels: Vec<Label>, varies: &'static str) -> Self {
        Self { family, labels, varies, table: Table::new(), overflow: OnceLock::new() }
    }

    /// The labels that all of its counters have.
    pub(super) fn labels(&self) -> Vec<Label> {
        self.labels.clone()
    }

    /// Counts one more for `reason`.
    pub(super) fn count(&self, registry: &Registry, reason: &'static str) {
        let make = |word| {
            let mut labels = self.labels.clone();
            labels.push(label(self.varies, word));
            registry.counter(self.family, &labels)
        };
        // Reasons are words of our code, so the code bounds them: they are not held against the cap.
        match self.table.find(reason, || true, || make(reason)) {
            Some(counter) => counter.increment(1),
            None => self.overflow.get_or_init(|| make("overflow")).increment(1),
        }
    }
}
