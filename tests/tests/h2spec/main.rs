//! HTTP/2 as RFC 9113 and RFC 7541 have it: what the mesh does when somebody breaks a rule.
//!
//! Invariant: all cases run, and a test that fails names each one that did.
//! Non-goal: floods; that is another test's.

mod client;
mod server;
