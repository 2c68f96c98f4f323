//! Protocols at their edges: declared ones, pipelined requests, CONNECT, servers that speak first to nobody, and the
//! mesh's own answers. In namespaces with real rules.
//!
//! Invariant: what a test claims about the app's side is read from what the app's server recorded, or from the sidecar
//! at that end.
//! Non-goal: the plain conversations; the matrix has those.

mod answers;
mod declared;
mod leaving;
mod pipelining;
mod server_first;

use std::net::SocketAddr;

use mesh_tests::mesh::Mesh;

/// Where the app listens, with nothing declared about it.
const APP: u16 = 8000;

/// A client and a server in the mesh, and one of each outside of it.
fn mesh() -> Mesh {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").patient().add();
    mesh.workload("web").of("web").patient().add();
    mesh.workload("outsider").plain().add();
    mesh.workload("legacy").of("legacy").plain().add();
    mesh
}

/// Who asks, whom, and through how many sidecars.
type Pair = (&'static str, SocketAddr);

/// Through two sidecars, from plain to meshed, and from meshed to plain.
fn pairs(mesh: &mut Mesh, port: u16) -> [Pair; 3] {
    let mut service = |name: &str| mesh.service(&format!("{name}-{port}"), port, port).over(name).add().v4;
    let (web, legacy) = (service("web"), service("legacy"));
    [("client", web), ("outsider", mesh.get("web").at(port)[0]), ("client", legacy)]
}
