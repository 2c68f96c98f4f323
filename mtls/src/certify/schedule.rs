//! When to ask for the next certificate. Pure: the clocks are arguments.
//!
//! Invariant: renewals follow the wall clock, because validity does, and are looked at once a minute, so that a clock
//! that is set, ahead or back, or a machine that slept cannot leave us with a leaf that does not hold; retries follow
//! the steady clock.

use std::time::{Duration, Instant, SystemTime};

use crate::clock;

/// Part of what is left of the leaf's life at which it is renewed, and how far a client may deviate from it.
const RENEW_AT: f64 = 0.70;
const RENEW_JITTER: f64 = 0.05;
const MIN_WAIT: Duration = Duration::from_secs(1);
/// The wall clock is looked at this often.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) wall: SystemTime,
    pub(super) steady: Instant,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { wall: clock::wall(), steady: clock::steady() }
    }
}

/// The next request is due when either time has come.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    renewal: Option<Renewal>,
    sooner: Option<Instant>,
    backoff: Backoff,
}

/// When the leaf in force is to be replaced.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    at: SystemTime,
    /// Earlier than this the leaf does not hold: the clock has been set back.
    not_before: SystemTime,
}

/// The times between which a leaf holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validity {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Schedule {
    /// A leaf was issued. `random` is in 0..1.
    pub(super) fn issued(&mut self, validity: Validity, now: Now, random: f64) {
        let Validity { not_before, not_after } = validity;
        let left = not_after.duration_since(now.wall).unwrap_or_default();
        let part = RENEW_AT + RENEW_JITTER * (2.0 * random - 1.0);
        let wait = left.mul_f64(part).max(MIN_WAIT);
        let renewal = now.wall.checked_add(wait).map(|at| Renewal { at, not_before });
        *self = Self { renewal, ..Self::default() };
    }

    /// A request failed. `random` is in 0..1.
    pub(super) fn failed(&mut self, now: Now, random: f64) {
        self.renewal = None;
        self.sooner = now.steady.checked_add(self.backoff.next(random));
    }

    /// Something changed: be due after `delay`, unless that is so earlier anyway.
    pub(super) fn hasten(&mut self, now: Now, delay: Duration) {
        let due = now.steady.checked_add(delay);
        self.sooner = [self.sooner, due].into_iter().flatten().min();
    }

    /// How long to sleep; zero when a request is due. Ask again after sleeping.
    pub(super) fn wait(&self, now: Now) -> Duration {
        let renewal = self.renewal.map(|renewal| renewal.wait(now.wall));
        let sooner = self.sooner.map(|at| at.saturating_duration_since(now.steady));
        [renewal, sooner].into_iter().flatten().min().unwrap_or_default().min(MAX_SLEEP)
    }
}

impl Renewal {
    fn wait(self, wall: SystemTime) -> Duration {
        if wall < self.not_before {
            return Duration::ZERO;
        }
        self.at.duration_since(wall).unwrap_or_default()
    }
}

/// Exponential backoff with full jitter above a floor: each wait is drawn from the floor to a ceiling that doubles.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    const FLOOR: Duration = Duration::from_millis(100);
    const CEILING: Duration = Duration::from_secs(10);

    /// The wait after one more failure. `random` is in 0..1.
    pub(super) fn next(&mut self, random: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let doubled = 2_u32.checked_pow(self.failures).and_then(|factor| Self::FLOOR.checked_mul(factor));
        let ceiling = doubled.unwrap_or(Self::CEILING).min(Self::CEILING);
        Self::FLOOR + (ceiling - Self::FLOOR).mul_f64(random)
    }

    /// It worked: the next failure counts as the first.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// The validity of a leaf that was issued just now.
    fn until(not_after: SystemTime, now: Now) -> Validity {
        Validity { not_before: now.wall - Duration::from_secs(20), not_after }
    }

    fn later(now: Now, by: Duration) -> Now {
        Now { wall: now.wall + by, steady: now.steady + by }
    }

    /// The time that passes until a request is due, for a sleeper who does as told.
    fn slept(schedule: &Schedule, start: Now) -> Duration {
        let mut total = Duration::ZERO;
        loop {
            let wait = schedule.wait(later(start, total));
            if wait.is_zero() {
                return total;
            }
            assert!(wait <= MAX_SLEEP, "{wait:?}");
            total += wait;
        }
    }

    #[test]
    fn the_first_request_is_due_at_once() {
        assert_eq!(Schedule::default().wait(Now::read()), Duration::ZERO);
    }

    #[test]
    fn a_leaf_is_renewed_at_70_percent_of_its_life_give_or_take_5() {
        let now = Now::read();
        for (random, part) in [(0.0, 0.65), (0.5, 0.70), (1.0, 0.75)] {
            let mut schedule = Schedule::default();
            schedule.issued(until(now.wall + 24 * HOUR, now), now, random);
            let expected = (24 * HOUR).mul_f64(part);
            let found = slept(&schedule, now);
            assert!(found.abs_diff(expected) < Duration::from_millis(1), "{random}: {found:?} {expected:?}");
        }
    }

    #[test]
    fn a_leaf_that_is_about_to_expire_is_not_renewed_in_a_spin() {
        let now = Now::read();
        for not_after in [now.wall, now.wall - HOUR, now.wall + Duration::from_millis(10)] {
            let mut schedule = Schedule::default();
            schedule.issued(until(not_after, now), now, 0.0);
            assert_eq!(slept(&schedule, now), MIN_WAIT);
        }
    }

    #[test]
    fn retries_back_off_from_100_ms_to_10_s_with_full_jitter() {
        let now = Now::read();
        let (mut low, mut high) = (Schedule::default(), Schedule::default());
        let mut ceilings = Vec::new();
        for _ in 0..40 {
            low.failed(now, 0.0);
            high.failed(now, 1.0);
            assert_eq!(low.wait(now), Duration::from_millis(100));
            ceilings.push(high.wait(now).as_millis());
        }
        assert_eq!(ceilings[..8], [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(ceilings[39], 10_000);
    }

    #[test]
    fn success_forgets_earlier_failures() {
        let now = Now::read();
        let mut schedule = Schedule::default();
        for _ in 0..10 {
            schedule.failed(now, 1.0);
        }
        schedule.issued(until(now.wall + HOUR, now), now, 0.5);
        schedule.failed(now, 1.0);
        assert_eq!(schedule.wait(now), Duration::from_millis(200));
    }

    #[test]
    fn a_change_hastens_and_never_delays() {
        let now = Now::read();
        let mut schedule = Schedule::default();
        schedule.issued(until(now.wall + 24 * HOUR, now), now, 0.5);
        schedule.hasten(now, Duration::from_secs(2));
        assert_eq!(slept(&schedule, now), Duration::from_secs(2));
        schedule.hasten(now, Duration::from_secs(9));
        assert_eq!(slept(&schedule, now), Duration::from_secs(2));
    }

    #[test]
    fn a_clock_that_jumps_ahead_brings_the_renewal_forward() {
        let now = Now::read();
        let mut schedule = Schedule::default();
        schedule.issued(until(now.wall + 24 * HOUR, now), now, 0.5);
        let jumped = Now { wall: now.wall + 20 * HOUR, steady: now.steady };
        assert_eq!(schedule.wait(jumped), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_jumps_back_before_the_leaf_brings_the_renewal_forward() {
        let now = Now::read();
        let mut schedule = Schedule::default();
        schedule.issued(until(now.wall + 24 * HOUR, now), now, 0.5);
        let back = |by| Now { wall: now.wall - by, steady: now.steady };
        assert_eq!(schedule.wait(back(Duration::from_secs(19))), MAX_SLEEP, "it still holds");
        let jumped = back(20 * HOUR);
        assert_eq!(schedule.wait(jumped), Duration::ZERO);
        // While the authority cannot help, its failures are retried with patience.
        schedule.failed(jumped, 1.0);
        assert_eq!(schedule.wait(jumped), Duration::from_millis(200));
    }

    #[test]
    fn a_clock_that_jumps_back_does_not_delay_a_retry() {
        let now = Now::read();
        let mut schedule = Schedule::default();
        schedule.failed(now, 1.0);
        let jumped = Now { wall: now.wall - 20 * HOUR, steady: now.steady + Duration::from_millis(200) };
        assert_eq!(schedule.wait(jumped), Duration::ZERO);
    }
}
