//! What many values have in common is kept once: traits of endpoints, and namespaces.
//!
//! Invariant: what nobody holds any more goes before the sets grow.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use super::parse::Snapshot;
use crate::model::{Target, Traits};

/// All that is known to be common.
#[derive(Debug, Default)]
pub(super) struct Common {
    traits: HashSet<Arc<Traits>>,
    namespaces: HashSet<Arc<str>>,
}

impl Common {
    /// Puts what is known already in the place of its like.
    pub(super) fn share(&mut self, snapshot: &mut Snapshot) {
        match snapshot {
            Snapshot::Outbound(Target::Service { backend, .. }) => {
                keep_once(&mut self.namespaces, &mut backend.namespace)
            }
            // Nobody else has a set that was just parsed.
            Snapshot::Endpoints(set) => Arc::get_mut(&mut set.list)
                .into_iter()
                .flatten()
                .for_each(|endpoint| keep_once(&mut self.traits, &mut endpoint.traits)),
            Snapshot::Outbound(_) | Snapshot::Inbound(_) => {}
        }
    }
}

fn keep_once<T: Eq + Hash + ?Sized>(known: &mut HashSet<Arc<T>>, value: &mut Arc<T>) {
    if let Some(known) = known.get(&**value) {
        *value = Arc::clone(known);
        return;
    }
    if known.len() == known.capacity() {
        known.retain(|known| Arc::strong_count(known) > 1);
    }
    known.insert(Arc::clone(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_become_one_and_those_that_nobody_holds_go() {
        let (mut known, mut first, mut second) = (HashSet::new(), Arc::<str>::from("shop"), Arc::<str>::from("shop"));
        keep_once(&mut known, &mut first);
        keep_once(&mut known, &mut second);
        assert!(Arc::ptr_eq(&first, &second));
        for number in 0..10_000 {
            keep_once(&mut known, &mut Arc::from(number.to_string()));
        }
        assert!(known.len() <= 8, "{} are kept, of which one is held", known.len());
        assert!(known.contains("shop"));
    }
}
