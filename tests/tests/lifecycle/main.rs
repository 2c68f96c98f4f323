//! Programs of the mesh that come and go while traffic flows: the control plane, sidecars, endpoints.
//!
//! Invariant: load runs before, during and after each event, and every request that fails is counted.
//! Non-goal: how long things take, beyond the bounds that are promised.

mod control;
mod conversations;
mod drain;
mod expiry;
mod rollout;
mod rotation;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mesh_tests::client::load::{Load, Report};
use mesh_tests::mesh::{App, Mesh, SOON};
use mesh_tests::netns::until;
use mesh_tests::yardstick::count;
use serde_json::Value;

const HTTP: u16 = 8000;
const GRPC: u16 = 9000;
const TCP: u16 = 7000;

/// A pause between the requests of one connection: a steady load that leaves the machine to others.
const PAUSE: Duration = Duration::from_millis(5);

/// Adds an endpoint of the service `web`, with an app for each kind of conversation.
fn replica(mesh: &mut Mesh, name: &str) {
    let named = format!("--name={name}");
    let spec = mesh.workload(name).of("web").app(App::demo("demo-http", HTTP, &[&named]));
    let spec = spec.app(App::demo("demo-grpc", GRPC, &[&named]));
    spec.app(App::demo("demo-greet", TCP, &[&named, "--mode=echo"])).add();
}

/// A client and endpoints of the service `web`, not started, and the service's address.
fn mesh(replicas: &[&str]) -> (Mesh, SocketAddr) {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    for name in replicas {
        replica(&mut mesh, name);
    }
    let service = mesh.service("web", 80, HTTP).add();
    (mesh, service.v4)
}

/// A load of HTTP/1.1 requests from the client's app.
fn load(mesh: &Mesh, addr: SocketAddr) -> Load {
    Load::start(&mesh.get("client").host, addr, 8, PAUSE)
}

/// Waits for so many more answers, with a time for each on a busy machine.
fn answers(load: &Load, more: u64) {
    let enough = load.answered() + more;
    until(SOON + Duration::from_millis(20 * more), || load.answered() >= enough);
}

/// How long somebody is absent whom nobody may miss.
fn absence() -> Duration {
    count(Duration::ZERO, Duration::from_secs(600))
}

/// Waits for so many more answers, and until the absence is over.
fn absent(load: &Load, more: u64) {
    let begun = Instant::now();
    answers(load, more);
    while begun.elapsed() < absence() {
        answers(load, more);
    }
}

/// Ends the load, of which nothing may have failed.
fn unharmed(load: Load) -> Report {
    let report = load.stop();
    println!("{} answered, {} failed", report.answered, report.failed);
    assert!(
        report.failed == 0 && report.answered > 0,
        "{} failed of {}: {:#?}",
        report.failed,
        report.answered,
        report.failures
    );
    report
}

/// The addresses that the sidecar of `workload` knows behind `dialed`.
fn endpoints(mesh: &Mesh, workload: &str, dialed: SocketAddr) -> Vec<String> {
    let state = mesh.get(workload).state();
    let target = find(&state, &|value| value["address"] == dialed.to_string()).unwrap_or(&Value::Null);
    let endpoints = target["endpoints"].as_array().into_iter().flatten();
    let mut addrs: Vec<_> = endpoints.filter_map(|endpoint| endpoint["addr"].as_str()).map(str::to_owned).collect();
    addrs.sort();
    addrs
}

/// The first value within `value` for which `holds`.
fn find<'a>(value: &'a Value, holds: &impl Fn(&Value) -> bool) -> Option<&'a Value> {
    if holds(value) {
        return Some(value);
    }
    match value {
        Value::Array(values) => values.iter().find_map(|value| find(value, holds)),
        Value::Object(fields) => fields.values().find_map(|value| find(value, holds)),
        _ => None,
    }
}
