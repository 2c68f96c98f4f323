//! How many connections there may be, in all and per source.
//!
//! Invariant: a place is given back when it is dropped, on every path. Non-goal: bounding handshakes, which
//! `mesh_mtls::grpc::Incoming` does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limiter::Source;

/// The most connections at a time.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Over all sources.
    pub total: usize,
    /// From one source.
    pub per_source: usize,
}

/// Which limit was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Over all sources.
    Total,
    /// That of one source.
    Source,
}

impl Full {
    /// The word for metrics and logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Total => "too_many_connections",
            Self::Source => "too_many_connections_of_address",
        }
    }
}

/// Counts by source. Clones share the counts.
#[derive(Clone)]
pub struct Places {
    settings: Settings,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    total: usize,
    by_source: HashMap<Source, usize>,
}

/// Gives a place back when dropped.
pub struct Place {
    places: Places,
    source: Source,
}

impl Places {
    /// With these limits.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, taken: Arc::default() }
    }

    /// A place for a connection of `source`.
    ///
    /// # Errors
    /// When a limit is met.
    pub fn enter(&self, source: Source) -> Result<Place, Full> {
        let mut taken = self.lock();
        if taken.total >= self.settings.total {
            return Err(Full::Total);
        }
        let of_source = taken.by_source.entry(source).or_default();
        if *of_source >= self.settings.per_source {
            return Err(Full::Source);
        }
        *of_source += 1;
        taken.total += 1;
        Ok(Place { places: self.clone(), source })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.total -= 1;
        if let Some(of_source) = taken.by_source.get_mut(&self.source) {
            *of_source -= 1;
            if *of_source == 0 {
                taken.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn both_limits_hold_and_places_come_back() {
        let places = Places::new(Settings { total: 3, per_source: 2 });
        let (one, two) = (source("10.0.0.1"), source("10.0.0.2"));
        let held = [places.enter(one).unwrap(), places.enter(one).unwrap()];
        assert_eq!(places.enter(one).err(), Some(Full::Source));
        let other = places.enter(two).unwrap();
        assert_eq!(places.enter(two).err(), Some(Full::Total));
        drop(held);
        assert!(places.enter(two).is_ok());
        drop(other);
        let taken = places.lock();
        assert_eq!((taken.total, taken.by_source.len()), (0, 0));
    }
}
