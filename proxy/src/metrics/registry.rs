//! What is counted, and its text for Prometheus.
//!
//! A handle is the series: counting is one atomic operation on it (two for a histogram), without a lock, a hash or an
//! allocation. The registry knows handles weakly, so a series ends when the last of its handles is dropped; [`Registry::prune`]
//! then takes its line out and its charge off the cap.
//!
//! Invariant: every series is charged when it is made, and labels are rendered once, then. Who makes a handle sees to it that
//! no other of the same family has the same labels. Absent: refusal; who makes series from data asks [`Registry::has_room`]
//! first.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::family::{self, BUCKETS, Family, HISTOGRAM_SERIES, Kind};

/// Only goes up.
#[derive(Clone)]
pub(super) struct Counter(Arc<AtomicU64>);

impl Counter {
    pub(super) fn increment(&self, by: u64) {
        self.0.fetch_add(by, Relaxed);
    }
}

/// Goes up and down; the bits of a float.
#[derive(Clone)]
pub(super) struct Gauge(Arc<AtomicU64>);

impl Gauge {
    pub(super) fn increment(&self, by: f64) {
        let _ = self.0.fetch_update(Relaxed, Relaxed, |bits| Some((f64::from_bits(bits) + by).to_bits()));
    }

    pub(super) fn decrement(&self, by: f64) {
        self.increment(-by);
    }

    pub(super) fn set(&self, to: f64) {
        self.0.store(to.to_bits(), Relaxed);
    }
}

/// How often something took how long.
pub(super) struct Histogram {
    /// Each counts for itself; the last is for what is above all bounds.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Histogram {
    fn new() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS.len() + 1], nanoseconds: AtomicU64::new(0) }
    }

    pub(super) fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}

/// A name and a value.
#[derive(Clone)]
pub(super) struct Label(&'static str, Value);

/// Of a label: a word of the code, or a name that comes from outside.
#[derive(Clone)]
pub(super) enum Value {
    Word(Cow<'static, str>),
    Name(Arc<str>),
}

impl From<&'static str> for Value {
    fn from(word: &'static str) -> Self {
        Self::Word(word.into())
    }
}

impl From<String> for Value {
    fn from(word: String) -> Self {
        Self::Word(word.into())
    }
}

impl From<Arc<str>> for Value {
    fn from(name: Arc<str>) -> Self {
        Self::Name(name)
    }
}

/// A label of a static name.
pub(super) fn label(name: &'static str, value: impl Into<Value>) -> Label {
    Label(name, value.into())
}

/// The series of one proxy; not the process' own: tests run several proxies in one process.
pub(super) struct Registry {
    /// By their place in [`family::ALL`].
    families: Mutex<Vec<Vec<Series>>>,
    series: AtomicUsize,
    max_series: usize,
    overflow: Counter,
}

struct Series {
    labels: Box<str>,
    handle: Handle,
}

enum Handle {
    Counter(Weak<AtomicU64>),
    Gauge(Weak<AtomicU64>),
    Histogram(Weak<Histogram>),
}

impl Registry {
    pub(super) fn new(max_series: usize) -> Self {
        let overflow = Counter(Arc::default());
        let registry = Self {
            families: Mutex::new(family::ALL.iter().map(|_| Vec::new()).collect()),
            series: AtomicUsize::new(0),
            max_series,
            overflow: overflow.clone(),
        };
        registry.add(&family::SERIES_OVERFLOW, &[], Handle::Counter(Arc::downgrade(&overflow.0)));
        registry
    }

    /// Makes a counter.
    pub(super) fn counter(&self, family: &'static Family, labels: &[Label]) -> Counter {
        let counter = Arc::default();
        self.add(family, labels, Handle::Counter(Arc::downgrade(&counter)));
        Counter(counter)
    }

    /// Makes a gauge.
    pub(super) fn gauge(&self, family: &'static Family, labels: &[Label]) -> Gauge {
        let gauge = Arc::new(AtomicU64::new(0f64.to_bits()));
        self.add(family, labels, Handle::Gauge(Arc::downgrade(&gauge)));
        Gauge(gauge)
    }

    /// Makes a histogram.
    pub(super) fn histogram(&self, family: &'static Family, labels: &[Label]) -> Arc<Histogram> {
        let histogram = Arc::new(Histogram::new());
        self.add(family, labels, Handle::Histogram(Arc::downgrade(&histogram)));
        histogram
    }

    fn add(&self, family: &'static Family, labels: &[Label], handle: Handle) {
        debug_assert_eq!(family.kind, handle.kind(), "{}", family.name);
        self.series.fetch_add(handle.width(), Relaxed);
        let place = family::ALL.iter().position(|known| std::ptr::eq(*known, family));
        // The macro that defines a family lists it as well.
        if let Some(place) = place {
            self.families()[place].push(Series { labels: rendered(labels), handle });
        }
    }

    /// Whether `more` series still fit under the cap; counts the refusal when they do not.
    pub(super) fn has_room(&self, more: usize) -> bool {
        let fits = self.series() + more <= self.max_series;
        if !fits {
            self.overflow.increment(1);
        }
        fits
    }

    /// Series that there are.
    pub(super) fn series(&self) -> usize {
        self.series.load(Relaxed)
    }

    /// Takes out the series whose handles are gone.
    pub(super) fn prune(&self) {
        for family in self.families().iter_mut() {
            family.retain(|series| {
                let lives = series.handle.lives();
                if !lives {
                    self.series.fetch_sub(series.handle.width(), Relaxed);
                }
                lives
            });
            // After a flood of names the room goes back as well.
            if family.capacity() > 64 && family.len() < family.capacity() / 4 {
                family.shrink_to_fit();
            }
        }
    }

    /// All series in Prometheus' text format; families without any are left out.
    pub(super) fn render(&self) -> String {
        let families = self.families();
        let mut text = String::with_capacity(self.series() * 96);
        for (family, series) in family::ALL.iter().zip(families.iter()).filter(|(_, series)| !series.is_empty()) {
            let Family { name, kind, help } = family;
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            series.iter().for_each(|series| series.render(name, &mut text));
            text.push('\n');
        }
        text
    }

    /// Whole at any moment: series are added finished.
    fn families(&self) -> MutexGuard<'_, Vec<Vec<Series>>> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    fn kind(&self) -> Kind {
        match self {
            Self::Counter(_) => Kind::Counter,
            Self::Gauge(_) => Kind::Gauge,
            Self::Histogram(_) => Kind::Histogram,
        }
    }

    /// How many series it makes.
    fn width(&self) -> usize {
        if matches!(self, Self::Histogram(_)) { HISTOGRAM_SERIES } else { 1 }
    }

    fn lives(&self) -> bool {
        match self {
            Self::Counter(handle) | Self::Gauge(handle) => handle.strong_count() > 0,
            Self::Histogram(handle) => handle.strong_count() > 0,
        }
    }
}

impl Series {
    fn render(&self, name: &str, text: &mut String) {
        let Self { labels, handle } = self;
        let _ = match handle {
            Handle::Counter(handle) => handle.upgrade().map(|value| line(text, name, labels, value.load(Relaxed))),
            Handle::Gauge(handle) => {
                handle.upgrade().map(|value| line(text, name, labels, f64::from_bits(value.load(Relaxed))))
            }
            Handle::Histogram(handle) => handle.upgrade().map(|histogram| histogram.render(name, labels, text)),
        };
    }
}

impl Histogram {
    fn render(&self, name: &str, labels: &str, text: &mut String) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut count = 0;
        for (place, bucket) in self.buckets.iter().enumerate() {
            count += bucket.load(Relaxed);
            let _ = match BUCKETS.get(place) {
                Some(bound) => writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"),
                None => writeln!(text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}"),
            };
        }
        let sum = Duration::from_nanos(self.nanoseconds.load(Relaxed)).as_secs_f64();
        line(text, &format!("{name}_sum"), labels, sum);
        line(text, &format!("{name}_count"), labels, count);
    }
}

fn line(text: &mut String, name: &str, labels: &str, value: impl fmt::Display) {
    let _ =
        if labels.is_empty() { writeln!(text, "{name} {value}") } else { writeln!(text, "{name}{{{labels}}} {value}") };
}

/// `a="b",c="d"`, with what Prometheus wants escaped.
fn rendered(labels: &[Label]) -> Box<str> {
    let mut text = String::new();
    for Label(name, value) in labels {
        if !text.is_empty() {
            text.push(',');
        }
        let value = match value {
            Value::Word(word) => word,
            Value::Name(name) => &**name,
        };
        let _ = write!(text, "{name}=\"");
        for c in value.chars() {
            match c {
                '\\' | '"' => text.extend(['\\', c]),
                '\n' => text.push_str("\\n"),
                c => text.push(c),
            }
        }
        text.push('"');
    }
    text.into()
}
