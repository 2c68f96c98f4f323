//! Whom the mesh believes: certificates, versions of TLS and hellos that must be refused, at every port that speaks our TLS.
//!
//! Invariant: whoever is refused is counted under one reason word, nothing falls back to plaintext, and a polite client beside
//! it notices nothing.
//! Non-goal: what a trusted peer may ask for, see `guards`.

mod certs;
mod chains;
mod hellos;
mod impostor;
mod keys;
mod resumption;
mod versions;

use std::net::SocketAddr;

use mesh_tests::mesh::{App, Mesh};

/// Where the app listens.
const HTTP: u16 = 8000;

/// A client, a service, and an outsider without a sidecar; not started.
fn mesh() -> (Mesh, SocketAddr) {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").patient().add();
    mesh.workload("web").of("web").patient().app(App::demo("demo-http", HTTP, &[])).add();
    mesh.workload("outsider").plain().add();
    let service = mesh.service("web", 80, HTTP).add();
    (mesh, service.v4)
}
