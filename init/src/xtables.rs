//! The iptables programs: read a family's tables, apply a transaction to them.
//!
//! Invariant: each run ends by a deadline, gets its input by pipe and its arguments as a vector; no shell is involved.

use std::fmt;
use std::io::{self, Read, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mesh_init::{Family, Ruleset};

/// Grace beyond the wait for the lock.
const MARGIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);

/// The two implementations of iptables, whose tables are apart from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Nft,
    Legacy,
}

/// One family's tables in one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tables {
    pub(crate) backend: Backend,
    pub(crate) family: Family,
    pub(crate) wait_seconds: u32,
}

/// What [`Tables::read`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) ours: Ruleset,
    /// Rules of anybody in any table.
    pub(crate) rules: usize,
}

/// A program that did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{program} cannot be run: {source}")]
    Spawn { program: String, source: io::Error },
    #[error("{program} did not end within {seconds} s and was killed; raise --wait if others hold the lock that long")]
    Late { program: String, seconds: u64 },
    #[error("{program} failed with {status}: {stderr}")]
    Failed { program: String, status: std::process::ExitStatus, stderr: String },
}

impl Tables {
    /// Lists what is there, without creating any table.
    pub(crate) fn read(self) -> Result<Found, Error> {
        let save = run(&format!("{}-save", self.program()), &[], "", self.patience())?;
        Ok(Found { ours: Ruleset::parse(&save), rules: save.lines().filter(|line| line.starts_with("-A")).count() })
    }

    /// Applies one transaction, wholly or not at all.
    pub(crate) fn restore(self, transaction: &str) -> Result<(), Error> {
        let args = self.restore_args();
        run(&format!("{}-restore", self.program()), &[&args[0], &args[1]], transaction, self.patience()).map(drop)
    }

    /// The command that [`Tables::restore`] runs, for a reader.
    pub(crate) fn restore_command(self) -> String {
        format!("{}-restore {}", self.program(), self.restore_args().join(" "))
    }

    fn restore_args(self) -> [String; 2] {
        ["--noflush".to_owned(), format!("--wait={}", self.wait_seconds)]
    }

    fn program(self) -> String {
        let family = if self.family == Family::V6 { "ip6tables" } else { "iptables" };
        format!("{family}-{}", self.backend)
    }

    fn patience(self) -> Duration {
        Duration::from_secs(self.wait_seconds.into()) + MARGIN
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        })
    }
}

impl fmt::Display for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program())
    }
}

/// Runs `program` with `input` and returns what it prints.
pub(crate) fn run(program: &str, args: &[&str], input: &str, patience: Duration) -> Result<String, Error> {
    let spawn = |source| Error::Spawn { program: program.to_owned(), source };
    let piped = Stdio::piped;
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C").stdin(piped()).stdout(piped()).stderr(piped());
    let mut child = command.spawn().map_err(spawn)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        // A program that ends early closes the pipe; its exit status tells the story better than the broken pipe.
        scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input.as_bytes())));
        let stdout = scope.spawn(move || text(stdout));
        let stderr = scope.spawn(move || text(stderr));
        let status = wait(&mut child, patience).map_err(spawn)?;
        let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
        match status {
            None => Err(Error::Late { program: program.to_owned(), seconds: patience.as_secs() }),
            Some(status) if status.success() => Ok(stdout),
            Some(status) => Err(Error::Failed {
                program: program.to_owned(),
                status,
                stderr: stderr.split_whitespace().collect::<Vec<_>>().join(" "),
            }),
        }
    })
}

/// Waits for the end of `child`, or kills it when `patience` is over.
fn wait(child: &mut Child, patience: Duration) -> io::Result<Option<std::process::ExitStatus>> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

fn text(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    // What was read before an error is still worth showing.
    let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_killed_at_the_deadline() {
        let error = run("sleep", &["60"], "", Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, Error::Late { .. }), "{error}");
    }

    #[test]
    fn a_failure_carries_status_and_message_on_one_line() {
        let error = run("sh", &["-c", "cat >&2; exit 3"], "two\nlines", MARGIN).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("two lines"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run("no-such-iptables", &[], "", MARGIN).unwrap_err().to_string();
        assert!(error.contains("no-such-iptables"), "{error}");
    }
}
