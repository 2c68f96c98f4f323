//! `mesh-identity`: see the library.
//!
//! Invariant: a bad command line ends with status 64, a failure with 1. Non-goal: anything that could be in the
//! library.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use mesh_identity::cli::{Cli, Command, Token};
use mesh_identity::{app, tokens};
use mesh_kit::env::EXIT_USAGE;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let done = match (cli.command, cli.serve) {
        (Some(Command::Token(Token::Add { tokens, id })), _) => match tokens::add(&tokens, &id) {
            Ok(token) => {
                println!("{token}");
                Ok(())
            }
            Err(error) => Err(error.into()),
        },
        (None, Some(serve)) => run(serve),
        (None, None) => {
            let missing = Cli::command().error(ErrorKind::MissingRequiredArgument, "--tokens and a CA are required");
            return usage(&missing);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-identity: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(serve: mesh_identity::cli::Serve) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    let served = runtime.block_on(app::serve(serve));
    // A look at a file system that hangs does not hold the end up.
    runtime.shutdown_background();
    served
}

fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done when the terminal is gone.
    let _ = error.print();
    if error.use_stderr() { EXIT_USAGE.into() } else { ExitCode::SUCCESS }
}
