//! Who heard of which change, and when.
//!
//! Invariant: a change is on the board before its file is in place, and each subscriber of its service is expected to hear
//! of it once; what nobody heard of is counted, not forgotten. A change that a later one of the same service overtook
//! counts as heard with the later one, by the time of the earlier. Non-goal: percentiles (`report`).

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::manifests::Change;

/// Shared by the writer of manifests and all subscribers.
#[derive(Debug, Default)]
pub struct Board {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// For each service its subscriptions: changes that they have not heard of, oldest first.
    services: Vec<Vec<Line>>,
    delays: Vec<Duration>,
    updates: u64,
}

#[derive(Debug, Default)]
struct Line {
    awaited: VecDeque<(Ipv4Addr, Instant)>,
}

/// A subscription's place on the board.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    service: usize,
    line: usize,
}

/// What is on it at the end.
#[derive(Clone, Debug)]
pub struct Tally {
    /// From a file's being in place to a subscriber's having it, each once.
    pub delays: Vec<Duration>,
    /// Snapshots of endpoints that came.
    pub updates: u64,
    /// Changes that a subscriber has not heard of.
    pub unheard: usize,
}

impl Board {
    /// For `services` of them.
    #[must_use]
    pub fn new(services: usize) -> Self {
        let services = (0..services).map(|_| Vec::new()).collect();
        Self { inner: Mutex::new(Inner { services, ..Inner::default() }) }
    }

    /// Somebody follows a service's endpoints from now on.
    pub fn follow(&self, service: usize) -> Place {
        let mut inner = self.lock();
        let lines = &mut inner.services[service];
        lines.push(Line::default());
        Place { service, line: lines.len() - 1 }
    }

    /// A file is about to be put in place.
    pub fn changing(&self, change: Change, at: Instant) {
        let mut inner = self.lock();
        for line in &mut inner.services[change.service] {
            line.awaited.push_back((change.address, at));
        }
    }

    /// A snapshot of endpoints came.
    pub fn heard(&self, place: Place, at: Instant, has: impl Fn(Ipv4Addr) -> bool) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let awaited = &mut inner.services[place.service][place.line].awaited;
        let newest = awaited.iter().rposition(|(address, _)| has(*address));
        let heard = awaited.drain(..newest.map_or(0, |newest| newest + 1));
        inner.delays.extend(heard.map(|(_, since)| at.saturating_duration_since(since)));
        inner.updates += 1;
    }

    /// How many changes are still to be heard of.
    #[must_use]
    pub fn unheard(&self) -> usize {
        let inner = self.lock();
        inner.services.iter().flatten().map(|line| line.awaited.len()).sum()
    }

    /// Takes what there is, for a new count.
    pub fn take(&self) -> Tally {
        let unheard = self.unheard();
        let mut inner = self.lock();
        inner.services.iter_mut().flatten().for_each(|line| line.awaited.clear());
        Tally { delays: std::mem::take(&mut inner.delays), updates: std::mem::take(&mut inner.updates), unheard }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_follower_hears_of_each_change_once_and_what_is_unheard_counts() {
        let (board, start) = (Board::new(2), Instant::now());
        let [a, b, other] = [0, 0, 1].map(|service| board.follow(service));
        let [first, second] = [1, 2].map(|last| Ipv4Addr::new(10, 0, 0, last));
        let ms = |ms| start + Duration::from_millis(ms);
        board.changing(Change { service: 0, address: first }, ms(0));
        board.changing(Change { service: 0, address: second }, ms(10));
        board.heard(a, ms(5), |address| address == first);
        board.heard(a, ms(12), |address| address == second);
        board.heard(a, ms(13), |address| address == second);
        board.heard(other, ms(13), |_| true);
        assert_eq!(board.unheard(), 2, "b has heard nothing");
        board.heard(b, ms(30), |address| address == second);
        let tally = board.take();
        assert_eq!(tally.delays, [5, 2, 30, 20].map(Duration::from_millis));
        assert_eq!((tally.updates, tally.unheard), (5, 0));
    }
}
