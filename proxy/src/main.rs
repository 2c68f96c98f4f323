//! `mesh-proxy`: process set-up, and nothing else.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use mesh_kit::scheduling::{self, Policy};
use mesh_kit::shutdown::Shutdown;
use mesh_kit::{limits, log, memory};
use mesh_proxy::app;
use mesh_proxy::config::{self, Scheduling};

#[global_allocator]
static HEAP: memory::Heap = memory::Heap;

const USAGE: u8 = 64;

const HELP: &str = "\
The sidecar of the mesh: takes the connections that mesh-init redirects to it, encrypts them to other sidecars with mutual
TLS, balances each request over the endpoints of its target, and measures.

Usage: mesh-proxy [--help | --version]

It is configured by environment variables only, and ends with status 64 when one of them is bad, 1 when it cannot start.
SIGTERM drains: readiness goes, connections are told to end, requests in flight finish. A second SIGTERM ends at once.
";

fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    match argument.as_deref() {
        None => start(),
        Some("--help" | "-h") => {
            println!("{HELP}\n{}", config::help());
            ExitCode::SUCCESS
        }
        Some("--version" | "-V") => {
            println!("mesh-proxy {}", mesh_kit::build::VERSION);
            ExitCode::SUCCESS
        }
        Some(_) => {
            eprintln!("mesh-proxy takes no arguments but --help and --version; see mesh-proxy --help");
            ExitCode::from(USAGE)
        }
    }
}

fn start() -> ExitCode {
    let config = match config::from_process() {
        Ok(config) => config,
        Err(errors) => {
            for error in errors {
                eprintln!("mesh-proxy: {error}");
            }
            return ExitCode::from(USAGE);
        }
    };
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// For this thread, and those that it starts.
fn schedule(scheduling: Scheduling) {
    if scheduling == Scheduling::Other {
        return;
    }
    match Policy::Batch.take() {
        Ok(()) if scheduling == Scheduling::Auto => scheduling::choose_freely(),
        Ok(()) => {}
        Err(error) => tracing::warn!(%error, "scheduled as it was started, which takes more CPU"),
    }
}

fn run(config: config::Config) -> anyhow::Result<()> {
    memory::keep_the_end();
    let log = log::init(config.log.0, &config.log.1)?;
    if let Err(error) = limits::raise_files() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    schedule(config.scheduling);
    let runtime = app::runtime()?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        app::run(config, log, shutdown).await?;
        anyhow::Ok(())
    })?;
    // What is still open has had its grace.
    runtime.shutdown_background();
    Ok(())
}
