//! How long programs have waited for a processor that others had: what a busy machine adds to each answer.
//!
//! Source: the second figure of `/proc/PID/task/TID/schedstat`, nanoseconds in which a thread could have run and did not.
//! Invariant: time in which a program was at work, for whomever, is not part of it: a proxy that serves an attacker while others
//! wait is to blame for that.
//! Non-goal: threads of this process but the one that asks, for one of them may be the attacker.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Measures a time that a demand is about, on a machine that may be busy.
#[derive(Debug)]
pub struct Stopwatch {
    begin: Instant,
    waits: Waits,
    waited: Duration,
}

impl Stopwatch {
    /// From now on, with the programs that run now.
    #[must_use]
    pub fn start() -> Self {
        let waits = Waits::of_all();
        Self { begin: Instant::now(), waited: waits.total(), waits }
    }

    /// How long it has taken so far.
    #[must_use]
    pub fn all(&self) -> Duration {
        self.begin.elapsed()
    }

    /// The same without the time in which programs waited for a processor. It is no more than what a machine of its own would
    /// have taken.
    #[must_use]
    pub fn apart(&self) -> Duration {
        self.all().saturating_sub(self.waits.total().saturating_sub(self.waited))
    }
}

/// The programs that are watched.
#[derive(Debug)]
pub(super) struct Waits(Vec<File>);

impl Waits {
    /// Of the calling thread, and of all programs that this process has started and that run.
    pub(super) fn of_all() -> Self {
        let tasks = |pid: &str| folder(&format!("/proc/{pid}/task"));
        let children = tasks("self").into_iter().filter_map(|task| fs::read_to_string(task + "/children").ok());
        let children: String = children.collect();
        let programs = children.split_whitespace().flat_map(tasks).map(|task| task + "/schedstat");
        Self::of(programs.chain(["/proc/thread-self/schedstat".to_owned()]))
    }

    fn of(paths: impl IntoIterator<Item = String>) -> Self {
        Self(paths.into_iter().filter_map(|path| File::open(path).ok()).collect())
    }

    /// What they have waited in all, so far.
    pub(super) fn total(&self) -> Duration {
        let mut line = [0; 64];
        let waited = |file: &File| {
            // Those that have ended meanwhile wait no more.
            let read = file.read_at(&mut line, 0).ok()?;
            let line = std::str::from_utf8(&line[..read]).ok()?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        Duration::from_nanos(self.0.iter().filter_map(waited).sum())
    }
}

fn folder(path: &str) -> Vec<String> {
    let entries = fs::read_dir(Path::new(path)).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    const OWN: &str = "/proc/thread-self/schedstat";

    /// What a thread that wants to run all the time does not run, it waits.
    #[test]
    fn who_shares_a_processor_waits_for_the_rest_of_the_time() {
        let waits = Waits::of([OWN.to_owned()]);
        let ran = || {
            let line = fs::read_to_string(OWN).expect("the kernel's");
            Duration::from_nanos(line.split(' ').next().and_then(|ran| ran.parse().ok()).expect("a number"))
        };
        let (begin, waited, before) = (Instant::now(), waits.total(), ran());
        let sharing = 4 * std::thread::available_parallelism().map_or(2, usize::from);
        let spin = || while begin.elapsed() < Duration::from_millis(800) {};
        std::thread::scope(|scope| {
            (0..sharing).for_each(|_| drop(scope.spawn(spin)));
            spin();
        });
        let (all, waited) = (begin.elapsed(), waits.total() - waited);
        let ran = ran() - before;
        assert!(waited > all / 2, "waited {waited:?} of {all:?} beside {sharing} others");
        assert!((waited + ran).abs_diff(all) < all / 5, "ran {ran:?} and waited {waited:?} of {all:?}");
    }

    #[test]
    fn programs_that_were_started_are_watched() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("a program");
        let path = |file: &File| fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("an open file");
        let watched: Vec<_> = Waits::of_all().0.iter().map(path).collect();
        let _ = (child.kill(), child.wait());
        assert!(watched.iter().any(|path| path.starts_with(format!("/proc/{}", child.id()))), "{watched:?}");
    }
}
