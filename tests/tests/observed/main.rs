//! What operators see, under peers who would rather that they saw nothing, or too much: series of metrics and lines of logs.
//!
//! Invariant: what grows with somebody else's input is bounded, and what is nobody's any more goes.
//! Non-goal: what each metric means; the proxy's own tests say that.

mod logs;
mod series;

use std::net::SocketAddr;

use mesh_tests::mesh::{App, Mesh};

/// Where the app listens.
const HTTP: u16 = 8000;

/// A client, a service and somebody without a sidecar, not started; `env` is for the client's sidecar.
fn mesh(env: &[(&str, &str)]) -> (Mesh, SocketAddr) {
    let mut mesh = Mesh::new();
    let client = mesh.workload("client").service_account("client");
    env.iter().fold(client, |client, (name, value)| client.env(name, value)).add();
    mesh.workload("web").of("web").app(App::demo("demo-http", HTTP, &[])).add();
    mesh.workload("outsider").plain().add();
    let service = mesh.service("web", 80, HTTP).add();
    (mesh, service.v4)
}
