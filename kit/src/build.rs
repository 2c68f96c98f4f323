//! What this build is.
//!
//! Invariant: constants only. Non-goal: host or time of the build, which would make builds differ.

/// The version of the mesh; all its programs share one.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
