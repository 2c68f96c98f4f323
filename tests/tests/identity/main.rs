//! `mesh-identity` as it runs: the real program, real TLS and gRPC, CSRs that OpenSSL made.
//!
//! Invariant: every server listens on ports of its own choosing, in a folder of its own. Non-goal: the proxy's side,
//! which has tests of its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests; a panic is the report")]

mod certify;
mod csrs;
mod flood;
mod lifecycle;
mod openssl;
mod rotation;
mod server;
