//! Faults of the network, of programs and of what discovery says, each made for real: packets dropped, processes stopped,
//! addresses reused, registries torn.
//!
//! Invariant: load runs before, during and after each fault, and every request that fails, or waits too long, is counted.
//! Non-goal: programs that end; `lifecycle` has those.

mod blackhole;
mod flapping;
mod gone;
mod negatives;
mod oracle;
mod partition;
mod registry;
mod silent;
mod stale;
mod stopped;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mesh_tests::client::load::{Load, Report};
use mesh_tests::mesh::{App, Mesh};
use mesh_tests::netns::until;
use serde_json::Value;

const HTTP: u16 = 8000;
/// A pause between the requests of one connection: a steady load that leaves the machine to others.
const PAUSE: Duration = Duration::from_millis(10);
/// For what takes a moment, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// An endpoint of the service `of`, with a sidecar or without.
fn endpoint(mesh: &mut Mesh, name: &str, of: &str, meshed: bool) {
    let app = App::demo("demo-http", HTTP, &[&format!("--name={name}")]);
    let spec = mesh.workload(name).of(of).app(app);
    if meshed {
        spec.add()
    } else {
        spec.plain().add()
    };
}

/// Waits for so many more answers, of which one comes in 10 ms at the least: where packets are lost, few come in a second.
fn answers(load: &Load, more: u64) {
    let enough = load.answered() + more;
    until(2 * SOON + Duration::from_millis(10 * more), || load.answered() >= enough);
}

/// Ends the load, of which nothing may have failed.
fn unharmed(load: Load) -> Report {
    let report = load.stop();
    println!("{} answered, {} failed", report.answered, report.failed);
    let (failed, all) = (report.failed, report.answered);
    assert!(failed == 0 && all > 0, "{failed} failed of {all}: {:#?}", report.failures);
    report
}

/// The longest that an answer took.
fn longest(report: &Report) -> Duration {
    let micros = report.micros.values().flatten().copied().max().unwrap_or_default();
    Duration::from_micros(micros.into())
}

/// What `/state` of a sidecar says of each endpoint behind `dialed`.
fn endpoints(mesh: &Mesh, workload: &str, dialed: SocketAddr) -> Vec<Value> {
    let state = mesh.get(workload).state();
    let workers = state["workers"].as_array().cloned().unwrap_or_default();
    let targets =
        workers.iter().flat_map(|worker| worker["outbound"]["targets"].as_array().cloned().unwrap_or_default());
    let target = targets.into_iter().find(|target| target["address"] == dialed.to_string());
    target.and_then(|target| target["endpoints"].as_array().cloned()).unwrap_or_default()
}

/// Whether the sidecar of `workload` calls the endpoint `name` behind `dialed` failing.
fn is_failing(mesh: &Mesh, workload: &str, dialed: SocketAddr, name: &str) -> bool {
    let addr = mesh.get(name).at(HTTP)[0].to_string();
    endpoints(mesh, workload, dialed).iter().any(|endpoint| endpoint["addr"] == addr && endpoint["failing"] == true)
}

/// How long it takes until `holds`, which must be within `limit`.
#[track_caller]
fn takes(limit: Duration, holds: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    until(limit, holds);
    begin.elapsed()
}
