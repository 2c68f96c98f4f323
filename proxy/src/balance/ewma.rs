//! Peak-sensitive moving average of latency: a slow answer counts at once and fully, fast ones win back trust over time
//! (the "peak EWMA" of Finagle's balancers).
//!
//! Invariant: an endpoint that owes answers is no faster than its silence. Were it judged by its past alone, one that hangs
//! would look the better the longer it does, for latency fades. A long silence fades as well, until somebody asks again: of
//! many requests one finds out whether the endpoint hangs or only that what it owes takes its time.
//! Pure: `now` is an argument.

use std::time::{Duration, Instant};

/// The estimate for one endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ewma {
    seconds: f64,
    updated: Instant,
    decay: f64,
    owed: u32,
    /// When it last answered, or was first owed something since nothing was.
    heard: Instant,
    asked: Instant,
}

impl Ewma {
    pub(super) fn new(initial: Duration, decay: Duration, now: Instant) -> Self {
        let (seconds, decay) = (initial.as_secs_f64(), decay.as_secs_f64().max(1e-3));
        Self { seconds, updated: now, decay, owed: 0, heard: now, asked: now }
    }

    /// An answer is owed.
    pub(super) fn asked(&mut self, now: Instant) {
        if self.owed == 0 {
            self.heard = now;
        }
        self.owed = self.owed.saturating_add(1);
        self.asked = now;
    }

    /// An answer came, after `latency`.
    pub(super) fn answered(&mut self, latency: Duration, now: Instant) {
        self.settled(now);
        self.observe(latency, now);
    }

    /// What was owed has failed: that is a sign of life, and says nothing of latency.
    pub(super) fn settled(&mut self, now: Instant) {
        self.owed = self.owed.saturating_sub(1);
        self.heard = now;
    }

    /// Nobody waits any longer for an answer that did not come in `waited`.
    pub(super) fn given_up(&mut self, waited: Duration, now: Instant) {
        self.owed = self.owed.saturating_sub(1);
        if waited.as_secs_f64() > self.faded(now) {
            self.observe(waited, now);
        }
    }

    /// It is another one than it was, and answers in `latency`: what was before says nothing any more.
    pub(super) fn begin_again(&mut self, latency: Duration, now: Instant) {
        (self.seconds, self.updated) = (latency.as_secs_f64(), now);
    }

    fn observe(&mut self, latency: Duration, now: Instant) {
        let latency = latency.as_secs_f64();
        let keep = self.weight(now);
        self.seconds =
            if latency > self.seconds * keep { latency } else { self.seconds * keep + latency * (1.0 - keep) };
        self.updated = now;
    }

    /// Expected latency in seconds. It fades while nothing is observed, so that a once slow endpoint is tried again.
    pub(super) fn seconds(&self, now: Instant) -> f64 {
        self.faded(now).max(self.silence(now))
    }

    /// The same, for those that nobody asks because others are nearer: it fades more slowly, so that few are asked only
    /// to find out.
    pub(super) fn remembered(&self, now: Instant) -> f64 {
        const SLOWER: f64 = 6.0;
        (self.seconds * self.weight(now).powf(1.0 / SLOWER)).max(self.silence(now))
    }

    fn silence(&self, now: Instant) -> f64 {
        if self.owed == 0 {
            return 0.0;
        }
        let since = |then| now.saturating_duration_since(then).as_secs_f64();
        let silent = since(self.heard);
        if silent <= self.decay {
            return silent;
        }
        let unasked = since(self.asked).min(silent - self.decay);
        self.decay * (-unasked / self.decay).exp()
    }

    fn faded(&self, now: Instant) -> f64 {
        self.seconds * self.weight(now)
    }

    fn weight(&self, now: Instant) -> f64 {
        (-now.saturating_duration_since(self.updated).as_secs_f64() / self.decay).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn fresh(now: Instant) -> Ewma {
        Ewma::new(30 * MS, Duration::from_secs(10), now)
    }

    #[test]
    fn a_peak_counts_at_once() {
        let now = Instant::now();
        let mut ewma = fresh(now);
        ewma.observe(500 * MS, now);
        assert!((ewma.seconds(now) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn fast_answers_win_back_trust_over_time() {
        let start = Instant::now();
        let mut ewma = fresh(start);
        ewma.observe(500 * MS, start);
        let mut last = ewma.seconds(start);
        for second in 1..=20 {
            let now = start + Duration::from_secs(second);
            ewma.observe(MS, now);
            assert!(ewma.seconds(now) < last, "does not fall in second {second}");
            last = ewma.seconds(now);
        }
        assert!(last < 0.1, "still at {last}");
    }

    #[test]
    fn who_owes_an_answer_is_no_faster_than_its_silence() {
        let start = Instant::now();
        let mut ewma = fresh(start);
        ewma.asked(start);
        for second in [0, 1, 5, 10] {
            let now = start + Duration::from_secs(second);
            assert!((ewma.seconds(now) - (second as f64).max(0.03)).abs() < 0.03, "{second}: {}", ewma.seconds(now));
        }
        let later = start + Duration::from_secs(120);
        assert!(ewma.seconds(later) < 0.001, "after a long silence it is asked again: {}", ewma.seconds(later));
        ewma.asked(later);
        assert!(ewma.seconds(later) > 9.0, "by one: {}", ewma.seconds(later));
        ewma.answered(MS, later);
        assert!(ewma.seconds(later) < 0.03, "an answer is a sign of life: {}", ewma.seconds(later));
        // The caller of the first one gives up: that it had to wait so long is not forgotten at once.
        ewma.given_up(Duration::from_secs(60), later);
        assert!(ewma.seconds(later + Duration::from_secs(10)) > 20.0);
    }

    #[test]
    fn a_caller_that_leaves_early_says_nothing_of_latency() {
        let now = Instant::now();
        let mut ewma = fresh(now);
        ewma.asked(now);
        ewma.given_up(MS, now);
        assert!((ewma.seconds(now) - 0.03).abs() < 1e-9);
    }

    #[test]
    fn an_idle_endpoint_is_tried_again() {
        let start = Instant::now();
        let mut ewma = fresh(start);
        ewma.observe(Duration::from_secs(5), start);
        assert!(ewma.seconds(start + Duration::from_secs(60)) < 0.03);
    }
}
