//! The Prometheus recorder of a daemon, and what is known of its process.
//!
//! Invariant: histograms are real histograms (fixed buckets), so that they add up across replicas; a daemon's own
//! metric names live in its `metrics` room. Series never expire here: a handle held by hot code would go on counting
//! into the void, so whoever makes series from data bounds them.
//! Non-goal: pushing.

pub mod process;

use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::build;

/// Buckets for durations in seconds, from 500 us to 10 s.
pub const SECONDS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// How often samples that nobody has scraped are folded into their buckets; bounds the memory that they hold.
const UPKEEP: Duration = Duration::from_secs(5);

/// The recorder behind the `metrics` macros. Clones share it.
#[derive(Clone)]
pub struct Prometheus {
    handle: PrometheusHandle,
}

impl Prometheus {
    /// Installs the recorder with [`SECONDS`] for every histogram. Later calls return the first one's.
    #[must_use]
    pub fn install() -> Self {
        Self::install_with(&[])
    }

    /// The same, with buckets of their own for histograms whose names end in the given suffixes. No list may be empty.
    #[must_use]
    pub fn install_with(buckets: &[(&str, &[f64])]) -> Self {
        static INSTALLED: OnceLock<Prometheus> = OnceLock::new();
        INSTALLED.get_or_init(|| Self::build(buckets)).clone()
    }

    /// The text of a scrape: the daemon's metrics, then the process's.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = self.handle.render();
        process::render(&mut text);
        text
    }

    /// Keeps the recorder small between scrapes. Runs until it is dropped; every daemon spawns it.
    pub async fn upkeep(self) {
        let mut tick = tokio::time::interval(UPKEEP);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.handle.run_upkeep();
        }
    }

    fn build(buckets: &[(&str, &[f64])]) -> Self {
        let mut builder = PrometheusBuilder::new().set_buckets(&SECONDS).expect("SECONDS is not empty");
        for (suffix, bounds) in buckets {
            let matcher = Matcher::Suffix((*suffix).to_owned());
            builder = builder.set_buckets_for_metric(matcher, bounds).expect("the caller gives no empty list");
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::error!("another recorder is installed; metrics will be missing");
        }
        metrics::describe_gauge!("mesh_build_info", "The build of this process, always 1");
        metrics::gauge!("mesh_build_info", "version" => build::VERSION).set(1.0);
        Self { handle }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_scrape_has_histograms_the_build_and_the_process() {
        let prometheus = Prometheus::install_with(&[("_size_bytes", &[1024.0])]);
        metrics::histogram!("kit_wait_seconds").record(0.003);
        metrics::histogram!("kit_size_bytes").record(10.0);
        let text = Prometheus::install().render();
        drop(prometheus);
        for line in [
            "kit_wait_seconds_bucket{le=\"0.005\"} 1",
            "kit_wait_seconds_bucket{le=\"0.0025\"} 0",
            "kit_size_bytes_bucket{le=\"1024\"} 1",
            "# TYPE process_resident_memory_bytes gauge",
            "# TYPE process_cpu_seconds_total counter",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(text.contains(&format!("mesh_build_info{{version=\"{}\"}} 1", build::VERSION)), "{text}");
    }
}
