//! How often each source may ask: the generic cell rate algorithm (ITU-T I.371), a leaky bucket in one timestamp.
//!
//! Invariant: the table never holds more than its limit; sources that find no place in it share one bucket, so a flood
//! from many addresses costs those that come new, not those that are known. Non-goal: fairness within a source.

use std::collections::HashMap;
use std::time::{Duration, Instant};

pub use mesh_mtls::grpc::Source;

/// The least time between two looks for entries that have run out.
const SWEEP: Duration = Duration::from_secs(1);

/// What a source may do.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Requests per second in the long run, at least 1.
    pub per_second: u32,
    /// Requests at once, at least 1.
    pub burst: u32,
    /// Sources known at a time.
    pub table: usize,
}

/// Says whether a request is within its source's rate.
#[derive(Debug)]
pub struct Limiter {
    settings: Settings,
    /// For each source the time at which its bucket will be empty again.
    empty_at: HashMap<Source, Instant>,
    shared: Option<Instant>,
    next_sweep: Option<Instant>,
}

impl Limiter {
    /// Nobody is known yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, empty_at: HashMap::new(), shared: None, next_sweep: None }
    }

    /// Counts a request, unless it is one too many.
    pub fn admit(&mut self, source: Source, now: Instant) -> bool {
        self.make_room(source, now);
        let is_known = self.empty_at.contains_key(&source);
        let empty_at = if is_known || self.empty_at.len() < self.settings.table {
            self.empty_at.entry(source).or_insert(now)
        } else {
            self.shared.get_or_insert(now)
        };
        take(empty_at, self.settings, now)
    }

    fn make_room(&mut self, source: Source, now: Instant) {
        let is_full = self.empty_at.len() >= self.settings.table && !self.empty_at.contains_key(&source);
        if is_full && self.next_sweep.is_none_or(|at| at <= now) {
            self.empty_at.retain(|_, empty_at| *empty_at > now);
            self.next_sweep = Some(now + SWEEP);
        }
    }
}

fn take(empty_at: &mut Instant, settings: Settings, now: Instant) -> bool {
    let one = Duration::from_secs(1) / settings.per_second.max(1);
    let depth = one * settings.burst.max(1);
    let filled = (*empty_at).max(now) + one;
    let fits = filled <= now + depth;
    if fits {
        *empty_at = filled;
    }
    fits
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const SETTINGS: Settings = Settings { per_second: 10, burst: 5, table: 4 };

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let (mut limiter, start) = (Limiter::new(SETTINGS), Instant::now());
        let web = source("10.0.0.1");
        let at_once = (0..20).filter(|_| limiter.admit(web, start)).count();
        assert_eq!(at_once, 5);
        let in_two_seconds = (1..=2000).filter(|ms| limiter.admit(web, start + Duration::from_millis(*ms))).count();
        assert_eq!(in_two_seconds, 20);
        let later = start + Duration::from_secs(60);
        assert_eq!((0..20).filter(|_| limiter.admit(web, later)).count(), 5);
    }

    #[test]
    fn one_source_does_not_use_up_another_ones_rate() {
        let (mut limiter, now) = (Limiter::new(SETTINGS), Instant::now());
        while limiter.admit(source("10.0.0.1"), now) {}
        assert!(limiter.admit(source("10.0.0.2"), now));
        assert!(!limiter.admit(source("::ffff:10.0.0.1"), now), "the same host in IPv6 clothes");
        while limiter.admit(source("fd00::1"), now) {}
        assert!(!limiter.admit(source("fd00::2"), now), "the same network");
        assert!(limiter.admit(source("fd00:0:0:1::2"), now));
    }

    #[test]
    fn the_table_is_bounded_and_the_known_keep_their_place() {
        let (mut limiter, now) = (Limiter::new(SETTINGS), Instant::now());
        for n in 1..=4 {
            assert!(limiter.admit(source(&format!("10.0.0.{n}")), now));
        }
        let strangers = (0..200).filter(|n| limiter.admit(source(&format!("10.1.0.{n}")), now)).count();
        assert_eq!(strangers, 5, "they share one bucket");
        assert!(limiter.admit(source("10.0.0.1"), now));
        assert_eq!(limiter.empty_at.len(), 4);
        // When the known fall silent their places go to others.
        let later = now + Duration::from_secs(10);
        let strangers = (0..4).filter(|n| limiter.admit(source(&format!("10.1.0.{n}")), later)).count();
        assert_eq!((strangers, limiter.empty_at.len()), (4, 4));
    }
}
