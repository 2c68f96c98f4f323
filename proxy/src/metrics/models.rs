//! The tables of handles under a scheduler that tries many orders of what threads do.
//!
//! Invariant: the code is that of the product, compiled against the scheduler's locks.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "a model needs part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::thread;

use super::{family, registry};

#[path = "table.rs"]
mod table;

use table::Table;

/// Orders that are tried.
const ORDERS: usize = 2_000;

/// What the table asks of the standard library, with places where other threads may come between.
mod sync {
    use shuttle::sync::Mutex;
    use shuttle::thread::yield_now;

    pub(super) struct OnceLock<T> {
        cell: std::sync::OnceLock<T>,
        filling: Mutex<()>,
    }

    impl<T> OnceLock<T> {
        pub(super) const fn new() -> Self {
            Self { cell: std::sync::OnceLock::new(), filling: Mutex::new(()) }
        }

        pub(super) fn get(&self) -> Option<&T> {
            yield_now();
            self.cell.get()
        }

        pub(super) fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
            yield_now();
            let _filling = self.filling.lock().expect("a model");
            self.cell.get_or_init(make)
        }
    }
}

#[test]
fn r66_threads_that_look_for_a_key_at_the_same_time_find_one_handle() {
    shuttle::check_random(
        || {
            let table = Arc::new(Table::<u8, usize, 6>::new());
            let made = Arc::new(AtomicUsize::new(0));
            let seekers: Vec<_> = (0..3_u8)
                .map(|seeker| {
                    let (table, made) = (Arc::clone(&table), Arc::clone(&made));
                    thread::spawn(move || {
                        // Each in an order of its own, and into the part of the table that is made late.
                        let keys = (0..4).map(|n| (n + seeker) % 4);
                        let find = |key| {
                            let handle = table.find(key, || true, || made.fetch_add(1, Ordering::Relaxed));
                            (key, *handle.expect("room for all"))
                        };
                        keys.map(find).collect::<Vec<_>>()
                    })
                })
                .collect();
            let mut found: Vec<_> = seekers.into_iter().flat_map(|seeker| seeker.join().expect("a seeker")).collect();
            found.sort_unstable();
            found.dedup();
            assert_eq!(found.len(), 4, "keys and handles: {found:?}");
            assert_eq!(made.load(Ordering::Relaxed), 4, "handles that were made");
        },
        ORDERS,
    );
}
