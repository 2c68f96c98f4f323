//! Destination as an operator meets it: a folder that is not as it should be, readers that are slow, changes without end; and
//! as a sidecar meets one that has gone mad.
//!
//! Invariant: proxies are told nothing that stands on half a folder. Non-goal: findings in detail, which the crate's own
//! tests have.

mod hostile;
mod liar;
mod memory;
mod slow;
mod storm;

use std::net::SocketAddr;

use mesh_tests::client::http::{Version, fetch};
use mesh_tests::client::{self, within};
use mesh_tests::mesh::{App, Mesh, SOON};
use mesh_tests::netns::until;

const HTTP: u16 = 8000;
const ADMIN: u16 = 9996;

fn mesh() -> (Mesh, SocketAddr) {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    mesh.workload("web").of("web").app(App::demo("demo-http", HTTP, &[])).add();
    let service = mesh.service("web", 80, HTTP).add();
    (mesh, service.v4)
}

fn status(mesh: &Mesh, addr: SocketAddr) -> u16 {
    let answer = within(&mesh.get("client").host, fetch(addr, Version::H1, "/bytes?n=100"));
    answer.unwrap_or_else(|error| panic!("client to {addr}: {error}")).status.as_u16()
}

/// Requests that came to the app `web`, over the mesh's TLS or without.
fn arrived(mesh: &Mesh, tls: &str) -> f64 {
    mesh.get("web").metric("mesh_http_requests_total", &[("direction", "inbound"), ("tls", tls)])
}

fn readiness(mesh: &Mesh) -> Option<(u16, String)> {
    let host = mesh.control().host();
    let addr = SocketAddr::new(host.v4.into(), ADMIN);
    host.enter(|| client::request("GET", addr, "/ready").ok())
}

/// Destination starts on the folder as it is now, refuses to serve, and nobody falls back to plaintext.
fn holds(mesh: &mut Mesh, service: SocketAddr, why: &str) {
    mesh.control_mut().destination().restart();
    mesh.control_mut().destination().wait_for_line(why, SOON);
    until(SOON, || readiness(mesh).is_some_and(|(code, waiting)| code == 503 && waiting == "waiting for: manifests\n"));
    let refused = || mesh.get("client").metric("mesh_discovery_connected", &[]) == 0.0;
    until(SOON, refused);
    let direct = mesh.get("web").at(HTTP)[0];
    for _ in 0..20 {
        assert_eq!((status(mesh, service), status(mesh, direct)), (200, 200));
    }
    assert!(refused());
    assert_eq!(arrived(mesh, "none"), 0.0, "a meshed peer was spoken to in plaintext");
}

#[test]
fn a_restart_on_a_broken_or_missing_folder_leaves_proxies_with_what_they_know() {
    let (mut mesh, service) = mesh();
    mesh.start();
    let direct = mesh.get("web").at(HTTP)[0];
    assert_eq!((status(&mesh, service), status(&mesh, direct)), (200, 200));
    mesh.control_mut().destination().kill();
    mesh.manifests.write("workload-web", "{apiVersion: mesh.internal/v1alpha1, kind: Workload, metadata: {name: web");
    holds(&mut mesh, service, "workload-web.yaml; no proxy is served");
    mesh.control_mut().destination().kill();
    let (folder, away) = (mesh.manifests.path().to_owned(), mesh.folder().join("away"));
    std::fs::rename(&folder, &away).unwrap();
    std::fs::create_dir(&folder).unwrap();
    holds(&mut mesh, service, "no manifest in ");
    std::fs::remove_dir(&folder).unwrap();
    std::fs::rename(&away, &folder).unwrap();
    mesh.publish("web");
    mesh.control().until_both_ready();
    until(SOON, || mesh.get("client").metric("mesh_discovery_connected", &[]) > 0.0);
    assert_eq!((status(&mesh, service), status(&mesh, direct)), (200, 200));
    assert_eq!(arrived(&mesh, "none"), 0.0);
}
