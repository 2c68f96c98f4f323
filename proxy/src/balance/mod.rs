//! The endpoints of a backend: which one gets the next request or connection, and how it is reached.
//!
//! Invariant: an endpoint that discovery calls meshed is reached through mutual TLS or not at all. An endpoint that cannot be
//! connected is passed by until a background attempt succeeds; only when all are in that state are they tried all the same.
//! Discovery's updates are applied as they come, not when the next request does. tower's `Balance` is not used: it cannot be
//! asked what it knows, knows no weights, and ignores updates while idle (ARCHITECTURE.md).

mod backend;
mod bulkhead;
mod choice;
mod endpoint;
mod ewma;
mod key;
mod list;
#[cfg(test)]
mod models;
mod outcome;
mod pick;
mod reach;
mod request;
mod state;
mod steered;
mod verdict;
mod vitals;
mod zones;

// By this name, so that models can put their own in its place.
use std::sync::{self, Arc};
use std::time::Duration;

pub use backend::{Backend, Failed, Tried};
pub use choice::Wish;
pub use endpoint::{Endpoint, Load};
pub use key::Key;
pub use reach::{Bulkheads, Reach};
pub use state::State;
pub use steered::Terms;

use crate::resilience::backoff;

/// How endpoints are chosen and retried.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Latency that a new endpoint is credited with.
    pub initial_latency: Duration,
    /// Time in which an observed latency loses its weight (to 1/e).
    pub decay: Duration,
    /// Between attempts to reach an endpoint that could not be connected.
    pub reconnect: backoff::Settings,
    /// Most endpoints that one request or connection is tried on.
    pub tries: usize,
}

/// Settings as all backends share them.
pub type SharedSettings = Arc<Settings>;
