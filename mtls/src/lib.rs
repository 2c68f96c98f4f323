//! Mutual TLS of the mesh: who a peer is, and the certificates that prove it.
//!
//! Read in this order: [`spiffe`] (names), [`anchors`] and [`leaf`] (what is trusted, who we are), [`credentials`]
//! (the live cell of both), [`chain`] (verification), [`tls`] (handshakes both ways), [`cork`] (HTTP/2's writes on
//! top), [`abuse`] (whose fault its end was), [`dial`] (the way to the control plane), [`grpc`] (`identity`'s channels, listeners of both),
//! [`messages`] (what discovery speaks), [`certify`] (gets certificates from `identity`, renews them).
//!
//! Invariant: no peer is trusted but by a chain to the current anchors and one SPIFFE id in its leaf; nothing here
//! falls back to plaintext, to an older TLS or to a resumed session. Non-goal: what a peer may do; that is policy.

#![forbid(unsafe_code)]

pub mod abuse;
pub mod anchors;
pub mod certify;
pub mod chain;
pub mod clock;
pub mod cork;
pub mod credentials;
pub mod dial;
pub mod grpc;
pub mod leaf;
pub mod messages;
pub mod spiffe;
#[cfg(test)]
mod testing;
pub mod tls;
