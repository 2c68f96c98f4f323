//! What sidecars refuse: ambiguous authorities, loops, destinations that are not theirs. In namespaces with real rules.
//!
//! Invariant: a refusal is proved at the far end: the app's server counts connections and keeps every byte.
//! Non-goal: what a policy forbids.

mod authority;
mod destinations;
mod loops;
mod peer;

use std::process::Command;

use mesh_tests::mesh::Mesh;
use mesh_tests::netns::Host;

/// Where the app listens, with nothing declared about it.
const APP: u16 = 8000;

/// A client and a server in the mesh, and a host outside of it.
fn mesh() -> Mesh {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").patient().add();
    mesh.workload("web").of("web").patient().add();
    mesh.workload("other").of("other").patient().add();
    mesh.workload("outsider").plain().add();
    mesh
}

/// Runs a command in a namespace; it must succeed.
fn run(host: &Host, command: &str) {
    let mut words = command.split_whitespace();
    let mut command: Command = host.command(words.next().expect("a program"));
    let output = command.args(words).output().expect("a program that is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// All findings at once.
fn verdict(tried: usize, findings: &[String]) {
    assert!(findings.is_empty(), "{} of {tried} failed:\n{}", findings.len(), findings.join("\n"));
}
