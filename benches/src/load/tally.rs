//! What came of a load, and the one line of JSON that says so.
//!
//! Invariant: a request is in `requests` or in `errors`, never in both; latencies are of requests alone.
//! Non-goal: which request failed; the first failure's text stands for all.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::latency::Latencies;

/// What is counted while a load runs.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Whole answers.
    pub requests: u64,
    /// Requests without one.
    pub errors: u64,
    /// Bytes of the answers' bodies.
    pub bytes: u64,
    /// The first failure.
    pub failure: Option<String>,
    /// Of the answered requests.
    pub latencies: Latencies,
}

/// The line of JSON.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Whole answers.
    pub requests: u64,
    /// Requests without one.
    pub errors: u64,
    /// How long the load ran.
    pub seconds: f64,
    /// Bytes of the answers' bodies.
    pub bytes: u64,
    /// Half of the requests took at most this long, in microseconds.
    pub p50_us: f64,
    /// 90 %.
    pub p90_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
}

impl Tally {
    /// Counts one request that began, or was due, at `since`: the bytes of its answer, or why there is none.
    pub fn add(&mut self, since: Instant, outcome: anyhow::Result<u64>) {
        match outcome {
            Ok(bytes) => {
                self.requests += 1;
                self.bytes += bytes;
                self.latencies.record(since.elapsed());
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Counts one failure.
    pub fn fail(&mut self, error: &anyhow::Error) {
        self.errors += 1;
        self.failure.get_or_insert_with(|| format!("{error:#}"));
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.bytes += other.bytes;
        self.failure = self.failure.take().or(other.failure);
        self.latencies.merge(&other.latencies);
    }

    /// The figures, of a load that took `elapsed`.
    #[must_use]
    pub fn summary(&self, elapsed: Duration) -> Summary {
        let micros = |permille| self.latencies.permille(permille).as_secs_f64() * 1e6;
        Summary {
            requests: self.requests,
            errors: self.errors,
            seconds: elapsed.as_secs_f64(),
            bytes: self.bytes,
            p50_us: micros(500),
            p90_us: micros(900),
            p99_us: micros(990),
            p999_us: micros(999),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn failures_are_counted_apart_and_the_first_is_kept() {
        let (mut all, mut other) = (Tally::default(), Tally::default());
        other.add(Instant::now(), Err(anyhow!("first")));
        other.add(Instant::now(), Err(anyhow!("second")));
        all.add(Instant::now(), Ok(100));
        all.merge(other);
        let summary = all.summary(Duration::from_secs(2));
        assert_eq!((summary.requests, summary.errors, summary.bytes), (1, 2, 100));
        assert_eq!(all.failure.as_deref(), Some("first"));
        let line = serde_json::to_value(summary).unwrap();
        let keys: Vec<_> = line.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["bytes", "errors", "p50_us", "p90_us", "p999_us", "p99_us", "requests", "seconds"]);
    }
}
