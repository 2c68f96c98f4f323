//! What a process uses, from `/proc`: CPU to the nanosecond, memory, wake-ups.
//!
//! Invariant: all its threads count; what cannot be read is an error, never a zero.
//! Non-goal: the kernel's own work in interrupts, which nobody can tell apart.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;

/// How often a load's memory is looked at. 20 times a second costs a thousandth of a core.
const SAMPLE: Duration = Duration::from_millis(50);

/// CPU time and times that threads went to sleep, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Nanoseconds, user and system.
    pub cpu: u64,
    /// Voluntary switches: each ends in a wake-up.
    pub wakes: u64,
}

/// Memory in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// `VmRSS`: resident in all.
    pub rss: u64,
    /// `RssAnon`: its own.
    pub anon: u64,
    /// `VmHWM`: the most that `rss` ever was.
    pub high: u64,
    /// `Pss`: shared pages by their share; 0 where it was not asked for.
    pub pss: u64,
}

/// Reads the CPU time and wake-ups of a process.
///
/// # Errors
/// When it has ended.
pub fn spent(pid: u32) -> anyhow::Result<Spent> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))?;
    let mut sum = Spent::default();
    for task in tasks {
        let path = task?.path();
        // A thread may end between the listing and the reading; what it used is lost, and no thread of these ends.
        let Ok(stat) = fs::read_to_string(path.join("schedstat")) else { continue };
        let Ok(status) = fs::read_to_string(path.join("status")) else { continue };
        sum.cpu += stat.split(' ').next().and_then(|word| word.parse::<u64>().ok()).context("schedstat")?;
        sum.wakes += field(&status, "voluntary_ctxt_switches").context("voluntary_ctxt_switches")?;
    }
    Ok(sum)
}

/// Reads the memory of a process; with `pss`, walks its pages, which takes milliseconds.
///
/// # Errors
/// When it has ended.
pub fn memory(pid: u32, pss: Pss) -> anyhow::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    let of = |name| field(&status, name).with_context(|| format!("{name} of process {pid}"));
    let pss = match pss {
        Pss::Left => 0,
        Pss::Counted => {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            field(&text, "Pss").context("Pss")?
        }
    };
    Ok(Memory { rss: of("VmRSS")?, anon: of("RssAnon")?, high: of("VmHWM")?, pss })
}

/// Whether `Pss` is wanted.
#[derive(Clone, Copy, Debug)]
pub enum Pss {
    /// Counted, page by page.
    Counted,
    /// Left out.
    Left,
}

/// The number in the line `NAME: 123 kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Watches the memory of processes while a load runs.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Memory>>,
}

impl Watch {
    /// Begins.
    #[must_use]
    pub fn start(pids: Vec<u32>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut most = vec![Memory::default(); pids.len()];
                while !stop.load(Ordering::Relaxed) {
                    for (most, pid) in most.iter_mut().zip(&pids) {
                        if let Ok(now) = memory(*pid, Pss::Left) {
                            *most = peak(*most, now);
                        }
                    }
                    thread::sleep(SAMPLE);
                }
                most
            }
        });
        Self { stop, thread }
    }

    /// Ends; the most that was seen of each process.
    #[must_use]
    pub fn stop(self) -> Vec<Memory> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn peak(one: Memory, other: Memory) -> Memory {
    Memory {
        rss: one.rss.max(other.rss),
        anon: one.anon.max(other.anon),
        high: one.high.max(other.high),
        pss: one.pss.max(other.pss),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_told_by_its_whole_name() {
        let text = "VmRSSX:\t 1 kB\nVmRSS:\t  7800 kB\nnonvoluntary_ctxt_switches:\t9\nvoluntary_ctxt_switches:\t5\n";
        assert_eq!(field(text, "VmRSS"), Some(7800));
        assert_eq!(field(text, "voluntary_ctxt_switches"), Some(5));
        assert_eq!(field(text, "RssAnon"), None);
    }

    #[test]
    fn work_shows_as_cpu_and_memory_as_its_own() {
        let before = spent(std::process::id()).unwrap();
        let filled = vec![1_u8; 16 << 20];
        let sum: u64 = filled.iter().map(|byte| u64::from(*byte)).sum();
        let after = spent(std::process::id()).unwrap();
        assert!(sum == 16 << 20 && after.cpu > before.cpu, "{before:?} {after:?}");
        let memory = memory(std::process::id(), Pss::Counted).unwrap();
        assert!(memory.anon >= 16 << 10 && memory.rss >= memory.anon && memory.high >= memory.rss, "{memory:?}");
        assert!(memory.pss > 0);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(spent(u32::MAX).is_err() && memory(u32::MAX, Pss::Left).is_err());
    }
}
