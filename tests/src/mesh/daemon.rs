//! A program of the mesh that can be ended and started again, with all that it said in its lives.
//!
//! Invariant: at most one process at a time; its own process group, so that a terminal's Ctrl-C is not for it.
//! Non-goal: supervision; what ends stays ended.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::netns::Proc;

/// A program, and how to start it.
pub struct Daemon {
    name: String,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    process: Option<Proc>,
    earlier: String,
}

impl Daemon {
    /// Starts it.
    #[must_use]
    pub fn start(name: impl Into<String>, command: impl Fn() -> Command + Send + Sync + 'static) -> Self {
        let mut daemon = Self { name: name.into(), command: Box::new(command), process: None, earlier: String::new() };
        daemon.restart();
        daemon
    }

    /// Its name in logs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it again; kills it first if it runs.
    pub fn restart(&mut self) {
        self.kill();
        let mut command = (self.command)();
        self.process = Some(Proc::spawn(command.process_group(0)));
    }

    /// Ends it without warning; does nothing if it has ended.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            self.earlier.push_str(&process.output());
        }
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Panics
    /// When it does not run, or does not end in time.
    #[track_caller]
    pub fn terminate(&mut self, within: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let status = self.process.as_mut().map(|process| process.wait(within));
        self.kill();
        status.unwrap_or_else(|| panic!("{} does not run", self.name))
    }

    /// Sends a signal, if it runs.
    pub fn signal(&mut self, signal: Signal) {
        if let Some(process) = &mut self.process {
            process.signal(signal);
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not run, or does not end in time.
    #[track_caller]
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        match &mut self.process {
            Some(process) => process.wait(within),
            None => panic!("{} does not run", self.name),
        }
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Proc::is_running)
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Proc::id)
    }

    /// Waits for a line of its present life that contains `pattern`.
    ///
    /// # Panics
    /// When none comes in time.
    #[track_caller]
    pub fn wait_for_line(&self, pattern: &str, within: Duration) -> String {
        match &self.process {
            Some(process) => process.wait_for_line(pattern, within),
            None => panic!("{} does not run", self.name),
        }
    }

    /// What it said in all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        let now = self.process.as_ref().map(Proc::output);
        format!("{}{}", self.earlier, now.unwrap_or_default())
    }

    /// How often it has touched a page that it did not have yet (minor faults).
    #[must_use]
    pub fn faults(&self) -> Option<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()?)).ok()?;
        // Fields are counted from behind the name, which may have spaces: this is the tenth (proc_pid_stat(5)).
        stat.rsplit_once(") ")?.1.split(' ').nth(7)?.parse().ok()
    }

    /// Resident memory and the anonymous part of it, in KiB.
    #[must_use]
    pub fn memory(&self) -> Option<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
        };
        Some(Memory { rss: field("VmRSS")?, anonymous: field("RssAnon")? })
    }
}

/// Memory of a process, in KiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// VmRSS: resident in all, the program's shared pages too.
    pub rss: u64,
    /// RssAnon: its own.
    pub anonymous: u64,
}
