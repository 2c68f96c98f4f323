//! Micro benches: what single steps of the sidecar cost in time, allocations and bytes. `cargo bench -p mesh-benches`.
//!
//! Invariant: time is criterion's, allocations are of the thread that runs the step; C libraries' are not counted.
//! Non-goal: the whole; `make bench` has sidecars as they are.

mod choices;
mod framing;
mod meter;
mod metrics;
mod pair;

use std::sync::Arc;

use anyhow::Context as _;
use mesh_tests::netns::Net;
use mesh_tests::pair::Pair;
use meter::Meter;

fn main() -> anyhow::Result<()> {
    // A sidecar delivers to no loopback address, so this needs one that is none, and root for it.
    let net = Net::new();
    let host = net.host("micro");
    host.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let pair = Arc::new(Pair::start(&runtime, host.v4.into()).context("a pair of sidecars")?);
        let mut meter = Meter::new(runtime);
        choices::detect(&mut meter)?;
        choices::pick(&mut meter, &pair);
        choices::route(&mut meter, &pair);
        metrics::all(&mut meter)?;
        framing::all(&mut meter)?;
        pair::all(&mut meter, &pair);
        meter.report()
    })
}
