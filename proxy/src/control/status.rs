//! What `/state` shows of discovery.
//!
//! Invariant: plain data, a copy; looking at it changes and holds nothing.

use serde::Serialize;

use crate::model::Health;

/// The stream and every subscription on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Whether the stream is up.
    pub connected: bool,
    /// For how long it has been so.
    pub since_seconds: u64,
    /// Why the stream ended or an update was refused, most recently.
    pub last_error: Option<String>,
    /// Updates refused as malformed since the start.
    pub rejected: u64,
    /// Subscriptions not begun because there were too many.
    pub over_limit: u64,
    /// What was found of the own application, where it is asked.
    pub health: Option<Health>,
    /// Original destinations.
    pub outbound: Vec<Known>,
    /// Backends.
    pub endpoints: Vec<Known>,
    /// The workload's own policy.
    pub inbound: Vec<Known>,
}

/// How much is known of one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Known {
    /// `ip:port`, `namespace/service:port`, or `inbound`.
    pub resource: String,
    /// The version in use; `None` while destination has not answered.
    pub version: Option<u64>,
    /// How long ago it came.
    pub age_seconds: Option<u64>,
}
