//! Histogram samples on their way to the exporter.
//!
//! Why a stop on the way: the exporter keeps every sample until somebody renders or runs its upkeep, so without a
//! scraper they would pile up; and when one thread records while another drains, its buffer can lose whole blocks and
//! their memory (`metrics_util::storage::AtomicBucket` links a new block to the older ones only after others can see
//! it). So samples wait here, and one thread at a time hands them over and drains.
//!
//! Invariants: no sample is lost, and about [`SAMPLES`] wait at most, whether or not anybody scrapes: there is no timer, a
//! quiet proxy keeps the few that it has. A thread that records waits for another one no longer than it takes to store a
//! number.

use std::mem;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;

/// Samples that may wait: 32 KiB, handed over in a fraction of a millisecond.
const SAMPLES: u32 = 4096;

/// A histogram of the exporter with the samples that wait for it.
pub(super) struct Histogram {
    waiting: Mutex<Vec<f64>>,
    exporter: metrics::Histogram,
}

/// All histograms of an exporter.
pub(super) struct Samples {
    exporter: PrometheusHandle,
    /// Held while samples are handed over: the exporter's buffers are touched under this lock only.
    histograms: Mutex<Vec<Arc<Histogram>>>,
    waiting: AtomicU32,
}

impl Samples {
    pub(super) fn new(exporter: PrometheusHandle) -> Self {
        Self { exporter, histograms: Mutex::default(), waiting: AtomicU32::new(0) }
    }

    /// Takes a histogram of the exporter in.
    pub(super) fn add(&self, exporter: metrics::Histogram) -> Arc<Histogram> {
        let histogram = Arc::new(Histogram { waiting: Mutex::default(), exporter });
        lock(&self.histograms).push(Arc::clone(&histogram));
        histogram
    }

    /// Puts a sample into a histogram, in seconds.
    pub(super) fn record(&self, histogram: &Histogram, value: Duration) {
        lock(&histogram.waiting).push(value.as_secs_f64());
        if (self.waiting.fetch_add(1, Relaxed) + 1).is_multiple_of(SAMPLES) {
            self.try_drain();
        }
    }

    /// The exporter's text, with all samples in it.
    pub(super) fn render(&self) -> String {
        let histograms = lock(&self.histograms);
        self.hand_over(&histograms);
        self.exporter.render()
    }

    /// Hands over, unless somebody else does so already.
    fn try_drain(&self) {
        let histograms = match self.histograms.try_lock() {
            Ok(histograms) => histograms,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.hand_over(&histograms);
        self.exporter.run_upkeep();
    }

    fn hand_over(&self, histograms: &[Arc<Histogram>]) {
        // First of all: a sample that comes meanwhile then counts for the next time.
        self.waiting.store(0, Relaxed);
        for histogram in histograms {
            let samples = mem::take(&mut *lock(&histogram.waiting));
            for sample in samples {
                histogram.exporter.record(sample);
            }
        }
    }
}

/// What these locks hold stays whole when their holder panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use metrics::{Key, Level, Metadata, Recorder};
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    fn samples() -> (Arc<Samples>, Arc<Histogram>) {
        let recorder = PrometheusBuilder::new().set_buckets(&[1.0]).unwrap().build_recorder();
        let metadata = Metadata::new("test", Level::INFO, None);
        let samples = Arc::new(Samples::new(recorder.handle()));
        let histogram = samples.add(recorder.register_histogram(&Key::from_static_name("x"), &metadata));
        (samples, histogram)
    }

    #[test]
    fn samples_that_nobody_scrapes_are_bounded() {
        let (samples, histogram) = samples();
        let mut most = 0;
        for _ in 0..10 * SAMPLES {
            samples.record(&histogram, Duration::from_millis(1));
            most = most.max(lock(&histogram.waiting).capacity());
        }
        assert!(most <= 4096, "room for {most} waiting");
        let text = samples.render();
        assert!(text.contains("x_count 40960\n"), "{text}");
    }

    #[test]
    fn no_sample_is_lost_between_threads_that_record_drain_and_render() {
        let (samples, histogram) = samples();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50_000).for_each(|_| samples.record(&histogram, Duration::from_secs(1))));
            }
            scope.spawn(|| (0..200).for_each(|_| samples.try_drain()));
            scope.spawn(|| (0..200).for_each(|_| drop(samples.render())));
        });
        let text = samples.render();
        assert!(text.contains("x_count 200000\n") && text.contains("x_sum 200000\n"), "{text}");
    }
}
