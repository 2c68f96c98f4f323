//! Who belongs to whom, many to many.
//!
//! Invariant: counted, so that what was related twice has to be parted twice; nothing is kept of those that have parted.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Whether a relation begins or ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Link {
    Add,
    Remove,
}

#[derive(Debug)]
pub(super) struct Relation<L, R> {
    map: HashMap<L, BTreeMap<R, usize>>,
}

impl<L, R> Default for Relation<L, R> {
    fn default() -> Self {
        let map = HashMap::new();
        Self { map }
    }
}

impl<L: Eq + Hash, R: Ord> Relation<L, R> {
    pub(super) fn set(&mut self, link: Link, left: L, right: R) {
        match link {
            Link::Add => *self.map.entry(left).or_default().entry(right).or_default() += 1,
            Link::Remove => self.remove(&left, &right),
        }
    }

    fn remove(&mut self, left: &L, right: &R) {
        let Some(rights) = self.map.get_mut(left) else {
            return;
        };
        if let Some(count) = rights.get_mut(right) {
            *count -= 1;
            if *count == 0 {
                rights.remove(right);
            }
        }
        if rights.is_empty() {
            self.map.remove(left);
        }
    }

    /// All that belong to `left`, in order.
    pub(super) fn of<'a>(&'a self, left: &L) -> impl Iterator<Item = &'a R> + use<'a, L, R> {
        self.map.get(left).into_iter().flat_map(BTreeMap::keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_related_twice_has_to_be_parted_twice() {
        let mut relation = Relation::default();
        relation.set(Link::Add, 1, "a");
        relation.set(Link::Add, 1, "a");
        relation.set(Link::Remove, 1, "a");
        assert_eq!(relation.of(&1).collect::<Vec<_>>(), [&"a"]);
        relation.set(Link::Remove, 1, "a");
        relation.set(Link::Remove, 1, "a");
        assert!(relation.of(&1).next().is_none() && relation.map.is_empty());
    }
}
