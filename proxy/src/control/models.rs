//! The cells under a scheduler that tries many orders of what threads do.
//!
//! Invariant: the code is that of the product, compiled against the scheduler's locks.

#![allow(clippy::duplicate_mod, dead_code, unreachable_pub, missing_docs, reason = "a model needs part of it")]

use shuttle::sync;
use shuttle::{future, thread};

#[path = "cells.rs"]
mod cells;

use super::ledger::{Ledger, Resource};
use cells::{Cells, Follower};
use sync::{Arc, Mutex};

/// tokio's, with a place before each step where other threads may come between.
struct Notify(tokio::sync::Notify);

impl Notify {
    fn new() -> Self {
        Self(tokio::sync::Notify::new())
    }

    fn notified(&self) -> impl Future<Output = ()> {
        thread::yield_now();
        self.0.notified()
    }

    fn notify_waiters(&self) {
        thread::yield_now();
        self.0.notify_waiters();
    }
}

/// Orders that are tried.
const ORDERS: usize = 2_000;

/// Writes down what it is told.
struct Diary(Arc<Mutex<Vec<u32>>>);

impl Follower<u32> for Diary {
    fn tell(&mut self, value: &u32) -> bool {
        self.0.lock().expect("a model").push(*value);
        true
    }

    fn is_gone(&self) -> bool {
        false
    }
}

#[test]
fn r66_who_waits_for_a_first_value_is_woken_and_who_follows_misses_none_after_it_begins() {
    shuttle::check_random(
        || {
            let mut cells = Cells::<u32>::default();
            let cell = cells.hold(1);
            let news: Vec<_> = (1..=3).map(|value| cells.news(1, value).expect("it is held")).collect();
            let putter = thread::spawn(move || news.into_iter().for_each(|news| news()));
            let waiting = Arc::clone(&cell);
            let waiter = thread::spawn(move || *future::block_on(waiting.first()));
            let diary = Arc::new(Mutex::new(Vec::new()));
            let (following, written) = (Arc::clone(&cell), Arc::clone(&diary));
            let follower = thread::spawn(move || following.follow(Box::new(Diary(written))));
            let first = waiter.join().expect("a waiter that is woken");
            putter.join().expect("a putter");
            follower.join().expect("a follower");
            assert!((1..=3).contains(&first));
            let told = diary.lock().expect("a model").clone();
            assert_eq!(told.last(), Some(&3), "{told:?}");
            assert!(told.windows(2).all(|two| two[1] == two[0] + 1), "{told:?}");
        },
        ORDERS,
    );
}

#[test]
fn r66_a_cell_is_there_as_long_as_it_has_holders_whoever_lets_go_first() {
    shuttle::check_random(
        || {
            let table = Arc::new(Mutex::new((Ledger::default(), Cells::<u32>::default())));
            let holders: Vec<_> = (0..3)
                .map(|_| {
                    let table = Arc::clone(&table);
                    thread::spawn(move || {
                        let (id, cell) = {
                            let (ledger, cells) = &mut *table.lock().expect("a model");
                            let id = ledger.hold(Resource::Inbound);
                            (id, cells.hold(id))
                        };
                        let news = table.lock().expect("a model").1.news(id, 5).expect("held by us");
                        news();
                        assert_eq!(cell.value().as_deref(), Some(&5));
                        let (ledger, cells) = &mut *table.lock().expect("a model");
                        if ledger.release(id) {
                            cells.remove(id);
                        }
                    })
                })
                .collect();
            holders.into_iter().for_each(|holder| holder.join().expect("a holder"));
            assert_eq!(table.lock().expect("a model").1.len(), 0);
        },
        ORDERS,
    );
}
