//! Times a step with criterion, counts its allocations beside it, and puts both into one table and one file of JSON.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use criterion::Criterion;
use serde::Serialize;
use tokio::runtime::Runtime;

/// Steps before the count, for buffers to have grown.
const WARM_UP: u32 = 100;
const COUNTED: u32 = 1000;
const WARM_UP_TIME: Duration = Duration::from_millis(500);
const MEASURED_TIME: Duration = Duration::from_secs(2);

/// Measures and remembers.
pub(crate) struct Meter {
    /// The runtime of all steps; its thread is the one that counts.
    pub(crate) runtime: Runtime,
    criterion: Criterion,
    folder: PathBuf,
    rows: Vec<Row>,
}

/// One step.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// None when criterion was told to test and not to measure.
    nanoseconds: Option<f64>,
    allocations: f64,
    bytes: f64,
}

impl Meter {
    pub(crate) fn new(runtime: Runtime) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("micro");
        // All steps together take less than a minute; criterion's own defaults would take three.
        let criterion = Criterion::default().warm_up_time(WARM_UP_TIME).measurement_time(MEASURED_TIME);
        let criterion = criterion.output_directory(&folder).configure_from_args();
        Self { runtime, criterion, folder, rows: Vec::new() }
    }

    /// Those of an earlier run are not this one's.
    fn forget(&self, name: &str) {
        // Not there the first time.
        drop(fs::remove_file(estimates(&self.folder, name)));
    }

    /// A step that does not wait.
    pub(crate) fn step(&mut self, name: &str, mut step: impl FnMut()) {
        // Backends and routes are made in a runtime.
        self.forget(name);
        let (_inside, mut runs) = (self.runtime.enter(), false);
        self.criterion.bench_function(name, |bencher| {
            runs = true;
            bencher.iter(&mut step);
        });
        if runs {
            (0..WARM_UP).for_each(|_| step());
            let info = allocation_counter::measure(|| (0..COUNTED).for_each(|_| step()));
            self.rows.push(Row::new(name, &self.folder, &info));
        }
    }

    /// A step that waits, in one task with all its repetitions.
    pub(crate) fn waiting_step(&mut self, name: &str, mut step: impl AsyncFnMut()) {
        self.forget(name);
        let (runtime, mut runs) = (&self.runtime, false);
        let mut repeat = |times: u64| {
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..times {
                    step().await;
                }
                start.elapsed()
            })
        };
        self.criterion.bench_function(name, |bencher| {
            runs = true;
            bencher.iter_custom(&mut repeat);
        });
        if runs {
            repeat(WARM_UP.into());
            let info = allocation_counter::measure(|| {
                repeat(COUNTED.into());
            });
            self.rows.push(Row::new(name, &self.folder, &info));
        }
    }

    /// Prints the table, and writes it beside criterion's files.
    pub(crate) fn report(self) -> anyhow::Result<()> {
        println!("\n| step | time | allocations | bytes |\n|---|---:|---:|---:|");
        for Row { name, nanoseconds, allocations, bytes } in &self.rows {
            let time = nanoseconds.map_or_else(|| "-".to_owned(), |nanoseconds| format!("{nanoseconds:.0} ns"));
            println!("| {name} | {time} | {allocations:.2} | {bytes:.0} |");
        }
        let path = self.folder.join("micro.json");
        fs::create_dir_all(&self.folder).with_context(|| path.display().to_string())?;
        fs::write(&path, serde_json::to_string_pretty(&self.rows)?).with_context(|| path.display().to_string())?;
        println!("\nas JSON: {}", path.display());
        Ok(())
    }
}

impl Row {
    fn new(name: &str, folder: &Path, info: &allocation_counter::AllocationInfo) -> Self {
        // Allocations of a thousand steps are far below what a float holds exactly.
        #[allow(clippy::cast_precision_loss)]
        let each = |count: u64| count as f64 / f64::from(COUNTED);
        let (allocations, bytes) = (each(info.count_total), each(info.bytes_total));
        Self { name: name.to_owned(), nanoseconds: nanoseconds(folder, name), allocations, bytes }
    }
}

/// Criterion's estimate of the mean.
fn nanoseconds(folder: &Path, name: &str) -> Option<f64> {
    let estimates = fs::read_to_string(estimates(folder, name)).ok()?;
    let estimates: serde_json::Value = serde_json::from_str(&estimates).ok()?;
    estimates.get("mean")?.get("point_estimate")?.as_f64()
}

/// Criterion's folders have `_` where a name has `/`.
fn estimates(folder: &Path, name: &str) -> PathBuf {
    folder.join(name.replace('/', "_")).join("new/estimates.json")
}
