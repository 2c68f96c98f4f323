//! Which new connections are let in: as many as may be open, as descriptors allow, and none while memory is short.
//!
//! Invariant: what is refused is refused at once, with one reset: a flood costs an accept each and holds nothing. The last
//! descriptors are never given to connections, so health checks and the control plane go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use mesh_kit::limits;
use mesh_kit::pressure::{self, Level};
use tokio::net::TcpStream;

/// Lets the connections of one direction in.
#[derive(Debug)]
pub struct Admission {
    most: usize,
    open: AtomicUsize,
}

/// One of the connections that may be open, until dropped.
#[derive(Debug)]
pub struct Place(Arc<Admission>);

/// Why a connection was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There are as many as may be.
    Connections,
    /// The process may open hardly any more file.
    Descriptors,
    /// The control group is near its limit.
    Memory,
}

/// Connections leave twice as many descriptors free as the daemon keeps for itself: the other half is for those that a
/// request which was let in needs onward.
const LEAVE_FREE: u64 = 2;

impl Refused {
    /// The word for metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Refused::Connections => "too_many_connections",
            Refused::Descriptors => "descriptors",
            Refused::Memory => "memory",
        }
    }
}

impl Admission {
    /// At most `most` connections at a time.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: AtomicUsize::new(0) })
    }

    /// A place for `tcp`, which was accepted.
    pub fn admit(self: &Arc<Self>, tcp: &TcpStream) -> Result<Place, Refused> {
        if limits::is_among_last(tcp, LEAVE_FREE) {
            return Err(Refused::Descriptors);
        }
        if pressure::look() > Level::Calm {
            return Err(Refused::Memory);
        }
        self.enter().ok_or(Refused::Connections)
    }

    fn enter(self: &Arc<Self>) -> Option<Place> {
        // Counted first: workers that meet here at the same time cannot both take the last place.
        let place = Place(Arc::clone(self));
        (self.open.fetch_add(1, Relaxed) < self.most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let admission = Admission::new(2);
        let first = admission.enter().expect("a place");
        let _second = admission.enter().expect("a place");
        assert!(admission.enter().is_none() && admission.enter().is_none());
        drop(first);
        assert!(admission.enter().is_some(), "refusals took no place");
    }
}
