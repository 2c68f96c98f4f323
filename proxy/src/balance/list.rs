//! The endpoints of a backend as they are now, and what is known of each.
//!
//! Invariant: an endpoint takes part in choices from when discovery lists it, but what only one in use needs is made when it
//! is first chosen: most that are known never are. One that stays as it was, over updates, stays itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::Settings;
use super::endpoint::Endpoint;
use super::ewma::Ewma;
use super::reach::Reach;
use crate::model::{self, EndpointSet};

/// What discovery lists, and as many slots.
#[derive(Default)]
pub(super) struct List {
    models: EndpointSet,
    slots: Box<[Slot]>,
}

#[derive(Clone)]
enum Slot {
    Unused { since: Instant },
    Used(Arc<Endpoint>),
}

/// How busy an endpoint is.
pub(super) struct Business {
    /// Expected latency in seconds.
    pub(super) latency: f64,
    pub(super) in_flight: usize,
    /// Expected wait: latency times the requests that would share it, by weight.
    pub(super) load: f64,
}

impl List {
    /// The list that follows this one.
    pub(super) fn next(&self, models: EndpointSet, now: Instant) -> List {
        let slot = |model| self.slot_of(model).unwrap_or(Slot::Unused { since: now });
        let slots = models.list.iter().map(slot).collect();
        List { models, slots }
    }

    /// What is known of `model`, if it is listed here and has not changed.
    fn slot_of(&self, model: &model::Endpoint) -> Option<Slot> {
        let found = self.find(model.addr)?;
        (self.models.list[found] == *model).then(|| self.slots[found].clone())
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// All, as discovery lists them.
    pub(super) fn models(&self) -> &[model::Endpoint] {
        &self.models.list
    }

    /// Where `addr` is listed.
    pub(super) fn find(&self, addr: SocketAddr) -> Option<usize> {
        self.models.list.binary_search_by_key(&addr, |known| known.addr).ok()
    }

    /// The `i`th, for use.
    pub(super) fn get(&mut self, i: usize, reach: &Arc<Reach>) -> Arc<Endpoint> {
        match &self.slots[i] {
            Slot::Used(endpoint) => Arc::clone(endpoint),
            Slot::Unused { since } => {
                let latency = Ewma::new(reach.settings.initial_latency, reach.settings.decay, *since);
                let endpoint = Endpoint::new(self.models.list[i].clone(), Arc::clone(reach), latency);
                self.slots[i] = Slot::Used(Arc::clone(&endpoint));
                endpoint
            }
        }
    }

    /// Whether the `i`th is `endpoint`.
    pub(super) fn is(&self, i: usize, endpoint: &Arc<Endpoint>) -> bool {
        matches!(&self.slots[i], Slot::Used(used) if Arc::ptr_eq(used, endpoint))
    }

    pub(super) fn is_failing(&self, i: usize) -> bool {
        matches!(&self.slots[i], Slot::Used(endpoint) if endpoint.is_failing())
    }

    pub(super) fn failing(&self) -> usize {
        (0..self.len()).filter(|i| self.is_failing(*i)).count()
    }

    /// How busy the `i`th is.
    pub(super) fn business(&self, i: usize, settings: &Settings, now: Instant) -> Business {
        let (latency, in_flight) = match &self.slots[i] {
            Slot::Used(endpoint) => (endpoint.latency(now), endpoint.in_flight()),
            Slot::Unused { since } => (Ewma::new(settings.initial_latency, settings.decay, *since).seconds(now), 0),
        };
        let load = latency * (in_flight as f64 + 1.0) / f64::from(self.models.list[i].traits.weight);
        Business { latency, in_flight, load }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::Traits;
    use crate::resilience::backoff;

    fn endpoint(last: u8, weight: u16) -> model::Endpoint {
        let traits = Arc::new(Traits { weight, ..Traits::default() });
        model::Endpoint { addr: ([10, 0, 0, last], 80).into(), name: Box::default(), traits }
    }

    fn latencies(list: &List, now: Instant) -> Vec<f64> {
        let (initial_latency, decay) = (Duration::from_secs(1), Duration::from_secs(10));
        let settings = Settings { initial_latency, decay, reconnect: backoff::Settings::default(), tries: 3 };
        (0..list.len()).map(|i| list.business(i, &settings, now).latency).collect()
    }

    #[test]
    fn an_endpoint_that_stays_ages_over_updates_and_one_that_changed_is_new() {
        let start = Instant::now();
        let first = EndpointSet::from_iter([endpoint(1, 1), endpoint(3, 1), endpoint(4, 1)]);
        let second = EndpointSet::from_iter([endpoint(1, 1), endpoint(2, 1), endpoint(3, 7), endpoint(4, 1)]);
        let (list, later) = (List::default().next(first, start), start + Duration::from_secs(10));
        let list = list.next(second, later);
        let aged = (-1.0_f64).exp();
        for (found, expected) in latencies(&list, later).into_iter().zip([aged, 1.0, 1.0, aged]) {
            assert!((found - expected).abs() < 1e-9, "{found} for {expected}");
        }
        assert_eq!(list.next(EndpointSet::default(), later).len(), 0);
    }
}
