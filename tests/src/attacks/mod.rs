//! What attackers send, as functions of a [`crate::yardstick::Front`]: whoever made the proxy is attacked in the same way.
//!
//! Invariant: an attack reports what it saw and judges nothing; the rows do.
//! Non-goal: knowing that there is a mesh.

pub mod http1;
