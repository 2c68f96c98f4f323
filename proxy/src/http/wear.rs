//! When a connection has carried enough: a policy may bound its requests and its age.
//!
//! Invariant: a connection that is worn out takes no new request, and those that it carries end as they would. Ages are spread
//! by a tenth either way, so that connections that began together do not end together. Connections between sidecars serve many
//! backends; each request goes by its own backend's bounds. Pure: `now` is an argument.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The bounds; the default has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wear {
    /// Requests, or streams.
    pub requests: Option<u32>,
    /// Since the connection was made, give or take a tenth.
    pub age: Option<Duration>,
    /// To make it, in place of the proxy's own limit.
    pub connect: Option<Duration>,
}

/// What a connection has behind it.
#[derive(Debug)]
pub struct Worn {
    born: Instant,
    carried: AtomicU32,
    /// Of the age, 0.9 to 1.1.
    spread: f32,
}

impl Worn {
    /// Nothing yet.
    pub fn new(now: Instant) -> Self {
        Self { born: now, carried: AtomicU32::new(0), spread: 0.9 + 0.2 * fastrand::f32() }
    }

    /// One more request.
    pub fn carry(&self) {
        self.carried.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it takes no more.
    pub fn is_out(&self, wear: Option<&Wear>, now: impl FnOnce() -> Instant) -> bool {
        let Some(wear) = wear else { return false };
        let is_old = |age: Duration| now().saturating_duration_since(self.born) >= age.mul_f32(self.spread);
        wear.requests.is_some_and(|most| self.carried.load(Ordering::Relaxed) >= most) || wear.age.is_some_and(is_old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_and_ages_are_spread_by_a_tenth() {
        let now = Instant::now();
        let worn = Worn::new(now);
        worn.carry();
        let requests = |most| Wear { requests: Some(most), ..Wear::default() };
        assert!(!worn.is_out(Some(&requests(2)), || now) && worn.is_out(Some(&requests(1)), || now));
        assert!(!worn.is_out(None, || now + Duration::from_secs(1_000_000)));
        let aged = |ms| {
            let wear = Wear { age: Some(Duration::from_secs(1)), ..Wear::default() };
            (0..1_000).filter(|_| Worn::new(now).is_out(Some(&wear), || now + Duration::from_millis(ms))).count()
        };
        assert_eq!((aged(899), aged(1_101)), (0, 1_000));
        assert!((300..700).contains(&aged(1_000)));
    }
}
