//! Endpoints that die, go and come under load.
//!
//! Invariant: no request fails, whatever happens to one endpoint of several; requests are idempotent.
//! Non-goal: requests that may not be sent twice.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use mesh_tests::client::http::{Version, fetch};
use mesh_tests::client::within;
use mesh_tests::mesh::{App, Mesh, PROXY_UID, SOON};
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Who, count, record};
use nix::sys::signal::Signal;
use nix::unistd::Uid;

use super::conversations::{Conversations, Kind};
use super::{GRPC, HTTP, TCP, answers, endpoints, load, mesh, replica, unharmed};

fn known(mesh: &Mesh, addr: std::net::SocketAddr, names: &[&str]) -> bool {
    let mut expected: Vec<_> = names.iter().map(|name| mesh.get(name).at(HTTP)[0].to_string()).collect();
    expected.sort();
    endpoints(mesh, "client", addr) == expected
}

#[test]
fn an_endpoint_is_killed_removed_and_replaced_without_a_failed_request() {
    let (mut mesh, addr) = mesh(&["web-1", "web-2", "web-3"]);
    mesh.start();
    let load = load(&mesh, addr);
    answers(&load, 300);
    // The whole host goes, without a word.
    mesh.get_mut("web-1").kill();
    answers(&load, 500);
    mesh.withdraw("web-1");
    until(SOON, || known(&mesh, addr, &["web-2", "web-3"]));
    replica(&mut mesh, "web-4");
    until(SOON, || known(&mesh, addr, &["web-2", "web-3", "web-4"]));
    answers(&load, 500);
    // One that lives is taken out, and finishes what it has.
    mesh.withdraw("web-2");
    until(SOON, || known(&mesh, addr, &["web-3", "web-4"]));
    answers(&load, 300);
    mesh.publish("web-2");
    until(SOON, || known(&mesh, addr, &["web-2", "web-3", "web-4"]));
    answers(&load, 300);
    let report = unharmed(load);
    println!("shares: {:?}", report.micros.iter().map(|(name, micros)| (name, micros.len())).collect::<Vec<_>>());
    for name in ["web-1", "web-2", "web-3", "web-4"] {
        assert!(report.micros.contains_key(name), "{name} was never asked");
    }
}

/// Nothing but what the load asks for, and with a token that identity knows, so that it starts soon.
fn quick_replica(mesh: &mut Mesh, name: &str, token: &Path) {
    let app = App::demo("demo-http", HTTP, &[&format!("--name={name}")]);
    mesh.workload(name).of("web").app(app).token(token).add();
}

/// All endpoints are replaced, again and again: who is new is ready before it is listed, who is old is taken out before it ends.
#[test]
fn r55_f15_generations_of_endpoints_follow_each_other_without_a_failed_request() {
    const REPLICAS: u64 = 2;
    let (generations, requests) = count((10, 6_000), (10, 100_000));
    let named = |generation: u64| (0..REPLICAS).map(move |n| format!("web-{generation}-{n}"));
    let (mut mesh, addr) = mesh(&[]);
    let token = mesh.control().token("default", "web", Uid::from_raw(PROXY_UID));
    named(0).for_each(|name| quick_replica(&mut mesh, &name, &token));
    mesh.start();
    let load = load(&mesh, addr);
    answers(&load, 300);
    for generation in 1..=generations {
        named(generation).for_each(|new| quick_replica(&mut mesh, &new, &token));
        until(SOON, || endpoints(&mesh, "client", addr).len() == 2 + 2);
        named(generation - 1).for_each(|old| mesh.withdraw(&old));
        until(SOON, || endpoints(&mesh, "client", addr).len() == 2);
        named(generation - 1).for_each(|old| mesh.get_mut(&old).proxy_mut().signal(Signal::SIGTERM));
        for old in named(generation - 1) {
            let status = mesh.get_mut(&old).proxy_mut().wait(Duration::from_secs(30));
            assert!(status.success(), "{old}: {status}");
            mesh.get_mut(&old).kill();
        }
        let share = requests * generation / generations;
        until(6 * SOON, || load.answered() >= share);
    }
    let report = unharmed(load);
    for name in (0..=generations).flat_map(named) {
        assert!(report.micros.contains_key(&name), "{name} was never asked");
    }
    let figure = format!("{generations} generations, 0 of {} failed", report.answered);
    record(55, "rollout", Who::Mesh, true, &figure);
}

/// A sidecar that has just started knows nothing of the service that is asked for many times at once.
#[test]
fn the_first_requests_of_a_new_sidecar_are_answered() {
    const REQUESTS: u64 = 64;
    let (mut mesh, addr) = mesh(&["web-1", "web-2"]);
    mesh.start();
    for round in 0..20 {
        mesh.get_mut("client").proxy_mut().restart();
        mesh.get("client").until_proxy_ready();
        let answers = within(&mesh.get("client").host, async {
            // Four in each millisecond, so that some come at every step of what the sidecar learns.
            let requests = (0..REQUESTS).map(|n| async move {
                tokio::time::sleep(Duration::from_millis(n / 4)).await;
                fetch(addr, Version::H1, "/bytes?n=100").await
            });
            join_all(requests).await
        });
        for answer in answers {
            let answer = answer.unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert_eq!(answer.status, 200, "round {round}: {:?}", answer.headers);
        }
    }
}

#[test]
fn a_removed_endpoint_finishes_what_it_has() {
    let (mut mesh, http) = mesh(&["web-1", "web-2"]);
    let grpc = mesh.service("web-grpc", GRPC, GRPC).over("web").add().v4;
    let tcp = mesh.service("web-tcp", TCP, TCP).over("web").add().v4;
    mesh.start();
    let kinds = [(Kind::Grpc, grpc), (Kind::Tcp, tcp), (Kind::WebSocket, http)];
    let kinds: Vec<_> = kinds.into_iter().flat_map(|kind| [kind; 6]).collect();
    let conversations = Conversations::start(&mesh.get("client").host, &kinds);
    until(SOON, || conversations.least() >= 5);
    let held = || mesh.get("web-2").metric("mesh_tcp_connections_open", &[("direction", "inbound")]);
    let before = held();
    assert!(before > 0.0, "no lasting connection came to the endpoint that is to be removed");
    mesh.withdraw("web-2");
    until(SOON, || known(&mesh, http, &["web-1"]));
    let now = conversations.least();
    until(SOON, || conversations.least() >= now + 50);
    assert_eq!(held().to_bits(), before.to_bits(), "lasting connections of the removed endpoint");
    let broken = conversations.stop();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn an_app_that_dies_behind_its_sidecar_costs_no_request() {
    let (mut mesh, addr) = mesh(&["web-1", "web-2"]);
    mesh.start();
    let load = load(&mesh, addr);
    answers(&load, 300);
    for _ in 0..3 {
        mesh.get_mut("web-1").app_mut(0).kill();
        answers(&load, 200);
        mesh.get_mut("web-1").app_mut(0).restart();
        mesh.get_mut("web-1").app_mut(0).wait_for_line("listening", SOON);
        answers(&load, 200);
    }
    unharmed(load);
}

#[test]
fn a_sidecar_is_restarted_again_and_again_without_a_failed_request() {
    let (mut mesh, addr) = mesh(&["web-1", "web-2"]);
    mesh.start();
    let load = load(&mesh, addr);
    answers(&load, 300);
    for _ in 0..3 {
        let status = mesh.get_mut("web-1").proxy_mut().terminate(Duration::from_secs(30));
        assert!(status.success(), "{status}");
        answers(&load, 100);
        mesh.get_mut("web-1").proxy_mut().restart();
        mesh.get("web-1").until_proxy_ready();
        answers(&load, 100);
    }
    unharmed(load);
}
