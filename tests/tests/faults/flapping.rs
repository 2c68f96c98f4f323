//! Endpoints that come and go all the time.
//!
//! Invariant: requests are served by those that are there, and nothing grows: memory, connections, series.
//! Non-goal: endpoints that are listed and dead; `gone` has those.

use std::time::{Duration, Instant};

use mesh_tests::client::load::Load;
use mesh_tests::mesh::{Daemon, Mesh};
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Bystander, Process, Who, count, record};

use super::{HTTP, PAUSE, SOON, answers, endpoint, unharmed};

/// Changes a second.
const RATE: u32 = 50;
const MOST: u64 = 16 << 10;

#[test]
fn f8_endpoints_that_flap_cost_no_request_and_leave_nothing_behind() {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    let flapping = ["web-2", "web-3", "web-4"];
    endpoint(&mut mesh, "web-1", "web", true);
    flapping.iter().for_each(|name| endpoint(&mut mesh, name, "web", true));
    let addr = mesh.service("web", 80, HTTP).add().v4;
    mesh.start();
    let client = mesh.get("client").host.clone();
    let load = Load::start(&client, addr, 8, PAUSE);
    let bystander = Bystander::start(&client, addr);
    answers(&load, 300);
    let process = Process(mesh.get("client").proxy().and_then(Daemon::pid).expect("a sidecar"));
    let series = || mesh.get("client").metric("mesh_series", &[]);
    let (memory, files, threads, few) = (process.anonymous(), process.files(), process.threads(), series());
    let before = mesh.get("client").metric("mesh_discovery_updates_total", &[("kind", "endpoints")]);
    let (begin, lasts) = (Instant::now(), Duration::from_secs(count(10, 300)));
    let mut changes = 0;
    while begin.elapsed() < lasts {
        let name = flapping[changes as usize % flapping.len()];
        if changes / 3 % 2 == 0 {
            mesh.withdraw(name)
        } else {
            mesh.publish(name)
        }
        changes += 1;
        let due = begin + Duration::from_secs(1) * changes / RATE;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let during = process.anonymous();
    flapping.iter().for_each(|name| mesh.publish(name));
    until(SOON, || super::endpoints(&mesh, "client", addr).len() == 4);
    let polite = bystander.finish();
    let report = unharmed(load);
    let updates = mesh.get("client").metric("mesh_discovery_updates_total", &[("kind", "endpoints")]) - before;
    println!("{changes} changes, {updates} updates; {polite}; RssAnon {memory} -> {during} KiB");
    assert!(updates >= f64::from(changes) / 10.0, "it hardly flapped: {updates} updates for {changes} changes");
    assert!(during <= memory + MOST, "RssAnon {memory} -> {during} KiB");
    assert!(series() <= few + 10.0, "series: {few} -> {}", series());
    until(2 * SOON, || process.files() <= files + 5 && process.threads() <= threads);
    let figure =
        format!("{changes} changes, 0 of {} failed, +{} KiB; {polite}", report.answered, during.saturating_sub(memory));
    record(62, "F8, flapping endpoints", Who::Mesh, true, &figure);
}
