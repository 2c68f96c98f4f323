//! What a process has used: memory and CPU.
//!
//! Invariant: CPU counts threads that have ended as well. Non-goal: single threads.

use std::fs;
use std::io;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

/// At one moment.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// VmRSS in KiB.
    pub rss: u64,
    /// RssAnon in KiB.
    pub anonymous: u64,
    /// User and system.
    pub cpu: Duration,
}

impl Usage {
    /// Of a live process.
    ///
    /// # Errors
    /// There is none, or /proc is not as expected.
    pub fn of(pid: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let unexpected = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("no {what} of process {pid}"));
        Ok(Self {
            rss: kib(&status, "VmRSS:").ok_or_else(|| unexpected("VmRSS"))?,
            anonymous: kib(&status, "RssAnon:").ok_or_else(|| unexpected("RssAnon"))?,
            cpu: ticks(&stat).map(duration).ok_or_else(|| unexpected("CPU time"))?,
        })
    }
}

fn kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// proc(5): utime and stime are fields 14 and 15; the name, field 2, may hold anything but ends with the last parenthesis.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11).map(str::parse);
    let (user, system): (u64, u64) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some(user + system)
}

fn duration(ticks: u64) -> Duration {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
    Duration::from_millis(ticks * 1000 / per_second.unwrap_or(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_memory_and_time_are_found() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss > usage.anonymous && usage.anonymous > 100, "{usage:?}");
        assert_eq!(ticks("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14"), Some(11 + 12));
        assert!(Usage::of(u32::MAX).is_err());
    }
}
