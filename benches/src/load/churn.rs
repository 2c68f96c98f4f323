//! A connection for each request, a number of them at a time.
//!
//! Invariant: the server closes first, so that no port of ours waits in TIME_WAIT: a run is never out of ports.
//! Non-goal: a fixed rate; each answer begins the next request.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinSet;

use super::client::{self, Protocol, Target};
use super::tally::Tally;

/// Pause after a failure, lest a refused connect becomes a loop that spins.
const PAUSE: Duration = Duration::from_millis(10);

/// Runs the load until `seconds` are over; requests that run then are finished and counted.
///
/// # Errors
/// When a client panics.
pub async fn run(protocol: Protocol, target: &Target, at_once: usize, seconds: u32) -> anyhow::Result<Tally> {
    let end = Instant::now() + Duration::from_secs(seconds.into());
    let mut working: JoinSet<_> = (0..at_once).map(|_| work(protocol, target.clone(), end)).collect();
    let mut tally = Tally::default();
    while let Some(done) = working.join_next().await {
        tally.merge(done.context("a client")?);
    }
    Ok(tally)
}

async fn work(protocol: Protocol, target: Target, end: Instant) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < end {
        let errors = tally.errors;
        tally.add(Instant::now(), client::once(protocol, &target).await);
        if tally.errors > errors {
            tokio::time::sleep(PAUSE).await;
        }
    }
    tally
}
