//! A host that is gone without a word: whatever is sent to it is lost, and nobody says so.
//!
//! Invariant: it is found out in time, requests that were on their way there are answered by others, and it comes back.
//! Non-goal: requests that may not be sent twice; those are answered with an error.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_tests::client::load::Load;
use mesh_tests::mesh::Mesh;
use mesh_tests::netns::{Filter, until};
use mesh_tests::yardstick::{Process, Who, record};

use super::{HTTP, PAUSE, SOON, answers, endpoint, is_failing, longest, takes, unharmed};

/// The promise, and a little for the machine.
const DETECTED: Duration = Duration::from_secs(30);
/// How long a client waits: beyond this a request hangs.
const PATIENCE: Duration = Duration::from_secs(35);

/// A mesh with two endpoints of the service `web`, and its address.
fn mesh(meshed: bool) -> (Mesh, SocketAddr) {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    for name in ["web-1", "web-2"] {
        endpoint(&mut mesh, name, "web", meshed);
    }
    let addr = mesh.service("web", 80, HTTP).add().v4;
    mesh.start();
    (mesh, addr)
}

fn goes_silent(meshed: bool, case: &str) {
    let (mesh, addr) = mesh(meshed);
    let load = Load::patient(&mesh.get("client").host, addr, 16, PAUSE, PATIENCE);
    answers(&load, 300);
    let process = Process(mesh.get("client").proxy().and_then(mesh_tests::mesh::Daemon::pid).expect("a sidecar"));
    let (threads, files) = (process.threads(), process.files());
    let hole = Filter::deaf(&mesh.get("web-1").host, &mesh.get("client").host);
    let detected = takes(DETECTED, || is_failing(&mesh, "client", addr, "web-1"));
    println!("{case}: found out after {detected:?}");
    // From now on nobody waits for it: the others serve all.
    answers(&load, 300);
    if meshed {
        until(DETECTED, || mesh.get("client").metric("mesh_errors_total", &[("reason", "silent")]) > 0.0);
        let given_up = mesh.get("client").metric("mesh_errors_total", &[("reason", "silent")]);
        assert!(given_up <= 1.0, "one tunnel was lost, {given_up} counted");
    }
    drop(hole);
    until(SOON, || !is_failing(&mesh, "client", addr, "web-1"));
    answers(&load, 300);
    let report = unharmed(load);
    let longest = longest(&report);
    println!("{case}: {} requests, the longest took {longest:?}", report.answered);
    assert!(longest <= DETECTED, "a request hung for {longest:?}");
    // Names are looked up on threads that stay for a moment.
    until(2 * SOON, || process.threads() <= threads && process.files() <= files + 5);
    let figure = format!("found out in {detected:.1?}, 0 of {} failed, longest {longest:.1?}", report.answered);
    record(57, case, Who::Mesh, true, &figure);
}

#[test]
fn r57_f11_a_sidecar_that_is_gone_without_a_word_is_found_out_and_left() {
    goes_silent(true, "black hole, both sidecars");
}

#[test]
fn r57_f11_a_plain_endpoint_that_is_gone_without_a_word_is_found_out_and_left() {
    goes_silent(false, "black hole, plain endpoint");
}
