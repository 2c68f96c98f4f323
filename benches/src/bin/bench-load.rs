//! `bench-load`: a load, and one line of JSON about it.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::time::Instant;

use anyhow::Context as _;
use clap::Parser as _;
use mesh_benches::load::cli::{Load, Options, Time, To};
use mesh_benches::load::client::Protocol;
use mesh_benches::load::tally::Tally;
use mesh_benches::load::{churn, grpc, hold, rate};
use serde::Serialize;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    mesh_kit::limits::raise_files()?;
    let start = Instant::now();
    let tally = run(options.load).await.unwrap_or_else(|error| {
        let mut tally = Tally::default();
        tally.fail(&error);
        tally
    });
    if let Some(failure) = &tally.failure {
        eprintln!("bench-load: {} errors; the first: {failure}", tally.errors);
    }
    print(&tally.summary(start.elapsed()))
}

async fn run(load: Load) -> anyhow::Result<Tally> {
    match load {
        Load::Rate { proto, to, rate, time: Time { seconds }, connections } => {
            rate::run(&rate::Plan { protocol: proto, target: to.into(), rate, seconds, connections }).await
        }
        Load::Churn { proto, to, at_once, time } => churn::run(proto, &to.into(), at_once, time.seconds).await,
        Load::Hold { proto, to, count } => hold(proto, to, count).await,
        Load::Grpc { mode, to, connections, concurrency, time: Time { seconds } } => {
            grpc::run(&grpc::Plan { mode, target: to.target, connections, concurrency, seconds }).await
        }
    }
}

async fn hold(proto: Protocol, to: To, count: usize) -> anyhow::Result<Tally> {
    let held = hold::open(proto, &to.into(), count).await?;
    print(&held.line())?;
    let (released, wait) = tokio::sync::oneshot::channel();
    // A thread of its own: the runtime would wait for one of its own that reads stdin.
    std::thread::spawn(move || {
        drop(std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
        // Nobody waits any more once the load has ended otherwise.
        let _ = released.send(());
    });
    wait.await.context("stdin")?;
    Ok(held.close())
}

fn print(line: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(line)?)?;
    Ok(out.flush()?)
}
