//! Load generators and the back end that they meet.
//!
//! Invariant: whatever goes wrong with a request is counted and never retried, and every wait has an end.
//! Non-goal: highest rates; wrk, h2load and iperf3 are for those.

pub mod backend;
pub mod churn;
pub mod cli;
pub mod client;
pub mod grpc;
pub mod hold;
pub mod latency;
pub mod message;
pub mod rate;
pub mod schedule;
pub mod tally;

use std::time::Duration;

/// How long one connect or one exchange may take before it counts as failed.
pub const PATIENCE: Duration = Duration::from_secs(5);
