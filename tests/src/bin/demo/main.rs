//! `make demo`: a mesh on one machine, walked through step by step with real figures.
//!
//! Invariant: this process starts a second one that does everything, and cleans up after it however it ends: by itself,
//! by Ctrl-C, by a panic or a kill. The exit status says whether every step held.
//! Non-goal: building; the Makefile does that.

#![forbid(unsafe_code)]

mod more;
mod scene;
mod steer;
mod steps;
mod wire;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid};

/// In the folder of the second process: its exit status, once it only waits to be ended.
const VERDICT: &str = "verdict";
/// Ended before there was a verdict, as a shell says it for Ctrl-C.
const INTERRUPTED: u8 = 130;

/// In seconds. By itself the demo ends long before; if it runs for this long, something hangs.
const LONGEST: u32 = 120;

#[derive(Parser)]
#[command(about = "Shows the mesh at work in network namespaces of this machine; needs root")]
struct Options {
    /// Leave everything running at the end, and say what to try
    #[arg(long, env = "KEEP", value_parser = clap::builder::FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    keep: bool,
    /// Write what each program said into this folder at the end
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// Walk through, with files in this folder; the demo starts itself like that
    #[arg(long, hide = true)]
    inside: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    if !geteuid().is_root() {
        eprintln!("The demo makes network namespaces and redirect rules in them, which needs root: sudo make demo");
        return Ok(ExitCode::from(77));
    }
    match &options.inside {
        Some(dir) => play(dir, &options),
        None => supervise(&options),
    }
}

/// The second process.
fn play(dir: &Path, options: &Options) -> anyhow::Result<ExitCode> {
    // Blocked by the first process for itself; the programs of the mesh want their signals.
    SigSet::all().thread_unblock()?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    Ok(scene::play(dir, options))
}

/// Leaves the exit status for the first process, which is about to end this one.
fn record(dir: &Path, verdict: u8) {
    let written = fs::write(dir.join(VERDICT), verdict.to_string());
    written.unwrap_or_else(|error| eprintln!("the verdict is not kept: {error}"));
}

fn recorded(dir: &Path) -> Option<u8> {
    fs::read_to_string(dir.join(VERDICT)).ok()?.parse().ok()
}

/// Starts the second process, waits for its end or ours, and removes what is left.
fn supervise(options: &Options) -> anyhow::Result<ExitCode> {
    // Blocked before anything starts, so that none is lost.
    let ends = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGALRM];
    let signals = SigSet::from_iter(ends.into_iter().chain([Signal::SIGCHLD]));
    signals.thread_block()?;
    if !options.keep {
        nix::unistd::alarm::set(LONGEST);
    }
    let dir = tempfile::Builder::new().prefix("mesh-demo-").tempdir()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--inside").arg(dir.path()).args(options.keep.then_some("--keep"));
    if let Some(logs) = &options.logs {
        command.arg("--logs").arg(logs);
    }
    // A group of its own: Ctrl-C is for us, and what it starts is ended by the sweep.
    command.process_group(0);
    let child = command.spawn().context("the demo's second process")?;
    let child = Pid::from_raw(child.id().cast_signed());
    let status = watch(child, &signals, dir.path());
    mesh_tests::netns::sweep();
    status
}

fn watch(child: Pid, signals: &SigSet, dir: &Path) -> anyhow::Result<ExitCode> {
    loop {
        let signal = signals.wait()?;
        if signal != Signal::SIGCHLD {
            nix::sys::signal::kill(child, Signal::SIGKILL)?;
            waitpid(child, None)?;
            eprintln!("\n{signal}: ending, cleaning up");
            return Ok(ExitCode::from(recorded(dir).unwrap_or(INTERRUPTED)));
        }
        match waitpid(child, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Exited(_, code) => return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
            WaitStatus::Signaled(_, signal, _) => {
                eprintln!("the demo broke off: {signal}");
                return Ok(ExitCode::FAILURE);
            }
            _ => {}
        }
    }
}
