//! The exporter behind this room: makes handles, counts series against the cap, and bounds the samples in its buffers.
//!
//! Why a bound is needed: the exporter keeps each histogram sample (16 bytes) until somebody renders or runs its upkeep, so
//! without a scraper they would pile up. Here [`Registry::record`] drains them itself when [`SAMPLES`] have come together,
//! and `drain_idle` empties the rest some seconds after traffic ends.
//!
//! Invariant: at most about [`SAMPLES`] samples are held, whether or not anybody scrapes.
//!
//! Counters and gauges are exact. A histogram can miss a sample when one thread records it in the very moment in which another
//! drains (the exporter's buffer allows that; seen once in some million samples of eight threads on two cores, never with
//! one worker). A lock around both would be exact, and make each worker wait for every scrape.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::sync::Notify;

use super::family::{self, Family, HISTOGRAM_SERIES, Kind};

/// Samples that may wait: 128 KiB, drained in a fraction of a millisecond.
const SAMPLES: u32 = 8192;

/// Samples of a quiet proxy are drained this long after the first of them.
const DRAIN_AFTER: Duration = Duration::from_secs(5);

const METADATA: Metadata<'static> = Metadata::new("mesh", Level::INFO, None);

/// A recorder of its own, not the process' global one: tests run several proxies in one process.
pub(super) struct Registry {
    recorder: PrometheusRecorder,
    exporter: PrometheusHandle,
    waiting: AtomicU32,
    /// Rung when the first sample after a drain arrives.
    sampled: Notify,
    series: AtomicUsize,
    max_series: usize,
    overflow: Counter,
}

/// A label of a static name.
pub(super) fn label(name: &'static str, value: impl Into<SharedString>) -> Label {
    Label::new(name, value)
}

impl Registry {
    pub(super) fn new(max_series: usize) -> Self {
        let recorder =
            PrometheusBuilder::new().set_buckets(&family::BUCKETS).expect("BUCKETS is not empty").build_recorder();
        for family in family::ALL {
            let (name, help) = (family.name.into(), family.help.into());
            match family.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram => recorder.describe_histogram(name, None, help),
            }
        }
        let overflow = Key::from_static_name(family::SERIES_OVERFLOW.name);
        Self {
            exporter: recorder.handle(),
            waiting: AtomicU32::new(0),
            sampled: Notify::new(),
            // The overflow counter itself.
            series: AtomicUsize::new(1),
            max_series,
            overflow: recorder.register_counter(&overflow, &METADATA),
            recorder,
        }
    }

    /// Makes a counter; asking twice for the same labels gives the same counter, but is charged twice.
    pub(super) fn counter(&self, family: &'static Family, labels: Vec<Label>) -> Counter {
        debug_assert_eq!(family.kind, Kind::Counter, "{}", family.name);
        self.series.fetch_add(1, Relaxed);
        self.recorder.register_counter(&Key::from_parts(family.name, labels), &METADATA)
    }

    /// Makes a gauge, as [`Registry::counter`] does.
    pub(super) fn gauge(&self, family: &'static Family, labels: Vec<Label>) -> Gauge {
        debug_assert_eq!(family.kind, Kind::Gauge, "{}", family.name);
        self.series.fetch_add(1, Relaxed);
        self.recorder.register_gauge(&Key::from_parts(family.name, labels), &METADATA)
    }

    /// Makes a histogram, as [`Registry::counter`] does.
    pub(super) fn histogram(&self, family: &'static Family, labels: Vec<Label>) -> Histogram {
        debug_assert_eq!(family.kind, Kind::Histogram, "{}", family.name);
        self.series.fetch_add(HISTOGRAM_SERIES, Relaxed);
        self.recorder.register_histogram(&Key::from_parts(family.name, labels), &METADATA)
    }

    /// Whether `more` series still fit under the cap; counts the refusal when they do not.
    pub(super) fn has_room(&self, more: usize) -> bool {
        let fits = self.series() + more <= self.max_series;
        if !fits {
            self.overflow.increment(1);
        }
        fits
    }

    /// Series made so far.
    pub(super) fn series(&self) -> usize {
        self.series.load(Relaxed)
    }

    /// Puts a sample into one of this registry's histograms.
    pub(super) fn record(&self, histogram: &Histogram, value: Duration) {
        histogram.record(value.as_secs_f64());
        match self.waiting.fetch_add(1, Relaxed) + 1 {
            1 => self.sampled.notify_one(),
            // Exactly one recorder meets this number, so two never drain at once for the same reason.
            SAMPLES => self.drain(),
            _ => {}
        }
    }

    /// Waits for a first sample, lets others join it, and drains them: no wake-up at all without samples.
    pub(super) async fn drain_idle(&self) {
        self.sampled.notified().await;
        tokio::time::sleep(DRAIN_AFTER).await;
        self.drain();
    }

    fn drain(&self) {
        // Before the draining: a sample that comes meanwhile is then counted for the next one.
        self.waiting.store(0, Relaxed);
        self.exporter.run_upkeep();
    }

    /// All series as Prometheus text.
    pub(super) fn render(&self) -> String {
        self.waiting.store(0, Relaxed);
        self.exporter.render()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn samples_that_nobody_scrapes_are_bounded() {
        let registry = Registry::new(100);
        let histogram = registry.histogram(&family::HTTP_DURATION, vec![]);
        let mut most = 0;
        for _ in 0..10 * SAMPLES {
            registry.record(&histogram, Duration::from_millis(1));
            most = most.max(registry.waiting.load(Relaxed));
        }
        assert!(most < SAMPLES, "{most} waited");
        let text = registry.render();
        assert!(text.contains("mesh_http_response_duration_seconds_count 81920\n"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_samples_of_a_quiet_proxy_are_drained_soon_after_the_first() {
        let registry = Arc::new(Registry::new(100));
        let histogram = registry.histogram(&family::HTTP_DURATION, vec![]);
        let background = Arc::clone(&registry);
        let upkeep = tokio::spawn(async move { background.drain_idle().await });
        // Without a sample it does not wake for as long as anybody looks.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(!upkeep.is_finished());
        registry.record(&histogram, Duration::from_millis(1));
        registry.record(&histogram, Duration::from_millis(1));
        let begin = tokio::time::Instant::now();
        upkeep.await.unwrap();
        assert_eq!(begin.elapsed(), DRAIN_AFTER);
        assert_eq!(registry.waiting.load(Relaxed), 0);
    }
}
