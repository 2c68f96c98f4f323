//! An address that another workload has by now, while discovery still names the one that had it.
//!
//! Invariant: who answers there must prove to be whom discovery names; else nothing is delivered, and the next endpoint is
//! tried.
//! Non-goal: endpoints without a sidecar, which prove nothing.

use std::net::SocketAddr;
use std::process::Command;

use mesh_tests::client::http::{Version, fetch};
use mesh_tests::client::load::Load;
use mesh_tests::client::within;
use mesh_tests::mesh::Mesh;
use mesh_tests::netns::{Host, until};
use mesh_tests::yardstick::{Who, count, record};

use super::{HTTP, PAUSE, SOON, answers, endpoint, unharmed};

/// Runs `ip` in the namespace of a host.
fn ip(host: &Host, words: &str) {
    let mut command: Command = host.command("ip");
    let done = command.args(words.split(' ')).status();
    assert!(done.is_ok_and(|status| status.success()), "ip {words}");
}

/// The workload `gone` goes, and `heir` gets its addresses.
fn inherit(mesh: &mut Mesh, gone: &str, heir: &str) {
    mesh.get_mut(gone).kill();
    let (from, to) = (mesh.get(gone).host.clone(), mesh.get(heir).host.clone());
    ip(&from, &format!("address del {}/16 dev eth0", from.v4));
    ip(&to, &format!("address add {}/16 dev eth0", from.v4));
    // Its neighbours learn of it, as they would from an announcement.
    mesh.workloads().for_each(|workload| ip(&workload.host, "neigh flush dev eth0"));
}

fn mismatches(mesh: &Mesh) -> f64 {
    mesh.get("client")
        .metric("mesh_tls_handshakes_total", &[("direction", "outbound"), ("result", "identity_mismatch")])
}

fn arrived(mesh: &Mesh, name: &str) -> f64 {
    mesh.get(name).metric("mesh_http_requests_total", &[("direction", "inbound")])
}

/// Status, and what the mesh says of it.
fn status(mesh: &Mesh, addr: SocketAddr) -> (u16, String) {
    let answer = within(&mesh.get("client").host, fetch(addr, Version::H1, "/bytes?n=100")).expect("an answer");
    let said = answer.headers.get("mesh-error").map(|said| String::from_utf8_lossy(said.as_bytes()).into_owned());
    (answer.status.as_u16(), said.unwrap_or_default())
}

#[test]
fn f7_who_has_inherited_an_address_gets_nothing_that_was_meant_for_another() {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    for (name, of) in [("web-1", "web"), ("web-2", "web"), ("only", "only"), ("other", "other"), ("another", "other")] {
        endpoint(&mut mesh, name, of, true);
    }
    let [web, only] = ["web", "only"].map(|name| mesh.service(name, 80, HTTP).add().v4);
    mesh.start();
    let load = Load::start(&mesh.get("client").host, web, 8, PAUSE);
    answers(&load, 300);
    inherit(&mut mesh, "web-1", "other");
    until(SOON, || mismatches(&mesh) > 0.0);
    answers(&load, count(500, 20_000));
    let report = unharmed(load);
    assert_eq!(arrived(&mesh, "other"), 0.0, "delivered to somebody else");
    // Where there is nobody else, that is the answer.
    assert_eq!(status(&mesh, only).0, 200);
    inherit(&mut mesh, "only", "another");
    let (code, said) = status(&mesh, only);
    assert!(code == 503 && said.starts_with("peer_identity;"), "{code} {said}");
    assert_eq!(arrived(&mesh, "another"), 0.0, "delivered to somebody else");
    let figure = format!("0 of {} failed, 0 delivered, {} mismatches counted", report.answered, mismatches(&mesh));
    record(62, "F7, an address that another workload has", Who::Mesh, true, &figure);
}
