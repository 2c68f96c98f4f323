//! What every daemon of the mesh needs: environment, logs, readiness, shutdown, listeners, metrics, the admin server, patterns.
//!
//! Invariant: nothing here knows what a daemon does; each module stands alone and is wired in the daemon's `main`.
//! Non-goal: a framework. There is no trait to implement and nothing starts by itself.

pub mod admin;
pub mod args;
pub mod build;
pub mod env;
pub mod limits;
pub mod listen;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod pattern;
pub mod pressure;
pub mod ready;
pub mod scheduling;
pub mod shutdown;
