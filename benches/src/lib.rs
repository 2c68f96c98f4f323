//! The bench: the mesh beside other proxies on the same work in the same run, and its control plane under many proxies.
//!
//! Invariant: a figure that nobody checked is none: a run with errors, a sidecar that was passed by, or plaintext on the
//! wire makes it invalid, and the table says so.
//! Non-goal: the speed of this machine; ratios within one run are what counts.

pub mod cell;
pub mod certs;
pub mod control;
pub mod generator;
pub mod load;
pub mod median;
pub mod peers;
pub mod process;
pub mod report;
pub mod rig;
pub mod scenario;
pub mod usage;
pub mod wire;

/// What the back end's bodies are filled with, so that they are seen on the wire where they should not be.
pub const MARKER: &[u8] = b"plain-text-of-the-bench ";
