//! Exponential backoff with jitter: how long to wait before the next try.
//!
//! Invariant: every delay lies in `min..=max` and is never zero, so one owner makes at most one try per `min`, whatever
//! happens. The ceiling doubles with each delay and each delay is drawn evenly from `min..=ceiling` ("full jitter" with a
//! floor), so a crowd that failed together does not come back together.
//! Not here: waiting, counting tries, judging whether a try succeeded.

use std::time::Duration;

/// The least delay there is, whatever the settings say: a loop without any pause would be a busy one.
const FLOOR: Duration = Duration::from_millis(1);

/// The longest delay there is: what waits for more than a day will not be noticed to come back.
const CEILING: Duration = Duration::from_secs(24 * 60 * 60);

/// Bounds of the delays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The shortest delay, 1 ms at least.
    pub min: Duration,
    /// The longest delay, a day at most; below `min` it is read as `min`.
    pub max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { min: Duration::from_millis(100), max: Duration::from_secs(10) }
    }
}

/// The delays of one retried thing.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    /// The upper end of the next draw.
    ceiling: Duration,
    random: fastrand::Rng,
}

impl Backoff {
    /// A fresh one: its first delay lies between `min` and twice `min`.
    pub fn new(settings: Settings) -> Self {
        Self::with_random(settings, fastrand::Rng::new())
    }

    /// Like [`Backoff::new`], drawing from `random`: with a seeded generator the delays are repeatable.
    pub fn with_random(settings: Settings, random: fastrand::Rng) -> Self {
        let min = settings.min.clamp(FLOOR, CEILING);
        let max = settings.max.clamp(min, CEILING);
        Backoff { min, max, ceiling: min.saturating_mul(2).min(max), random }
    }

    /// The delay before the next try; the one after it may be twice as long.
    #[expect(clippy::should_implement_trait, reason = "it never ends, so an iterator's Option would only be unwrapped")]
    pub fn next(&mut self) -> Duration {
        let delay = self.min + (self.ceiling - self.min).mul_f64(self.random.f64());
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        delay
    }

    /// It works again: the next delay is as short as the first one was.
    pub fn reset(&mut self) {
        self.ceiling = self.min.saturating_mul(2).min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(min: u64, max: u64, seed: u64) -> Backoff {
        let settings = Settings { min: Duration::from_millis(min), max: Duration::from_millis(max) };
        Backoff::with_random(settings, fastrand::Rng::with_seed(seed))
    }

    #[test]
    fn every_delay_lies_between_the_least_and_a_doubling_ceiling() {
        for seed in 0..200 {
            let mut backoff = backoff(100, 10_000, seed);
            let mut ceiling = 200;
            for _ in 0..40 {
                let delay = backoff.next();
                assert!(delay >= Duration::from_millis(100), "{delay:?}");
                assert!(delay <= Duration::from_millis(ceiling), "{delay:?} above {ceiling} ms");
                ceiling = (ceiling * 2).min(10_000);
            }
        }
    }

    #[test]
    fn delays_use_the_whole_span() {
        let mut backoff = backoff(100, 10_000, 7);
        (0..10).for_each(|_| _ = backoff.next());
        let later: Vec<_> = (0..1000).map(|_| backoff.next()).collect();
        assert!(later.iter().any(|d| *d < Duration::from_millis(600)), "no short delay");
        assert!(later.iter().any(|d| *d > Duration::from_millis(9_500)), "no long delay");
    }

    #[test]
    fn after_a_reset_delays_are_short_again() {
        let mut backoff = backoff(100, 10_000, 3);
        (0..20).for_each(|_| _ = backoff.next());
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(200));
    }

    #[test]
    fn two_owners_draw_different_delays() {
        let (mut one, mut two) = (backoff(100, 10_000, 1), backoff(100, 10_000, 2));
        assert_ne!((one.next(), one.next()), (two.next(), two.next()));
    }

    #[test]
    fn odd_settings_still_give_a_pause() {
        assert!(backoff(0, 0, 1).next() >= FLOOR);
        assert_eq!(backoff(500, 20, 1).next(), Duration::from_millis(500));
        let endless = Settings { min: Duration::MAX, max: Duration::MAX };
        let mut endless = Backoff::new(endless);
        assert_eq!((endless.next(), endless.next()), (CEILING, CEILING));
    }
}
