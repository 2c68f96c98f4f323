//! Which subscription may be told next, and when.
//!
//! Invariant: the first change goes out at once, further ones at least an interval apart, and the last one always; they
//! take turns. A subscription waits in one place at most. No clock: `now` is an argument. Non-goal: what is told.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::by_id::ById;

#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    places: ById<Place>,
    /// May be told now.
    due: VecDeque<u64>,
    /// May be told from a time on.
    later: BTreeSet<(Instant, u64)>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// Nothing to tell; may be told something at once.
    New,
    /// Nothing to tell; may be told something from this time on.
    /// With something to tell it is among `later`.
    Idle {
        from: Instant,
    },
    Due,
}

/// What became of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marked {
    /// It will be told.
    Waits,
    /// It waited already: of two changes one will be told.
    WaitedAlready,
    /// There is no such subscription.
    Unknown,
}

impl Pace {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, places: ById::new(), due: VecDeque::new(), later: BTreeSet::new() }
    }

    pub(super) fn add(&mut self, id: u64) {
        self.places.insert(id, Place::New);
    }

    pub(super) fn remove(&mut self, id: u64) {
        match self.places.remove(id) {
            Some(Place::Idle { from }) => {
                self.later.remove(&(from, id));
            }
            Some(Place::Due) => {
                self.due.retain(|due| *due != id);
            }
            Some(Place::New) | None => {}
        }
    }

    /// There is something to tell.
    pub(super) fn mark(&mut self, id: u64, now: Instant) -> Marked {
        let Some(place) = self.places.get_mut(id) else {
            return Marked::Unknown;
        };
        match *place {
            Place::Due => return Marked::WaitedAlready,
            Place::Idle { from } if from > now || self.later.contains(&(from, id)) => {
                if !self.later.insert((from, id)) {
                    return Marked::WaitedAlready;
                }
            }
            Place::New | Place::Idle { .. } => {
                *place = Place::Due;
                self.due.push_back(id);
            }
        }
        Marked::Waits
    }

    /// Makes those due whose time has come.
    pub(super) fn advance(&mut self, now: Instant) {
        while let Some((from, id)) = self.later.first().copied() {
            if from > now {
                return;
            }
            self.later.remove(&(from, id));
            self.places.insert(id, Place::Due);
            self.due.push_back(id);
        }
    }

    /// When to call [`Self::advance`] next.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.later.first().map(|(from, _)| *from)
    }

    /// The next to be told; counts as told.
    pub(super) fn next(&mut self, now: Instant) -> Option<u64> {
        let id = self.due.pop_front()?;
        if self.due.is_empty() {
            self.due = VecDeque::new();
        }
        self.places.insert(id, Place::Idle { from: now + self.interval });
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(100);

    fn pace(ids: &[u64]) -> (Pace, Instant) {
        let mut pace = Pace::new(INTERVAL);
        ids.iter().for_each(|id| pace.add(*id));
        (pace, Instant::now())
    }

    #[test]
    fn the_first_change_goes_at_once_and_the_next_after_the_interval() {
        let (mut pace, now) = pace(&[1]);
        assert_eq!(pace.mark(1, now), Marked::Waits);
        assert_eq!(pace.next(now), Some(1));
        assert_eq!(pace.mark(1, now), Marked::Waits);
        assert_eq!(pace.mark(1, now), Marked::WaitedAlready);
        assert_eq!((pace.next(now), pace.wake_at()), (None, Some(now + INTERVAL)));
        pace.advance(now + INTERVAL - Duration::from_nanos(1));
        assert_eq!(pace.next(now), None);
        pace.advance(now + INTERVAL);
        assert_eq!(pace.next(now + INTERVAL), Some(1));
        assert_eq!((pace.next(now + INTERVAL), pace.wake_at()), (None, None));
    }

    #[test]
    fn a_storm_is_told_ten_times_a_second_and_its_end_for_sure() {
        let (mut pace, start) = pace(&[1]);
        let mut told = Vec::new();
        for ms in 0..=2_000 {
            let now = start + Duration::from_millis(ms);
            pace.advance(now);
            if ms < 1_950 {
                pace.mark(1, now);
            }
            told.extend(pace.next(now).map(|_| ms));
        }
        assert_eq!(told, (0..=19).map(|n| n * 100).chain([2_000]).filter(|ms| *ms <= 2_000).collect::<Vec<_>>());
    }

    #[test]
    fn subscriptions_take_turns() {
        let (mut pace, now) = pace(&[1, 2, 3]);
        for id in [2, 1, 3, 2] {
            pace.mark(id, now);
        }
        let told: Vec<_> = std::iter::from_fn(|| pace.next(now)).collect();
        assert_eq!(told, [2, 1, 3]);
    }

    #[test]
    fn a_removed_subscription_waits_nowhere() {
        let (mut pace, now) = pace(&[1, 2]);
        pace.mark(1, now);
        pace.next(now);
        pace.mark(1, now);
        pace.mark(2, now);
        pace.remove(1);
        pace.remove(2);
        assert_eq!((pace.next(now), pace.wake_at()), (None, None));
        assert_eq!(pace.mark(1, now), Marked::Unknown);
    }
}
