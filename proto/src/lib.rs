//! Wire types of the control plane, generated from `proto/mesh/*.proto` at build time.
//!
//! Invariant: nothing is written by hand here. Wire types die at the edge of each program (`control` and `admin` in the
//! proxy, the service modules in `destination` and `identity`): no decision is made on them.

#![forbid(unsafe_code)]

/// `mesh.discovery.v1`: what a proxy asks of `destination`, and the snapshots it gets.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod discovery {
    tonic::include_proto!("mesh.discovery.v1");
}

/// `mesh.identity.v1`: certificates for token holders, and the trust bundle.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod identity {
    tonic::include_proto!("mesh.identity.v1");
}
