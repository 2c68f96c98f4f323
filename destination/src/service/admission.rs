//! How many connections there may be, in all and from one address.
//!
//! Invariant: a place is given back when it is dropped, on every path. Non-goal: handshakes, which have happened.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Settings;
use crate::metrics::{self, Raised, Service as Metrics};

/// Lets connections in, up to a number.
#[derive(Clone, Debug)]
pub struct Admission {
    settings: Settings,
    metrics: Metrics,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Admission {
    /// With the limits of `settings`.
    pub fn new(settings: Settings, metrics: Metrics) -> Self {
        Self { settings, metrics, open: Arc::default() }
    }

    /// A place for a connection from `address`, if there is one.
    pub fn admit(&self, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let mut open = lock(&self.open);
        let of_address = open.by_address.get(&address).copied().unwrap_or_default();
        let refused = if open.total >= self.settings.connections {
            Some("too_many_connections")
        } else if of_address >= self.settings.connections_per_address {
            Some("too_many_connections_of_address")
        } else {
            None
        };
        if let Some(reason) = refused {
            metrics::connection_refused(reason);
            tracing::warn!(%address, reason, "connection refused");
            return None;
        }
        open.total += 1;
        *open.by_address.entry(address).or_default() += 1;
        Some(Place { address, open: Arc::clone(&self.open), _counted: self.metrics.connection() })
    }
}

/// One of the connections that may be open.
#[derive(Debug)]
pub struct Place {
    address: IpAddr,
    open: Arc<Mutex<Open>>,
    _counted: Raised,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        open.total -= 1;
        if let Some(count) = open.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
