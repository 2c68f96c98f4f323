//! How long programs, and packets, have waited for a processor that others had: what a busy machine adds to each answer.
//!
//! Source: the second figure of `/proc/PID/task/TID/schedstat`, nanoseconds in which a thread could have run and did not.
//! Invariant: time in which a program was at work, for whomever, is not part of it: a proxy that serves an attacker while others
//! wait is to blame for that.
//! Non-goal: threads that begin later, such as an attacker's.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

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
        let waits = Waits::of_all(None);
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

/// The threads that are watched.
#[derive(Debug)]
pub(super) struct Waits(Vec<File>);

/// The kernel's threads that bring packets to their sockets, one for each processor, when there are many.
const PACKETS: &str = "ksoftirqd/";

impl Waits {
    /// Of this process, which may have back ends within it, of all programs that it has started and that run, and of the kernel
    /// where it delivers packets. Not of `attacker`.
    pub(super) fn of_all(attacker: Option<Pid>) -> Self {
        let tasks = |pid: &str| folder(&format!("/proc/{pid}/task"));
        let own = tasks("self");
        let children: String =
            own.iter().filter_map(|task| fs::read_to_string(format!("{task}/children")).ok()).collect();
        let attacker = attacker.map(|thread| format!("/{thread}"));
        let own = own.into_iter().filter(|task| attacker.as_ref().is_none_or(|attacker| !task.ends_with(attacker)));
        let programs = own.chain(children.split_whitespace().flat_map(tasks)).map(|task| task + "/schedstat");
        let kernel = folder("/proc").into_iter().filter(|process| {
            fs::read_to_string(format!("{process}/comm")).is_ok_and(|name| name.starts_with(PACKETS))
        });
        let kernel = kernel.map(|process| process + "/schedstat");
        Self::of(programs.chain(kernel))
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

    use nix::unistd::gettid;

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
        let watched: Vec<_> = Waits::of_all(Some(gettid())).0.iter().map(path).collect();
        let _ = (child.kill(), child.wait());
        let watches = |part: String| watched.iter().any(|path| path.display().to_string().contains(&part));
        assert!(watches(format!("/proc/{}/task", child.id())), "{watched:?}");
        assert!(!watches(format!("/task/{}/", gettid())), "an attacker: {watched:?}");
    }
}
