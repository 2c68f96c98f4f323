//! `mesh-identity` as it runs: the real program, real TLS and gRPC, CSRs that OpenSSL made.
//!
//! Invariant: every server listens on ports of its own choosing, in a folder of its own. Non-goal: the proxy's side, which
//! has tests of its own.

mod certify;
mod csrs;
mod lifecycle;
mod openssl;
mod rotation;
mod server;
