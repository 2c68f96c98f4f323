//! A process under test: its output kept in memory, its end tied to the value that owns it.
//!
//! Invariant: no wait without a deadline, and a wait that fails shows what the process said.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::panic::Location;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Output that is kept; the oldest lines go first.
const KEPT: usize = 1 << 20;
/// Where a line without an end is cut.
const LINE: u64 = 1 << 16;
const POLL: Duration = Duration::from_millis(5);

/// A running process, killed when dropped.
pub struct Proc {
    child: Child,
    name: String,
    output: Arc<Output>,
}

#[derive(Default)]
struct Output {
    kept: Mutex<Kept>,
    grown: Condvar,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<String>,
    bytes: usize,
    ended_streams: u8,
}

/// Polls until `condition` holds.
///
/// # Panics
/// When it does not within the time given.
#[track_caller]
pub fn until(within: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {within:?}: the condition at {}", Location::caller());
        thread::sleep(POLL);
    }
}

impl Proc {
    /// Starts `command`, without input.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(command: &mut Command) -> Self {
        Self::spawn_with(command, Stdio::null())
    }

    /// Starts `command`, with what is written to the pipe as its input.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn_fed(command: &mut Command) -> (Self, ChildStdin) {
        let mut started = Self::spawn_with(command, Stdio::piped());
        let stdin = started.child.stdin.take().expect("a pipe");
        (started, stdin)
    }

    fn spawn_with(command: &mut Command, stdin: Stdio) -> Self {
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let name = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{name}: {error}"));
        let output = Arc::new(Output::default());
        let streams: [Option<Box<dyn Read + Send>>; 2] =
            [child.stdout.take().map(|pipe| Box::new(pipe) as _), child.stderr.take().map(|pipe| Box::new(pipe) as _)];
        for stream in streams.into_iter().flatten() {
            let output = Arc::clone(&output);
            // Ends with the pipe, thus with the process and whoever inherited its output.
            thread::spawn(move || output.follow(stream));
        }
        Self { child, name, output }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far, both streams.
    #[must_use]
    pub fn output(&self) -> String {
        self.output.kept().text()
    }

    /// Waits for a line that contains `pattern`, said before or yet to come, and returns it.
    ///
    /// # Panics
    /// When the time is over, or the output at its end.
    #[track_caller]
    pub fn wait_for_line(&self, pattern: &str, within: Duration) -> String {
        let deadline = Instant::now() + within;
        let mut kept = self.output.kept();
        loop {
            if let Some(line) = kept.lines.iter().find(|line| line.contains(pattern)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || kept.ended_streams == 2 {
                panic!("{}: no line with {pattern:?} within {within:?}; it said:\n{}", self.name, kept.text());
            }
            let woken = self.output.grown.wait_timeout(kept, left);
            kept = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When the time is over.
    #[track_caller]
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return status,
                Ok(None) if Instant::now() < deadline => thread::sleep(POLL),
                state => panic!("{}: no end within {within:?} ({state:?}); it said:\n{}", self.name, self.output()),
            }
        }
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal; none if it has ended and been waited for, as its id may be somebody else's by then.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running() {
            let _ = kill(Pid::from_raw(self.id().cast_signed()), signal);
        }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Output {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, stream: impl Read) {
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = Vec::new();
            let read = reader.by_ref().take(LINE).read_until(b'\n', &mut line);
            let mut kept = self.kept();
            match read {
                Ok(0) | Err(_) => {
                    kept.ended_streams += 1;
                    self.grown.notify_all();
                    return;
                }
                Ok(_) => kept.push(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned()),
            }
            self.grown.notify_all();
        }
    }
}

impl Kept {
    fn push(&mut self, line: String) {
        self.bytes += line.len() + 1;
        self.lines.push_back(line);
        while self.bytes > KEPT {
            let Some(oldest) = self.lines.pop_front() else {
                return;
            };
            self.bytes -= oldest.len() + 1;
        }
    }

    fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn lines_are_found_before_and_after_they_come() {
        let mut proc = Proc::spawn(Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]));
        assert_eq!(proc.wait_for_line("tw", SOON), "two");
        assert_eq!(proc.wait_for_line("one", SOON), "one");
        assert_eq!(proc.wait(SOON).code(), Some(3));
    }

    #[test]
    fn output_is_kept_within_bounds() {
        let mut proc = Proc::spawn(
            Command::new("sh").args(["-c", "head -c 2000000 /dev/zero | tr '\\0' x | fold -w 999; echo; echo done"]),
        );
        proc.wait_for_line("done", SOON);
        assert!(proc.output().len() <= KEPT);
        assert!(proc.wait(SOON).success());
    }

    #[test]
    fn a_process_ends_with_its_owner() {
        let proc = Proc::spawn(Command::new("sleep").arg("600"));
        let pid = proc.id();
        drop(proc);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    #[should_panic(expected = "no line with \"never\"")]
    fn a_line_that_cannot_come_any_more_fails_at_once() {
        let proc = Proc::spawn(&mut Command::new("true"));
        let _ = proc.wait_for_line("never", Duration::from_secs(3600));
    }
}
