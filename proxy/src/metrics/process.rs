//! What Prometheus' own client libraries say about a process, under their names, read from /proc when asked.
//!
//! Written as text by itself because the recorder's counters are whole numbers and CPU seconds are not. A file that
//! cannot be read leaves out its metrics. Non-goal: other systems than Linux.

use std::fmt::Write;
use std::fs;

/// Ticks per second of the times in /proc, the same on every architecture that Rust has tier 1 or 2 support for.
const TICKS: f64 = 100.0;

/// The metrics as Prometheus text.
pub(super) fn render() -> String {
    let mut out = String::with_capacity(1024);
    let mut add = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n\n");
        }
    };
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/stat").unwrap_or_default();

    let cpu = number(&stat, UTIME).zip(number(&stat, STIME)).map(|(u, s)| (u + s) / TICKS);
    add("process_cpu_seconds_total", "counter", "CPU time in user and kernel.", cpu);
    let start = number(&stat, STARTTIME).zip(value(&kernel, "btime ", 1.0));
    let start = start.map(|(ticks, boot)| boot + ticks / TICKS);
    add("process_start_time_seconds", "gauge", "When the process began, since 1970.", start);
    let resident = value(&status, "VmRSS:", 1024.0);
    add("process_resident_memory_bytes", "gauge", "Memory in RAM.", resident);
    let virtual_memory = value(&status, "VmSize:", 1024.0);
    add("process_virtual_memory_bytes", "gauge", "Address space in use.", virtual_memory);
    add("process_open_fds", "gauge", "Open file descriptors.", open_fds());
    let most = value(&limits, "Max open files", 1.0);
    add("process_max_fds", "gauge", "File descriptors that may be open.", most);
    let threads = value(&status, "Threads:", 1.0);
    add("process_threads", "gauge", "Threads of the process.", threads);
    out
}

/// Fields of /proc/self/stat, counted as in proc(5).
const UTIME: usize = 14;
const STIME: usize = 15;
const STARTTIME: usize = 22;

/// A field of /proc/self/stat. The second one is the program's name in parentheses and may have spaces and parentheses
/// in it, so fields are counted from the last one that closes.
fn number(stat: &str, field: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(field - 3)?.parse().ok()
}

/// The first number after `name` at the beginning of a line, times `unit`.
fn value(text: &str, name: &str, unit: f64) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    let value: f64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(value * unit)
}

fn open_fds() -> Option<f64> {
    let entries = fs::read_dir("/proc/self/fd").ok()?.count();
    // Not the one that reads the directory.
    Some(super::balancer::float(entries.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_spaces_and_parentheses_shifts_no_field() {
        let stat = "7 (a) b (c) R 1 1 1 0 -1 4 100 0 0 0 250 50 0 0 20 0 1 0 9000 1 2";
        assert_eq!(number(stat, UTIME), Some(250.0));
        assert_eq!(number(stat, STIME), Some(50.0));
        assert_eq!(number(stat, STARTTIME), Some(9000.0));
        assert_eq!(number("", UTIME), None);
    }

    #[test]
    fn our_own_process_shows_all_of_them() {
        let text = render();
        for name in [
            "process_cpu_seconds_total ",
            "process_start_time_seconds ",
            "process_resident_memory_bytes ",
            "process_virtual_memory_bytes ",
            "process_open_fds ",
            "process_max_fds ",
            "process_threads ",
        ] {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let value: f64 = line.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap();
            assert!(value >= 0.0, "{name}{value}");
        }
    }
}
