//! HTTP/2 as RFC 9113 and RFC 7541 have it: what the mesh does when somebody breaks a rule.
//!
//! Invariant: all cases run, and a test that fails names each one that did.
//! Non-goal: floods; that is another test's.

mod client;
mod lenient;
mod server;

use mesh_tests::yardstick::Mesh;

/// A mesh in which a client that a busy machine makes late gets no connection of its own to a server that breaks rules.
fn mesh(prepare: impl FnOnce(&mut mesh_tests::mesh::Mesh)) -> Mesh {
    Mesh::start_with(|_, spec| spec.patient(), prepare)
}
