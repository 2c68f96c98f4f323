//! What is measured of the sidecars that live all along: memory, files, threads, series.
//!
//! Invariant: samples are evenly spread, and only those after the warm-up are judged.

use std::fmt;
use std::time::{Duration, Instant};

use mesh_tests::mesh::Mesh;
use mesh_tests::yardstick::Process;

/// From one sample to the next.
const PACE: Duration = Duration::from_secs(3);
/// The share of samples that is warm-up, one in so many.
const WARM_UP: usize = 4;
/// Memory above which growth is told from noise: a burst's blocks that go back to the system some seconds later.
const NOISE_KIB: f64 = 512.0;
const MIB_PER_HOUR: f64 = 1.0;
/// Files that may be open in addition at one end: connections of the moment.
const FILES: usize = 8;

/// The sidecars that are measured.
pub(crate) struct Gauges(Vec<Gauge>);

struct Gauge {
    name: String,
    process: Process,
    samples: Vec<Sample>,
}

#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    kib: u64,
    files: usize,
    threads: u64,
    series: usize,
}

/// One sidecar's figures.
pub(crate) struct Figures {
    name: String,
    pub(crate) kib: (f64, f64),
    pub(crate) slope: f64,
    files: (usize, usize),
    threads: (u64, u64),
    series: (usize, usize),
}

impl Gauges {
    pub(crate) fn of(mesh: &Mesh, names: &[&str]) -> Self {
        let gauge = |name: &&str| {
            let pid = mesh.get(name).proxy().and_then(mesh_tests::mesh::Daemon::pid).expect("a sidecar that runs");
            Gauge { name: (*name).to_owned(), process: Process(pid), samples: Vec::new() }
        };
        Self(names.iter().map(gauge).collect())
    }

    /// Samples for a while.
    pub(crate) fn watch(&mut self, mesh: &Mesh, how_long: Duration) {
        let end = Instant::now() + how_long;
        while Instant::now() < end {
            self.0.iter_mut().for_each(|gauge| gauge.sample(mesh));
            std::thread::sleep(PACE.min(end.saturating_duration_since(Instant::now())));
        }
    }

    pub(crate) fn newest(&self) -> String {
        let newest = self.0.iter().filter_map(|gauge| Some((&gauge.name, gauge.samples.last()?)));
        let shown = newest.map(|(name, s)| format!("{name} {} KiB, {} files, {} series", s.kib, s.files, s.series));
        shown.collect::<Vec<_>>().join("; ")
    }

    pub(crate) fn figures(&self) -> impl Iterator<Item = Figures> {
        self.0.iter().map(Gauge::figures)
    }

    /// Sidecars that are not the process any more that they were.
    pub(crate) fn replaced<'a>(&'a self, mesh: &'a Mesh) -> impl Iterator<Item = &'a str> {
        let now = |gauge: &Gauge| mesh.get(&gauge.name).proxy().and_then(mesh_tests::mesh::Daemon::pid);
        let replaced = self.0.iter().filter(move |gauge| now(gauge) != Some(gauge.process.0));
        replaced.map(|gauge| gauge.name.as_str())
    }
}

impl Gauge {
    /// Whether the process runs; one that has died has no memory.
    fn lives(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.0));
        status.is_ok_and(|status| status.contains("\nRssAnon:"))
    }

    fn sample(&mut self, mesh: &Mesh) {
        if !self.lives() {
            return;
        }
        let page = mesh.get(&self.name).admin("GET", "/metrics").map(|(_, page)| page).unwrap_or_default();
        let series = page.lines().filter(|line| !line.starts_with('#')).count();
        let process = self.process;
        let (kib, files, threads) = (process.anonymous(), process.files(), process.threads());
        self.samples.push(Sample { at: Instant::now(), kib, files, threads, series });
    }

    /// The first third after the warm-up against the last third.
    fn figures(&self) -> Figures {
        let warm = &self.samples[self.samples.len() / WARM_UP..];
        let third = (warm.len() / 3).max(1);
        let (first, last) = (&warm[..third], &warm[warm.len() - third..]);
        let hours = last[third / 2].at.duration_since(first[third / 2].at).as_secs_f64() / 3600.0;
        let kib = (least(first), least(last));
        // Sizes of a process are far below what a float holds exactly.
        #[allow(clippy::cast_precision_loss)]
        let kib = (kib.0 as f64, kib.1 as f64);
        Figures {
            name: self.name.clone(),
            kib,
            slope: (kib.1 - kib.0) / 1024.0 / hours.max(f64::MIN_POSITIVE),
            files: (median(first, |s| s.files), median(last, |s| s.files)),
            // One that reads a file comes and goes.
            threads: (median(first, |s| s.threads), median(last, |s| s.threads)),
            series: (most(first, |s| s.series), most(last, |s| s.series)),
        }
    }
}

/// A leak raises the floor; what a burst takes comes and goes.
fn least(samples: &[Sample]) -> u64 {
    samples.iter().map(|sample| sample.kib).min().expect("a sample")
}

fn median<T: Ord + Copy>(samples: &[Sample], of: impl Fn(&Sample) -> T) -> T {
    let mut all: Vec<T> = samples.iter().map(of).collect();
    all.sort_unstable();
    all[all.len() / 2]
}

fn most<T: Ord + Copy>(samples: &[Sample], of: impl Fn(&Sample) -> T) -> T {
    samples.iter().map(of).max().expect("a sample")
}

impl Figures {
    /// What grows.
    pub(crate) fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        if self.slope >= MIB_PER_HOUR && self.kib.1 - self.kib.0 >= NOISE_KIB {
            findings.push(format!("{}: memory grows by {:.1} MiB/h", self.name, self.slope));
        }
        if self.files.1 > self.files.0 + FILES {
            findings.push(format!("{}: files {} -> {}", self.name, self.files.0, self.files.1));
        }
        if self.threads.1 > self.threads.0 {
            findings.push(format!("{}: threads {} -> {}", self.name, self.threads.0, self.threads.1));
        }
        // A label that first occurs late is no leak; ever more of them are.
        if self.series.1 > self.series.0 + self.series.0 / 10 {
            findings.push(format!("{}: series {} -> {}", self.name, self.series.0, self.series.1));
        }
        findings
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, kib, slope, files, threads, series } = self;
        write!(
            f,
            "{name:<8} RssAnon at least {:.0} -> {:.0} KiB ({slope:+.2} MiB/h), files {} -> {}, threads {} -> {}, series {} -> {}",
            kib.0, kib.1, files.0, files.1, threads.0, threads.1, series.0, series.1
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAT: Shown = Shown { kib: 3000, files: 20, threads: 3, series: 200 };

    /// A sample without its time.
    #[derive(Clone, Copy)]
    struct Shown {
        kib: u64,
        files: usize,
        threads: u64,
        series: usize,
    }

    /// What is found after an hour of a sample each minute.
    fn findings(of: impl Fn(u64) -> Shown) -> Vec<String> {
        let begin = Instant::now();
        let sample = |minute| {
            let Shown { kib, files, threads, series } = of(minute);
            Sample { at: begin + Duration::from_secs(60 * minute), kib, files, threads, series }
        };
        let gauge = Gauge { name: "web".to_owned(), process: Process(1), samples: (0..60).map(sample).collect() };
        gauge.figures().findings()
    }

    #[test]
    fn what_stays_and_what_only_swings_is_no_finding() {
        assert_eq!(findings(|_| FLAT), Vec::<String>::new());
        let swinging = |minute| Shown { kib: 3000 + 900 * (minute % 3), files: 20 + 3 * (minute as usize % 3), ..FLAT };
        assert_eq!(findings(swinging), Vec::<String>::new());
    }

    #[test]
    fn what_grows_is_found() {
        let leak = findings(|minute| Shown { kib: 3000 + 40 * minute, ..FLAT });
        assert!(leak.len() == 1 && leak[0].contains("memory grows by 2.3 MiB/h"), "{leak:?}");
        let files = findings(|minute| Shown { files: 20 + minute as usize, ..FLAT });
        assert!(files.len() == 1 && files[0].contains("files"), "{files:?}");
        let threads = findings(|minute| Shown { threads: 3 + minute / 40, ..FLAT });
        assert!(threads.len() == 1 && threads[0].contains("threads 3 -> 4"), "{threads:?}");
        let series = findings(|minute| Shown { series: 200 + 2 * minute as usize, ..FLAT });
        assert!(series.len() == 1 && series[0].contains("series"), "{series:?}");
    }
}
