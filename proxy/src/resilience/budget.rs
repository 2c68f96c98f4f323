//! How many retries there may be: a share of the requests of the last while, and a few beside it.
//!
//! Invariant: in any window of `ttl` there are no more retries than `percent` of its requests plus `min_per_second` for each
//! of its seconds, so retries cannot multiply a failure, however many requests fail. Memory is constant: ten slots, whose
//! oldest is forgotten when a tenth of `ttl` has passed; one, while there was nothing before it. Pure: `now` is an argument.
//! Not here: which failures are worth a retry, and when it is made.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::model::policy;

/// What holds when nobody says otherwise.
pub const DEFAULT: policy::Budget = policy::Budget { percent: 20, min_per_second: 3, ttl: Duration::from_secs(10) };

const SLOTS: usize = 10;
/// What one retry costs; a request earns `percent`.
const RETRY: u64 = 100;

/// Requests and retries of one backend.
#[derive(Clone, Debug)]
pub struct Budget {
    current: Slot,
    /// When the current slot began.
    since: Instant,
    /// Boxed, since most backends were not asked for a while, or once.
    before: Option<Box<Before>>,
    /// As the last request had it; `None`: no other than the usual one was ever asked for.
    of: Option<Box<policy::Budget>>,
}

/// The slots before the current one, of which the next to be forgotten is at `oldest`.
#[derive(Clone, Debug, Default)]
struct Before {
    slots: [Slot; SLOTS - 1],
    oldest: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slot {
    earned: u32,
    retries: u32,
}

/// A budget as `/state` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct State {
    /// Retries of the last `ttl`.
    pub used: u64,
    /// How many there may have been.
    pub allowed: u64,
}

impl Budget {
    /// Without any request yet.
    pub fn new(now: Instant) -> Self {
        Self { current: Slot::default(), since: now, before: None, of: None }
    }

    /// A request is made, for the first time.
    pub fn request(&mut self, of: policy::Budget, now: Instant) {
        self.advance(of, now);
        match &mut self.of {
            Some(known) => **known = of,
            None if of != DEFAULT => self.of = Some(Box::new(of)),
            None => {}
        }
        self.current.earned = self.current.earned.saturating_add(of.percent);
    }

    /// Whether one more retry may be made; if so, it is counted.
    pub fn retry(&mut self, of: policy::Budget, now: Instant) -> bool {
        self.advance(of, now);
        let affordable = (self.used() + 1) * RETRY <= self.earned(of);
        if affordable {
            self.current.retries = self.current.retries.saturating_add(1);
        }
        affordable
    }

    /// What was used, and what was allowed.
    pub fn state(&self, now: Instant) -> State {
        let mut then = self.clone();
        let of = self.of.as_deref().copied().unwrap_or(DEFAULT);
        then.advance(of, now);
        State { used: then.used(), allowed: then.earned(of) / RETRY }
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.before.iter().flat_map(|before| &before.slots).chain([&self.current])
    }

    fn used(&self) -> u64 {
        self.slots().map(|slot| u64::from(slot.retries)).sum()
    }

    fn earned(&self, of: policy::Budget) -> u64 {
        let floor = u128::from(of.min_per_second) * of.ttl.as_millis() * u128::from(RETRY) / 1000;
        let shares: u64 = self.slots().map(|slot| u64::from(slot.earned)).sum();
        shares.saturating_add(u64::try_from(floor).unwrap_or(u64::MAX))
    }

    /// Forgets what is too old.
    fn advance(&mut self, of: policy::Budget, now: Instant) {
        let length = (of.ttl / SLOTS as u32).max(Duration::from_millis(1));
        let passed = now.saturating_duration_since(self.since);
        if passed >= length * SLOTS as u32 {
            (self.current, self.before, self.since) = (Slot::default(), None, now);
        }
        while now.saturating_duration_since(self.since) >= length {
            self.begin_slot();
            self.since += length;
        }
    }

    fn begin_slot(&mut self) {
        let last = std::mem::take(&mut self.current);
        if self.before.is_none() && last == Slot::default() {
            return;
        }
        let before = self.before.get_or_insert_default();
        before.slots[before.oldest] = last;
        before.oldest = (before.oldest + 1) % before.slots.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happened, with its time, and the rule said anew over all of it.
    #[derive(Default)]
    struct Log {
        requests: Vec<Instant>,
        retries: Vec<Instant>,
    }

    fn within(times: &[Instant], now: Instant, window: Duration) -> u64 {
        (times.len() - times.partition_point(|then| now - *then >= window)) as u64
    }

    fn allowed(of: policy::Budget, requests: u64) -> f64 {
        requests as f64 * f64::from(of.percent) / 100.0 + f64::from(of.min_per_second) * of.ttl.as_secs_f64()
    }

    #[test]
    fn retries_keep_to_their_share_whatever_happens_and_are_refused_only_beyond_it() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let ttl = Duration::from_secs(random.u64(1..=60));
            let of = policy::Budget { percent: random.u32(0..=100), min_per_second: random.u32(0..20), ttl };
            let (tenth, mut now) = (ttl / 10, Instant::now());
            let (mut budget, mut log) = (Budget::new(now), Log::default());
            let pause = Duration::from_micros(random.u64(1..200_000));
            for _ in 0..3000 {
                now += pause.mul_f64(random.f64() * if random.u8(..) == 0 { 300.0 } else { 1.0 });
                if random.u8(..) < 120 {
                    budget.request(of, now);
                    log.requests.push(now);
                    continue;
                }
                let before = within(&log.retries, now, ttl) as f64;
                if budget.retry(of, now) {
                    log.retries.push(now);
                    let (seen, most) =
                        (within(&log.retries, now, ttl - tenth) as f64, allowed(of, within(&log.requests, now, ttl)));
                    assert!(seen <= most + 1e-6, "seed {seed}: {seen} retries, {most} allowed");
                } else {
                    let least = allowed(of, within(&log.requests, now, ttl - tenth));
                    assert!(before + 1.0 > least - 1e-6, "seed {seed}: refused after {before}, {least} allowed");
                }
            }
        }
    }

    #[test]
    fn a_full_outage_costs_a_fifth_more_and_the_floor() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let (mut attempts, requests, seconds) = (0, 60_000, 60);
        for i in 0..requests {
            let now = start + Duration::from_millis(i * 1000 * seconds / requests);
            budget.request(DEFAULT, now);
            attempts += 1;
            // Each fails as often as it is tried.
            for _ in 0..10 {
                attempts += u64::from(budget.retry(DEFAULT, now));
            }
        }
        let most = requests * 12 / 10 + 3 * (seconds + 10);
        assert!(attempts <= most && attempts > requests * 119 / 100, "{attempts} attempts; {most} at most");
    }

    #[test]
    fn what_is_older_than_its_time_is_forgotten() {
        let start = Instant::now();
        let of = policy::Budget { min_per_second: 0, ..DEFAULT };
        let mut budget = Budget::new(start);
        (0..100).for_each(|_| budget.request(of, start));
        assert_eq!(budget.state(start), State { used: 0, allowed: 20 });
        assert!(budget.retry(of, start));
        assert_eq!(budget.state(start + of.ttl * 8 / 10), State { used: 1, allowed: 20 });
        assert_eq!(budget.state(start + of.ttl), State { used: 0, allowed: 0 });
        assert!(!budget.retry(of, start + of.ttl * 1000));
    }

    #[test]
    fn another_policy_forgets_nothing() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        (0..1000).for_each(|_| budget.request(DEFAULT, start));
        (0..50).for_each(|_| assert!(budget.retry(DEFAULT, start)));
        let other = policy::Budget { percent: 10, min_per_second: 0, ttl: Duration::from_secs(20) };
        budget.request(other, start);
        assert_eq!(budget.state(start), State { used: 50, allowed: 200 });
    }
}
