//! The process's own figures, under the names that Prometheus clients share.
//!
//! Invariant: what cannot be read is left out, never made up. Non-goal: anything but Linux.

use std::fmt::Write as _;
use std::fs;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::unistd::{SysconfVar, sysconf};

/// Appends the figures of this moment.
pub(super) fn render(text: &mut String) {
    put(text, "process_cpu_seconds_total", "counter", "CPU time used, user and system", cpu_seconds());
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    put(text, "process_resident_memory_bytes", "gauge", "Resident memory", kib(&status, "VmRSS:"));
    put(
        text,
        "process_anonymous_memory_bytes",
        "gauge",
        "Resident memory that no file backs",
        kib(&status, "RssAnon:"),
    );
    put(text, "process_virtual_memory_bytes", "gauge", "Virtual memory", kib(&status, "VmSize:"));
    put(text, "process_threads", "gauge", "Threads", field(&status, "Threads:"));
    put(text, "process_open_fds", "gauge", "Open file descriptors", open_fds());
    put(text, "process_max_fds", "gauge", "Limit of open file descriptors", max_fds());
    put(text, "process_start_time_seconds", "gauge", "When the process started, Unix time", started());
}

fn put(text: &mut String, name: &str, kind: &str, help: &str, value: Option<f64>) {
    if let Some(value) = value {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
}

#[allow(clippy::cast_precision_loss)]
fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Some(micros as f64 / 1e6)
}

fn kib(status: &str, name: &str) -> Option<f64> {
    field(status, name).map(|kib| kib * 1024.0)
}

fn field(status: &str, name: &str) -> Option<f64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[allow(clippy::cast_precision_loss)]
fn open_fds() -> Option<f64> {
    // The directory that is being read is itself one.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

#[allow(clippy::cast_precision_loss)]
fn max_fds() -> Option<f64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft as f64)
}

/// From the boot time and the process's start in ticks since then (proc(5): field 22, counted after the name's last
/// `)`).
fn started() -> Option<f64> {
    static STARTED: OnceLock<Option<f64>> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let ticks: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        let per_second = i32::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
        let boot = field(&fs::read_to_string("/proc/stat").ok()?, "btime")?;
        Some(boot + ticks / f64::from(per_second))
    })
}
