//! A daemon before and after an attack: what every row asks of the process itself.
//!
//! Invariant: the same process, as many threads, no file left open, an idle processor afterwards, and a log that nobody from
//! outside can fill or deface. Non-goal: memory, whose bound is each row's own.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use super::Process;
use crate::mesh::Daemon;

/// For files to be closed, and for the processor to come to rest.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// Files more than before that may stay open: warm connections.
const FILES: usize = 5;
/// Lines of one cause in one second of the clock. The limit is 10 in a second that begins with the first line, so a second of
/// the clock can hold the end of one and the begin of another; and one line that tells of those dropped.
const LINES: usize = 21;
/// Bytes of a line, without its newline.
const LINE: usize = 1023;

/// What was seen before.
#[derive(Debug)]
pub struct Vitals {
    process: Process,
    threads: u64,
    files: usize,
    logged: usize,
}

impl Vitals {
    /// Of a daemon that runs and has nothing to do with the attack yet.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn of(daemon: &Daemon) -> Self {
        let process = Process(daemon.pid().expect("a daemon that runs"));
        Self { process, threads: process.threads(), files: process.files(), logged: daemon.log().len() }
    }

    /// Compares, once the attack is over.
    ///
    /// # Panics
    /// When anything has not come back to what it was, or the log is not as it should be. `secrets` are texts that it may not
    /// hold.
    pub fn finish(self, daemon: &Daemon, secrets: &[&str]) {
        let name = daemon.name();
        assert_eq!(daemon.pid(), Some(self.process.0), "{name} is another process");
        assert_eq!(self.process.threads(), self.threads, "threads of {name}");
        let deadline = Instant::now() + SETTLED_WITHIN;
        loop {
            let files = self.process.files();
            if files <= self.files + FILES {
                break;
            }
            assert!(Instant::now() < deadline, "{name} has {files} files open, {} before", self.files);
            thread::sleep(Duration::from_millis(50));
        }
        while self.busy() > Duration::from_millis(20) {
            assert!(Instant::now() < deadline, "{name} does not come to rest");
        }
        log_is_safe(name, &daemon.log()[self.logged..], secrets);
    }

    /// CPU time of one second.
    fn busy(&self) -> Duration {
        let before = self.process.cpu();
        thread::sleep(Duration::from_secs(1));
        self.process.cpu().saturating_sub(before)
    }
}

/// Whether a log is what an operator can read at night: no secret, no control character, short lines, and few of each cause.
///
/// # Panics
/// When it is not.
pub fn log_is_safe(name: &str, log: &str, secrets: &[&str]) {
    let mut causes: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for line in log.lines() {
        assert!(line.len() <= LINE, "{name}: a line of {} bytes: {line:.200}", line.len());
        assert!(!line.chars().any(char::is_control), "{name}: control characters: {line:?}");
        assert!(!line.contains(" panic "), "{name}: {line}");
        assert!(!line.split(is_between).any(is_token), "{name}: a token in {line}");
        for secret in secrets.iter().chain(&["PRIVATE KEY"]) {
            assert!(!line.contains(secret), "{name}: a secret in {line}");
        }
        // 2026-11-21T10:57:34.123Z  WARN target: message key=value
        let second = line.get(..19).unwrap_or_default();
        let words = line.split_whitespace().skip(1).take_while(|word| !word.contains('='));
        let cause = words.take(6).collect::<Vec<_>>().join(" ");
        let lines = causes.entry((second, cause)).or_default();
        *lines += 1;
        assert!(*lines <= LINES, "{name}: more than {LINES} lines a second like {line}");
    }
}

/// Whether a character stands between words.
fn is_between(c: char) -> bool {
    !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-')
}

/// As `mesh-identity token add` makes them.
fn is_token(word: &str) -> bool {
    word.starts_with("mesh_") && word.len() >= 40
}
