//! Latencies in bounded memory: counts in steps of which each doubling of the value has 128, so no figure is off by 1 %.
//!
//! Invariant: no sample is dropped; what is over the largest value (18 minutes) counts as that.
//! Non-goal: averages, which hide what percentiles show.

use std::time::Duration;

/// 2^7 steps in each doubling.
const STEP_BITS: u32 = 7;
const STEPS: usize = 1 << STEP_BITS;
/// Nanoseconds; 2^40 of them are 18 minutes.
const VALUE_BITS: u32 = 40;
const LARGEST: u64 = (1 << VALUE_BITS) - 1;
/// Values below `2 * STEPS` have a step each; every doubling above adds `STEPS`.
const BUCKETS: usize = (VALUE_BITS - STEP_BITS + 1) as usize * STEPS;

/// How often each latency was seen.
#[derive(Clone, Debug)]
pub struct Latencies {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Latencies {
    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(LARGEST).min(LARGEST);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.total += other.total;
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// The latency that `permille` of all samples took at most (nearest rank); zero when there are none.
    #[must_use]
    pub fn permille(&self, permille: u64) -> Duration {
        let rank = (self.total * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        Duration::from_nanos(found.map_or(0, upper))
    }
}

fn bucket(nanos: u64) -> usize {
    let bits = u64::BITS - nanos.leading_zeros();
    let shift = bits.saturating_sub(STEP_BITS + 1);
    // At most `2 * STEPS` after the shift.
    let step = usize::try_from(nanos >> shift).unwrap_or(2 * STEPS - 1);
    shift as usize * STEPS + step
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let shift = (bucket / STEPS).saturating_sub(1);
    let step = bucket - shift * STEPS;
    ((step as u64 + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(micros: impl IntoIterator<Item = u64>) -> Latencies {
        let mut latencies = Latencies::default();
        micros.into_iter().for_each(|micros| latencies.record(Duration::from_micros(micros)));
        latencies
    }

    fn assert_near(found: Duration, micros: u64) {
        let (found, wanted) = (found.as_nanos(), u128::from(micros) * 1000);
        assert!(found >= wanted && found * 100 <= wanted * 101, "{found} ns is not {wanted} ns within 1 %");
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_samples() {
        let latencies = of((1..=1000).rev());
        for (permille, micros) in [(1, 1), (500, 500), (900, 900), (990, 990), (999, 999), (1000, 1000)] {
            assert_near(latencies.permille(permille), micros);
        }
    }

    #[test]
    fn few_samples_have_the_percentile_of_the_nearest_rank() {
        let latencies = of([10, 20, 1_000_000]);
        assert_near(latencies.permille(500), 20);
        assert_near(latencies.permille(990), 1_000_000);
        assert_eq!(of([]).permille(500), Duration::ZERO);
    }

    #[test]
    fn merging_is_as_recording_all() {
        let mut merged = of(1..=500);
        merged.merge(&of(501..=1000));
        assert_eq!(merged.counts, of(1..=1000).counts);
        assert_eq!(merged.permille(999), of(1..=1000).permille(999));
    }

    #[test]
    fn every_value_lies_in_its_bucket() {
        for nanos in (0..VALUE_BITS).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]).chain([LARGEST]) {
            let at = bucket(nanos);
            assert!(upper(at) >= nanos && (at == 0 || upper(at - 1) < nanos), "{nanos} in bucket {at}");
        }
        let mut latencies = of([]);
        latencies.record(Duration::from_secs(1 << 40));
        assert_eq!(latencies.permille(500), Duration::from_nanos(LARGEST));
    }
}
