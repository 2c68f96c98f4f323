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
pub fn render(text: &mut String) {
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

/// From the boot time and the process's start in ticks since then.
fn started() -> Option<f64> {
    static STARTED: OnceLock<Option<f64>> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let ticks = start_ticks(&stat)?;
        let per_second = i32::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
        let boot = field(&fs::read_to_string("/proc/stat").ok()?, "btime")?;
        Some(boot + ticks / f64::from(per_second))
    })
}

/// Field 22 of /proc/self/stat. The second one is the program's name in parentheses and may have spaces and parentheses in
/// it, so fields are counted from the last one that closes.
fn start_ticks(stat: &str) -> Option<f64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_spaces_and_parentheses_shifts_no_field() {
        let fields: Vec<String> = (3..=24).map(|field| field.to_string()).collect();
        let stat = format!("1 (a (b) c) {}", fields.join(" "));
        assert_eq!(start_ticks(&stat), Some(22.0));
    }

    #[test]
    fn our_own_process_shows_all_of_them() {
        let mut text = String::new();
        render(&mut text);
        let names = "cpu_seconds_total resident_memory_bytes anonymous_memory_bytes virtual_memory_bytes threads open_fds \
                     max_fds start_time_seconds";
        for name in names.split_whitespace() {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("process_{name} ")));
            let value: f64 = line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number");
            assert!(value >= 0.0, "{name} is {value}");
        }
    }
}
