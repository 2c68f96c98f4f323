//! `mesh-destination`: see the library.
//!
//! Invariant: a bad command line ends with status 64, a failure with 1. Non-goal: anything that could be in the
//! library.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use mesh_destination::cli::{Cli, Command, Serve};
use mesh_destination::{app, validate};
use mesh_kit::env::EXIT_USAGE;

fn main() -> ExitCode {
    // What reading manifests leaves is used for proxies.
    mesh_kit::memory::share_one_heap();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match (cli.command, cli.serve) {
        (Some(Command::Validate { path }), _) => check(&path),
        (None, Some(serve)) => match run(serve) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("mesh-destination: {error:#}");
                ExitCode::FAILURE
            }
        },
        (None, None) => {
            let missing = "--manifests, --identity-addr, --trust-anchors and --token-file are required";
            usage(&Cli::command().error(ErrorKind::MissingRequiredArgument, missing))
        }
    }
}

fn check(path: &Path) -> ExitCode {
    match validate::validate(path) {
        Ok(verdict) => {
            print!("{verdict}");
            eprintln!("{}", verdict.summary());
            if verdict.is_usable() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("mesh-destination: {error}");
            EXIT_USAGE.into()
        }
    }
}

fn run(serve: Serve) -> anyhow::Result<()> {
    // One thread does everything but look at files, for which another comes and goes.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(4).thread_keep_alive(Duration::from_secs(1));
    let runtime = runtime.on_thread_park(mesh_kit::memory::at_rest);
    let runtime = runtime.build().context("runtime")?;
    let served = runtime.block_on(app::serve(serve));
    // A look at a file system that hangs does not hold the end up.
    runtime.shutdown_background();
    served
}

fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        eprint!("{}", mesh_kit::args::printable(error.render().to_string(), std::env::args_os()));
        return EXIT_USAGE.into();
    }
    // Nothing can be done when the terminal is gone.
    let _ = error.print();
    ExitCode::SUCCESS
}
