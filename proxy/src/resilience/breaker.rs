//! Circuit breaker of one endpoint: after too many failures it is out for a while, then one request finds out whether it is
//! well again ("outlier ejection" with a half-open state).
//!
//! Invariant: an ejection lasts between the least and the longest that the settings allow; each one in a row lasts twice as long
//! as the one before, and up to a quarter more, so that what failed together does not come back together. While a probe is out,
//! nobody else is let in. Overload counts as no success, but never towards failures in a row: who sheds load is alive. Who
//! could not be connected is probed as soon as it can be again.
//! Not here: how many endpoints may be out at once (`balance::choice`), and what a failure is (`balance::outcome`).

use std::time::{Duration, Instant};

pub use crate::model::policy::Breaker as Settings;

/// How an exchange ended, as far as it says something of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Success,
    /// The endpoint's fault.
    Failure,
    /// The endpoint has more to do than it can.
    Overload,
    /// The endpoint could not be connected. When it can be again, `Breaker::reached` says so.
    Unreachable,
}

/// What an outcome has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The endpoint is out, for so long.
    Ejected(Duration),
    /// It is in again.
    Returned,
}

/// Whether an endpoint may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admits {
    /// Any request.
    All,
    /// One, to see how it goes.
    Probe,
    /// None.
    None,
}

/// The state of one endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Breaker {
    state: State,
    in_a_row: u32,
    /// Ejections without a healthy time between them.
    ejections: u32,
    window: Window,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed { since: Instant },
    Open { until: Instant, unreachable: bool },
    Probing { since: Instant },
}

impl Breaker {
    /// Closed, and nothing known.
    pub fn new(now: Instant) -> Self {
        Self { state: State::Closed { since: now }, in_a_row: 0, ejections: 0, window: Window::new(now) }
    }

    /// Whether it is in.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// Failures since the last success.
    pub fn in_a_row(&self) -> u32 {
        self.in_a_row
    }

    /// When it may be probed; `None` while it is in.
    pub fn until(&self) -> Option<Instant> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { until, .. } => Some(until),
            State::Probing { since } => Some(since),
        }
    }

    /// Whom it lets in. A probe of which nothing is heard for a window's time is not the last one.
    pub fn admits(&self, settings: &Settings, now: Instant) -> Admits {
        match self.state {
            State::Closed { .. } => Admits::All,
            State::Open { until, .. } if now >= until => Admits::Probe,
            State::Probing { since } if now.saturating_duration_since(since) > settings.window => Admits::Probe,
            State::Open { .. } | State::Probing { .. } => Admits::None,
        }
    }

    /// A probe is on its way.
    pub fn probe(&mut self, now: Instant) {
        self.state = State::Probing { since: now };
    }

    /// The probe ended without saying anything.
    pub fn probe_abandoned(&mut self, now: Instant) {
        if let State::Probing { .. } = self.state {
            self.state = State::Open { until: now, unreachable: false };
        }
    }

    /// It was connected again: if it is out because it could not be, a probe may go to it at once.
    pub fn reached(&mut self, now: Instant) {
        if let State::Open { until, unreachable: true } = &mut self.state {
            *until = now.min(*until);
        }
    }

    /// Takes in how an exchange ended.
    pub fn observe(
        &mut self,
        outcome: Outcome,
        settings: &Settings,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Option<Change> {
        match self.state {
            State::Closed { .. } => self.observe_closed(outcome, settings, now, random),
            // Begun before the ejection, or sent because too many are out: says nothing new before the time is over.
            State::Open { until, .. } if now < until => None,
            State::Open { .. } | State::Probing { .. } => Some(match outcome {
                Outcome::Success => self.close(now),
                failed => self.eject(failed, settings, now, random),
            }),
        }
    }

    fn observe_closed(
        &mut self,
        outcome: Outcome,
        settings: &Settings,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Option<Change> {
        self.window.count(outcome == Outcome::Success, settings.window, now);
        match outcome {
            Outcome::Success => self.in_a_row = 0,
            Outcome::Failure | Outcome::Unreachable => self.in_a_row = self.in_a_row.saturating_add(1),
            Outcome::Overload => {}
        }
        let is_out = outcome != Outcome::Success
            && settings.is_enabled
            && (self.in_a_row >= settings.consecutive_failures || self.window.is_poor(settings));
        is_out.then(|| self.eject(outcome, settings, now, random))
    }

    /// Lets all in again.
    pub fn close(&mut self, now: Instant) -> Change {
        self.state = State::Closed { since: now };
        self.in_a_row = 0;
        self.window = Window::new(now);
        Change::Returned
    }

    fn eject(&mut self, last: Outcome, settings: &Settings, now: Instant, random: &mut fastrand::Rng) -> Change {
        if let State::Closed { since } = self.state
            && now.saturating_duration_since(since) > settings.window.max(self.least(settings))
        {
            self.ejections = 0;
        }
        self.ejections = self.ejections.saturating_add(1);
        let time = self.least(settings).mul_f64(1.0 + 0.25 * random.f64()).min(settings.max_ejection);
        self.state = State::Open { until: now + time, unreachable: last == Outcome::Unreachable };
        Change::Ejected(time)
    }

    /// Of the present ejection, or the last one, without its jitter; the longest ones leave room for that too.
    fn least(&self, settings: &Settings) -> Duration {
        let doublings = self.ejections.saturating_sub(1).min(20);
        let longest = (settings.max_ejection * 4 / 5).max(settings.min_ejection);
        settings.min_ejection.saturating_mul(1 << doublings).min(longest)
    }
}

/// Successes and all outcomes of the last while: of the settings' window, and of up to a quarter more.
#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    /// The number of the youngest slice since then.
    slice: u64,
    counts: [Count; SLICES],
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    all: u32,
    good: u32,
}

const SLICES: usize = 5;

impl Window {
    fn new(now: Instant) -> Self {
        Self { since: now, slice: 0, counts: Default::default() }
    }

    fn count(&mut self, is_good: bool, window: Duration, now: Instant) {
        let width = (window.as_nanos() / (SLICES as u128 - 1)).max(1);
        let slice = now.saturating_duration_since(self.since).as_nanos() / width;
        let slice = u64::try_from(slice).unwrap_or(u64::MAX);
        let passed = slice.saturating_sub(self.slice).min(SLICES as u64);
        for old in 1..=passed {
            self.counts[place(self.slice + old)] = Count::default();
        }
        self.slice = self.slice.max(slice);
        let count = &mut self.counts[place(self.slice)];
        count.all = count.all.saturating_add(1);
        count.good = count.good.saturating_add(u32::from(is_good));
    }

    fn is_poor(&self, settings: &Settings) -> bool {
        let sum = |of: fn(&Count) -> u32| self.counts.iter().map(|count| u64::from(of(count))).sum::<u64>();
        let (all, good) = (sum(|count| count.all), sum(|count| count.good));
        all >= u64::from(settings.min_requests) && good * 1000 < all * u64::from(settings.success_permille)
    }
}

fn place(slice: u64) -> usize {
    usize::try_from(slice % SLICES as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Outcome::{Failure, Overload, Success, Unreachable};
    use super::*;

    const S: Duration = Duration::from_secs(1);

    struct Bench {
        breaker: Breaker,
        settings: Settings,
        now: Instant,
        random: fastrand::Rng,
    }

    impl Bench {
        fn new(seed: u64) -> Self {
            let now = Instant::now();
            let random = fastrand::Rng::with_seed(seed);
            Self { breaker: Breaker::new(now), settings: Settings::default(), now, random }
        }

        fn see(&mut self, outcome: Outcome) -> Option<Change> {
            self.breaker.observe(outcome, &self.settings, self.now, &mut self.random)
        }

        fn admits(&self) -> Admits {
            self.breaker.admits(&self.settings, self.now)
        }

        fn ejected(&mut self) -> Duration {
            loop {
                if let Some(Change::Ejected(time)) = self.see(Failure) {
                    return time;
                }
            }
        }
    }

    #[test]
    fn seven_failures_in_a_row_eject_and_a_success_between_them_starts_anew() {
        let mut bench = Bench::new(1);
        bench.settings.success_permille = 0;
        (0..6).for_each(|_| assert_eq!(bench.see(Failure), None));
        bench.see(Success);
        (0..6).for_each(|_| assert_eq!(bench.see(Failure), None));
        assert!(matches!(bench.see(Failure), Some(Change::Ejected(_))));
        assert_eq!(bench.admits(), Admits::None);
    }

    #[test]
    fn overload_is_no_failure_in_a_row_but_no_success_either() {
        let mut bench = Bench::new(1);
        (0..9).for_each(|_| assert_eq!(bench.see(Overload), None));
        assert!(matches!(bench.see(Overload), Some(Change::Ejected(_))), "ten requests, none of them a success");
    }

    #[test]
    fn a_rate_below_the_least_ejects_from_ten_requests_on_and_old_ones_are_forgotten() {
        let mut bench = Bench::new(1);
        (0..7).for_each(|_| _ = bench.see(Success));
        bench.see(Failure);
        bench.see(Success);
        assert_eq!(bench.see(Failure), None, "8 of 10 is enough");
        bench.now += 13 * S;
        (0..9).for_each(|_| assert_eq!(bench.see(Success), None));
        assert_eq!(bench.see(Failure), None, "9 of 10: the failures before are forgotten");
        assert_eq!(bench.see(Failure), None, "9 of 11");
        assert!(matches!(bench.see(Failure), Some(Change::Ejected(_))), "9 of 12");
    }

    #[test]
    fn one_probe_decides_and_others_keep_away() {
        let mut bench = Bench::new(2);
        let time = bench.ejected();
        bench.now += time;
        assert_eq!(bench.admits(), Admits::Probe);
        bench.breaker.probe(bench.now);
        assert_eq!(bench.admits(), Admits::None);
        let again = match bench.see(Failure) {
            Some(Change::Ejected(again)) => again,
            other => panic!("{other:?}"),
        };
        assert!(again > time, "{again:?} after {time:?}");
        bench.now += again;
        bench.breaker.probe(bench.now);
        assert_eq!(bench.see(Success), Some(Change::Returned));
        assert_eq!(bench.admits(), Admits::All);
    }

    #[test]
    fn who_could_not_be_connected_is_probed_when_it_can_be_and_who_failed_is_not() {
        for (outcome, expected) in [(Unreachable, Admits::Probe), (Failure, Admits::None)] {
            let mut bench = Bench::new(1);
            (0..7).for_each(|_| _ = bench.see(outcome));
            assert_eq!(bench.admits(), Admits::None, "{outcome:?}");
            bench.breaker.reached(bench.now);
            assert_eq!(bench.admits(), expected, "{outcome:?}");
        }
    }

    #[test]
    fn a_probe_that_says_nothing_is_followed_by_another() {
        let mut bench = Bench::new(3);
        let time = bench.ejected();
        bench.now += time;
        bench.breaker.probe(bench.now);
        bench.now += 11 * S;
        assert_eq!(bench.admits(), Admits::Probe, "it hangs");
        bench.breaker.probe(bench.now);
        bench.breaker.probe_abandoned(bench.now);
        assert_eq!(bench.admits(), Admits::Probe, "its caller has gone");
    }

    #[test]
    fn ejections_stay_within_their_bounds_double_and_start_over_after_a_healthy_time() {
        for seed in 0..200 {
            let mut bench = Bench::new(seed);
            let mut before = Duration::ZERO;
            for _ in 0..12 {
                let time = bench.ejected();
                assert!((S..=60 * S).contains(&time), "{time:?}");
                assert!(time >= before.min(48 * S), "{time:?} after {before:?}");
                before = time;
                bench.now += time;
                bench.breaker.probe(bench.now);
            }
            assert!(before >= 48 * S);
            bench.see(Success);
            bench.now += 61 * S;
            assert!(bench.ejected() < 2 * S);
        }
    }

    #[test]
    fn outcomes_of_before_the_ejection_change_nothing() {
        let mut bench = Bench::new(4);
        bench.ejected();
        assert_eq!(bench.see(Success), None);
        assert_eq!(bench.see(Failure), None);
    }

    #[test]
    fn whatever_happens_a_success_when_the_time_is_over_closes() {
        for seed in 0..500 {
            let mut bench = Bench::new(seed);
            for _ in 0..200 {
                let outcome = bench.random.choice([Success, Failure, Overload, Unreachable]).unwrap();
                bench.now += bench.random.u32(0..2_000) * Duration::from_millis(1);
                if bench.admits() == Admits::Probe && bench.random.bool() {
                    bench.breaker.probe(bench.now);
                }
                bench.see(outcome);
            }
            bench.now += 61 * S;
            if !bench.breaker.is_closed() {
                assert_eq!(bench.see(Success), Some(Change::Returned), "seed {seed}");
            }
            assert_eq!(bench.admits(), Admits::All);
        }
    }

    #[test]
    fn a_breaker_that_is_off_never_opens() {
        let mut bench = Bench::new(5);
        bench.settings.is_enabled = false;
        (0..100).for_each(|_| assert_eq!(bench.see(Failure), None));
    }
}
