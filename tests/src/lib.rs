//! Harness of the mesh's integration tests and of `make demo`: namespaces, processes, clients, a whole mesh.
//!
//! Invariant: everything started here ends with the value that owns it, and every wait has a deadline and names its fact.
//! Non-goal: being used outside tests and the demo.

#![forbid(unsafe_code)]

pub mod app;
pub mod attacks;
pub mod bins;
pub mod body;
pub mod busy;
pub mod client;
pub mod frames;
pub mod fuzz;
pub mod interop;
pub mod mesh;
pub mod netns;
pub mod pair;
pub mod promtool;
pub mod raw;
pub mod streams;
pub mod yardstick;

pub use bins::bin;

/// The demo's gRPC service, generated from `proto/echo.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod echo {
    tonic::include_proto!("mesh.demo.v1");
}
/// gRPC's health protocol, generated from `proto/health.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
