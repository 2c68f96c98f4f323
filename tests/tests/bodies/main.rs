//! Bodies through two sidecars: cut off, reset, large, and read slowly.
//!
//! Invariant: both ends are in the test's hands down to the byte or the frame, so what one sees is compared with what
//! the other did.
//! Non-goal: what is in the bodies.

mod half_closed;
mod large;
mod paused;
mod resets;
mod slow;
mod truncated;

use std::net::SocketAddr;

use mesh_tests::mesh::Mesh;

/// Where the app listens.
const APP: u16 = 8000;

/// A client and a server in the mesh, not started, and the address of the server's service.
fn mesh() -> (Mesh, SocketAddr) {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    mesh.workload("web").of("web").add();
    let service = mesh.service("web", 80, APP).add();
    (mesh, service.v4)
}

/// All findings at once.
fn verdict(tried: usize, findings: &[String]) {
    println!("{} of {tried} as they should be", tried - findings.len());
    assert!(findings.is_empty(), "{} of {tried} failed:\n{}", findings.len(), findings.join("\n"));
}
