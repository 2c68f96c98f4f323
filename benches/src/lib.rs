//! The bench: the mesh beside other proxies on the same work in the same run, and its control plane under many proxies.
//!
//! Invariant: a figure that nobody checked is none: a run with errors, a sidecar that was passed by, or plaintext on the
//! wire makes it invalid, and the table says so.
//! Non-goal: the speed of this machine; ratios within one run are what counts.

pub mod control;
pub mod load;
