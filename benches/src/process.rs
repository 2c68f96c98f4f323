//! A program in a namespace: started without privileges, its words in a file, its end tied to its owner's.
//!
//! Invariant: it ends with its [`Program`], and with the bench even if that is killed; no wait is without a deadline.
//! Non-goal: supervision.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use mesh_tests::mesh::PROXY_UID;
use mesh_tests::netns::Host;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// As many files as the system lets us open, within this: two for each of 9,000 connections, and room.
const FILES: u64 = 65_536;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const POLL: Duration = Duration::from_millis(5);
/// What a program that is told to end may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// What an error shows of a program's words.
const SHOWN: usize = 2000;

/// Who runs a program.
#[derive(Clone, Copy, Debug)]
pub enum User {
    /// Root: applications and generators of load.
    Root,
    /// The sidecar's user, whose traffic no rule redirects.
    Proxy,
}

/// A running program. Dropped, it is asked to end, and killed when it does not.
pub struct Program {
    child: Child,
    name: String,
    said: PathBuf,
}

/// The command that becomes `program` in the namespace of `host`.
///
/// `nsenter`, `prlimit` and `setpriv` replace themselves, so that the process is the program's own.
pub fn command(host: &Host, user: User, program: impl AsRef<OsStr>) -> Command {
    let mut command = host.command("prlimit");
    let files = files();
    // What this process was told is none of the program's business.
    command.env_clear().env("PATH", PATH);
    command.args([&format!("--nofile={files}:{files}"), "setpriv", "--pdeathsig=KILL"]);
    if let User::Proxy = user {
        command.args([format!("--reuid={PROXY_UID}"), format!("--regid={PROXY_UID}"), "--clear-groups".to_owned()]);
    }
    command.arg("--").arg(program);
    command
}

/// How many files a program may open.
#[must_use]
pub fn files() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    hard_limit(&limits).map_or(FILES, |most| most.min(FILES))
}

/// The hard limit of open files; none if there is no limit.
fn hard_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

impl Program {
    /// Starts `command`; its words go to a file in `folder`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, mut command: Command, folder: &Path) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let said = folder.join(format!("{name}-{}.log", COUNT.fetch_add(1, Ordering::Relaxed)));
        let file = File::create(&said).with_context(|| format!("{}", said.display()))?;
        let other = file.try_clone()?;
        let child = command.stdin(Stdio::piped()).stdout(file).stderr(other).spawn();
        let child = child.with_context(|| format!("starting {name} ({:?} is needed)", command.get_program()))?;
        Ok(Self { child, name: name.to_owned(), said })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far.
    #[must_use]
    pub fn said(&self) -> String {
        let bytes = fs::read(&self.said).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Its input; closing it tells some programs to end.
    pub fn input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// The error of a program that did not do what it should.
    fn failure(&self, what: &str) -> anyhow::Error {
        let said = self.said();
        let start = said.len().saturating_sub(SHOWN);
        let last = said.get(start..).unwrap_or(&said);
        anyhow::anyhow!("{}: {what}; it said: {}", self.name, last.trim())
    }

    /// Waits until `is_so`.
    ///
    /// # Errors
    /// When it ends, or when that takes longer than `within`.
    pub fn until(&mut self, what: &str, within: Duration, mut is_so: impl FnMut(&Self) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + within;
        while !is_so(self) {
            if let Some(status) = self.child.try_wait()? {
                bail!(self.failure(&format!("ended ({status}) before: {what}")));
            }
            ensure!(Instant::now() < deadline, self.failure(&format!("not within {within:?}: {what}")));
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Waits for its end; its words.
    ///
    /// # Errors
    /// When it fails, or takes longer than `within`.
    pub fn finish(mut self, within: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + within;
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() < deadline => thread::sleep(POLL),
                None => bail!(self.failure(&format!("no end within {within:?}"))),
            }
        };
        ensure!(ExitStatus::success(&status), self.failure(&status.to_string()));
        Ok(self.said())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.id().cast_signed()), Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hard_limit_is_the_second_number() {
        let limits = "Limit   Soft Limit  Hard Limit  Units\nMax open files   1024   20000   files\n";
        assert_eq!(hard_limit(limits), Some(20_000));
        assert_eq!(hard_limit("Max open files   1024   unlimited   files\n"), None);
    }
}
