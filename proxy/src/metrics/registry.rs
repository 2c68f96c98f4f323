//! The exporter behind this room: makes handles and counts series against the cap.
//!
//! Invariant: every series is charged when it is made. Absent: refusal; who makes series from data asks
//! [`Registry::has_room`] first.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::family::{self, Family, HISTOGRAM_SERIES, Kind};
use super::samples::{Histogram, Samples};

const METADATA: Metadata<'static> = Metadata::new("mesh", Level::INFO, None);

/// A recorder of its own, not the process' global one: tests run several proxies in one process.
pub(super) struct Registry {
    recorder: PrometheusRecorder,
    /// What waits for the recorder's histograms.
    pub(super) samples: Samples,
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
            samples: Samples::new(recorder.handle()),
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
    pub(super) fn histogram(&self, family: &'static Family, labels: Vec<Label>) -> Arc<Histogram> {
        debug_assert_eq!(family.kind, Kind::Histogram, "{}", family.name);
        self.series.fetch_add(HISTOGRAM_SERIES, Relaxed);
        self.samples.add(self.recorder.register_histogram(&Key::from_parts(family.name, labels), &METADATA))
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
}
