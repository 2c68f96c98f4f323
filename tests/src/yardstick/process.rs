//! A process from outside: what the kernel knows of its memory, files, threads and time.
//!
//! Source of each figure: `/proc/PID/{status,fd,limits,stat}`.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between two looks at memory.
const LOOK: Duration = Duration::from_millis(5);

/// A running process.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    /// Whether it runs; one that has ended and was not waited for does not.
    #[must_use]
    pub fn lives(self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap_or_default();
        status.contains("\nVmRSS:")
    }

    /// RssAnon in KiB.
    ///
    /// # Panics
    /// When the process is gone.
    #[must_use]
    pub fn anonymous(self) -> u64 {
        self.status("RssAnon")
    }

    /// What is resident and backed by no file, KiB: code comes and goes.
    ///
    /// # Panics
    /// When the process is gone.
    #[must_use]
    pub fn resident(self) -> u64 {
        self.anonymous()
    }

    /// The most of that since [`Process::forget_peak`], KiB; looked at every few milliseconds, for the kernel's own high-water mark
    /// counts code.
    ///
    /// # Panics
    /// When the process is gone.
    #[must_use]
    pub fn peak(self) -> u64 {
        let seen = peaks().get(&self.0).map_or(0, |peak| peak.load(Ordering::Relaxed));
        seen.max(self.anonymous())
    }

    /// Lets [`Process::peak`] begin anew.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn forget_peak(self) {
        let peak = Arc::new(AtomicU64::new(self.anonymous()));
        // The one before ends with this.
        peaks().insert(self.0, Arc::clone(&peak));
        std::thread::spawn(move || {
            while Arc::strong_count(&peak) > 1
                && let Some(now) = self.try_status("RssAnon")
            {
                peak.fetch_max(now, Ordering::Relaxed);
                std::thread::sleep(LOOK);
            }
        });
    }

    /// How many threads it has.
    ///
    /// # Panics
    /// When the process is gone.
    #[must_use]
    pub fn threads(self) -> u64 {
        self.status("Threads")
    }

    /// How many files it has open.
    ///
    /// # Panics
    /// When the process is gone.
    #[must_use]
    pub fn files(self) -> usize {
        let path = format!("/proc/{}/fd", self.0);
        fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}")).count()
    }

    /// How many files it may have open: its soft limit.
    ///
    /// # Panics
    /// When the process is gone.
    #[must_use]
    pub fn most_files(self) -> u64 {
        let path = format!("/proc/{}/limits", self.0);
        let limits = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let soft = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        soft.unwrap_or_else(|| panic!("{path}: {limits}"))
    }

    /// How many of `full` connections fit into the files that this process may have, of which each takes `files`. Those that
    /// it starts may have as many.
    #[must_use]
    pub fn most_connections(full: usize, files: usize) -> usize {
        // For what is no connection.
        const REST: u64 = 1000;
        let most = Self(std::process::id()).most_files().saturating_sub(REST);
        full.min(usize::try_from(most).unwrap_or(usize::MAX) / files)
    }

    /// CPU time of all its threads since its start, in steps of a clock tick (10 ms).
    ///
    /// # Panics
    /// When the process is gone.
    #[must_use]
    pub fn cpu(self) -> Duration {
        let path = format!("/proc/{}/stat", self.0);
        let stat = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        // Fields 14 and 15, utime and stime; the name in field 2 may hold spaces.
        let (_, rest) = stat.rsplit_once(") ").unwrap_or_default();
        let ticks: u64 = rest.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    fn status(self, name: &str) -> u64 {
        self.try_status(name).unwrap_or_else(|| panic!("process {} is gone, or has no {name}", self.0))
    }

    fn try_status(self, name: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
    }
}

/// Of the processes that are looked at.
fn peaks() -> MutexGuard<'static, HashMap<u32, Arc<AtomicU64>>> {
    static PEAKS: LazyLock<Mutex<HashMap<u32, Arc<AtomicU64>>>> = LazyLock::new(Mutex::default);
    PEAKS.lock().unwrap_or_else(PoisonError::into_inner)
}
