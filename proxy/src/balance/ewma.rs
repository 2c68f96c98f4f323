//! Peak-sensitive moving average of latency: a slow answer counts at once and fully, fast ones win back trust over time
//! (the "peak EWMA" of Finagle's balancers).
//!
//! Pure: `now` is an argument.

use std::time::{Duration, Instant};

/// The estimate for one endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ewma {
    seconds: f64,
    updated: Instant,
    decay: f64,
}

impl Ewma {
    pub(super) fn new(initial: Duration, decay: Duration, now: Instant) -> Self {
        Self { seconds: initial.as_secs_f64(), updated: now, decay: decay.as_secs_f64().max(1e-3) }
    }

    /// An answer took `latency`.
    pub(super) fn observe(&mut self, latency: Duration, now: Instant) {
        let latency = latency.as_secs_f64();
        let keep = self.weight(now);
        self.seconds =
            if latency > self.seconds * keep { latency } else { self.seconds * keep + latency * (1.0 - keep) };
        self.updated = now;
    }

    /// Expected latency in seconds. It fades while nothing is observed, so that a once slow endpoint is tried again.
    pub(super) fn seconds(&self, now: Instant) -> f64 {
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
    fn an_idle_endpoint_is_tried_again() {
        let start = Instant::now();
        let mut ewma = fresh(start);
        ewma.observe(Duration::from_secs(5), start);
        assert!(ewma.seconds(start + Duration::from_secs(60)) < 0.03);
    }
}
