//! The bench: the mesh beside other proxies on the same work in the same run, and its control plane under many proxies.
//!
//! Invariant: a figure that nobody checked is none: a run with errors, a sidecar that was passed by, or plaintext on the
//! wire makes it invalid, and the table says so.
//! Non-goal: the speed of this machine; ratios within one run are what counts.

#![forbid(unsafe_code)]

pub mod bars;
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
pub mod run;
pub mod scenario;
pub mod tasks;
pub mod usage;
pub mod wire;
