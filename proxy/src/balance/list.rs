//! The endpoints of a backend as they are now, and what is known of each.
//!
//! Invariant: an endpoint takes part in choices from when discovery lists it, but what only one in use needs is made when it
//! is first chosen: most that are known never are. One that stays as it was, over updates, stays itself.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Settings;
use super::endpoint::Endpoint;
use super::ewma::Ewma;
use super::reach::Reach;
use super::sync::Arc;
use super::sync::atomic::Ordering;
use super::vitals::{Fleet, Vitals, breaker_of};
use super::zones::{self, Zones};
use crate::metrics::Zone;
use crate::model::policy::{BackendPolicy, BalancingKind};
use crate::model::{self, EndpointSet};
use crate::resilience::breaker;
use crate::resilience::turns::Turns;

/// What discovery lists, and as many slots.
pub(super) struct List {
    models: EndpointSet,
    slots: Box<[Slot]>,
    ages: Ages,
    /// Made with the first endpoint that is used.
    fleet: Option<Arc<Fleet>>,
    /// Who takes turns.
    pub(super) turns: Cell<Turns>,
    /// `None`: the proxy's own zone is unknown, or those of all endpoints are.
    place: Option<Box<Place>>,
    /// How often the proxy's own zone had changed when the list was made.
    moves: u32,
    /// The largest weight, and whether there are others.
    heaviest: u16,
    has_weights: bool,
}

/// `None`: it was never chosen.
type Slot = Option<Arc<Endpoint>>;

/// Since when endpoints are listed.
struct Ages {
    /// When there was none before.
    first: Instant,
    /// Of each, unless all came first.
    each: Option<Box<[Instant]>>,
}

/// Where the proxy is among them.
struct Place {
    zone: Box<str>,
    /// `None`: zones make no difference.
    zones: Option<Zones>,
}

/// How busy an endpoint is.
pub(super) struct Business {
    /// Expected latency in seconds.
    pub(super) latency: f64,
    pub(super) in_flight: usize,
    /// Expected wait: latency times the requests that would share it. Requests of a lighter endpoint count for more.
    pub(super) load: f64,
}

/// A new endpoint begins its slow start with this share.
const FIRST_SHARE: f64 = 0.1;

impl List {
    /// Nobody, so far.
    pub(super) fn new(now: Instant) -> List {
        let ages = Ages { first: now, each: None };
        let (models, slots, fleet, turns, place) = Default::default();
        List { models, slots, ages, fleet, turns, place, moves: 0, heaviest: 0, has_weights: false }
    }

    /// The list that follows this one, for a proxy in `zone`, which is known since so many moves.
    pub(super) fn next(&self, models: EndpointSet, (zone, moves): (&str, u32), now: Instant) -> List {
        let kept: Vec<_> = models.list.iter().map(|model| self.same(model)).collect();
        let slots = kept.iter().map(|kept| self.slots[(*kept)?].clone()).collect();
        let ages = match self.len() {
            0 => Ages { first: now, each: None },
            _ => self.ages.next(kept.iter().map(|kept| kept.map_or(now, |i| self.ages.since(i)))),
        };
        let place = Place::of(zone, &models);
        let (fleet, turns) = (self.fleet.clone(), self.turns.clone());
        let weights = || models.list.iter().map(|endpoint| endpoint.traits.weight);
        let heaviest = weights().max().unwrap_or(1);
        let has_weights = weights().any(|weight| weight != heaviest);
        List { models, slots, ages, fleet, turns, place, moves, heaviest, has_weights }
    }

    /// See [`List::next`].
    pub(super) fn moves(&self) -> u32 {
        self.moves
    }

    /// The same for a proxy that has moved.
    pub(super) fn moved(&self, to: (&str, u32), now: Instant) -> List {
        self.next(self.models.clone(), to, now)
    }

    /// Where `model` is, if it is listed here and has not changed.
    fn same(&self, model: &model::Endpoint) -> Option<usize> {
        let found = self.find(model.addr)?;
        (self.models.list[found] == *model).then_some(found)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// All, as discovery lists them.
    pub(super) fn models(&self) -> &[model::Endpoint] {
        &self.models.list
    }

    /// `None` is the proxy's defaults.
    pub(super) fn policy(&self) -> Option<&std::sync::Arc<BackendPolicy>> {
        self.models.policy.as_ref()
    }

    /// `None` is the default.
    pub(super) fn kind(&self) -> Option<&BalancingKind> {
        self.policy().map(|policy| &policy.balancing.kind)
    }

    pub(super) fn breaker(&self) -> breaker::Settings {
        breaker_of(self.policy())
    }

    pub(super) fn zones(&self) -> Option<&Zones> {
        self.place.as_ref()?.zones.as_ref()
    }

    /// Where the `i`th is, whatever hints and policies say of it; `None`: that is not known.
    pub(super) fn zone(&self, i: usize) -> Option<Zone> {
        let home = &*self.place.as_ref()?.zone;
        match &*self.models.list[i].traits.zone {
            "" => None,
            zone => Some(if zone == home { Zone::Local } else { Zone::Other }),
        }
    }

    /// Where `addr` is listed.
    pub(super) fn find(&self, addr: SocketAddr) -> Option<usize> {
        self.models.list.binary_search_by_key(&addr, |known| known.addr).ok()
    }

    /// The `i`th, for use.
    pub(super) fn get(&mut self, i: usize, reach: &std::sync::Arc<Reach>) -> Arc<Endpoint> {
        if let Some(endpoint) = &self.slots[i] {
            return Arc::clone(endpoint);
        }
        let since = self.ages.since(i);
        let latency = Ewma::new(reach.settings.initial_latency, reach.settings.decay, since);
        let fleet = Arc::clone(self.fleet.get_or_insert_default());
        let vitals = Vitals::new(latency, since, fleet);
        let endpoint = Endpoint::new(&self.models.list[i], std::sync::Arc::clone(reach), vitals);
        self.slots[i] = Some(Arc::clone(&endpoint));
        endpoint
    }

    fn used(&self, i: usize) -> Option<&Arc<Endpoint>> {
        self.slots[i].as_ref()
    }

    /// `None`: it was never chosen.
    pub(super) fn vitals(&self, i: usize) -> Option<&Vitals> {
        self.used(i).map(|endpoint| endpoint.vitals())
    }

    /// Whether the `i`th is `endpoint`.
    pub(super) fn is(&self, i: usize, endpoint: &Arc<Endpoint>) -> bool {
        self.used(i).is_some_and(|used| Arc::ptr_eq(used, endpoint))
    }

    pub(super) fn is_failing(&self, i: usize) -> bool {
        self.used(i).is_some_and(|endpoint| endpoint.is_failing())
    }

    /// The breaker of the `i`th is open.
    pub(super) fn is_ejected(&self, i: usize) -> bool {
        self.used(i).is_some_and(|endpoint| endpoint.vitals().is_ejected())
    }

    /// Its ejection is over, and nobody is finding out yet whether it is well.
    pub(super) fn is_due(&self, i: usize, settings: &breaker::Settings, now: Instant) -> bool {
        self.used(i).is_some_and(|endpoint| endpoint.vitals().is_due(settings, now))
    }

    /// Whether any may be ejected.
    pub(super) fn has_ejected(&self) -> bool {
        self.fleet.as_ref().is_some_and(|fleet| fleet.ejected.load(Ordering::Relaxed) > 0)
    }

    /// So many are out that the rest would have too much to do.
    pub(super) fn is_in_panic(&self, breaker: &breaker::Settings) -> bool {
        let out = (0..self.len()).filter(|i| self.is_ejected(*i) || self.is_failing(*i)).count();
        out * 100 > self.len() * breaker.max_ejected_percent as usize
    }

    pub(super) fn failing(&self) -> usize {
        (0..self.len()).filter(|i| self.is_failing(*i)).count()
    }

    pub(super) fn ejected(&self) -> usize {
        if self.has_ejected() { (0..self.len()).filter(|i| self.is_ejected(*i)).count() } else { 0 }
    }

    /// Whether there is one that can be expected to answer, or that somebody has to try.
    pub(super) fn is_well(&self, now: Instant) -> bool {
        let breaker = self.breaker();
        let heeds = self.has_ejected() && breaker.is_enabled;
        let is_out = |i: usize| heeds && self.is_ejected(i) && !self.is_due(i, &breaker, now);
        !(0..self.len()).all(|i| self.is_failing(i) || is_out(i))
    }

    pub(super) fn weight(&self, i: usize) -> u16 {
        self.models.list[i].traits.weight
    }

    /// The largest weight.
    pub(super) fn heaviest(&self) -> u16 {
        self.heaviest
    }

    /// The same, unless all weigh the same.
    pub(super) fn weighs(&self) -> Option<u16> {
        self.has_weights.then_some(self.heaviest)
    }

    pub(super) fn in_flight(&self, i: usize) -> usize {
        self.used(i).map_or(0, |endpoint| endpoint.in_flight())
    }

    /// Requests in flight if there was one more. Those of an endpoint of half the weight count twice.
    pub(super) fn requests(&self, i: usize) -> f64 {
        self.in_flight(i) as f64 * f64::from(self.heaviest) / f64::from(self.weight(i).max(1)) + 1.0
    }

    /// Whether `share` may be less than 1 for any.
    pub(super) fn has_shares(&self) -> bool {
        self.slow_start().is_some() || (0..self.len()).any(|i| self.used(i).is_some_and(|it| it.vitals().is_spared()))
    }

    fn slow_start(&self) -> Option<Duration> {
        self.policy()?.balancing.slow_start
    }

    /// The share of what the `i`th would get otherwise: less while it is new, and while it asks to be spared.
    pub(super) fn share(&self, i: usize, now: Instant) -> f64 {
        let asked = self.used(i).map_or(1.0, |endpoint| endpoint.vitals().share(now));
        let since = self.ages.since(i);
        let Some(slow) = self.slow_start().filter(|_| since != self.ages.first) else { return asked };
        let age = now.saturating_duration_since(since).as_secs_f64() / slow.as_secs_f64().max(1e-3);
        asked * age.clamp(FIRST_SHARE, 1.0)
    }

    /// For a bounded load: what is in flight, the sum of all weights, and most of the mean in percent.
    pub(super) fn bounded_load(&self) -> (usize, u64, u32) {
        let percent = match self.kind() {
            Some(BalancingKind::ConsistentHash { bounded_load_percent, .. }) => *bounded_load_percent,
            _ => u32::MAX,
        };
        let in_flight = (0..self.len()).map(|i| self.in_flight(i)).sum();
        (in_flight, self.models.list.iter().map(|it| u64::from(it.traits.weight)).sum(), percent)
    }

    /// How busy the `i`th is.
    pub(super) fn business(&self, i: usize, settings: &Settings, now: Instant) -> Business {
        let latency = self.latency(i, settings, now, Ewma::seconds);
        let in_flight = self.in_flight(i);
        Business { latency, in_flight, load: latency * self.requests(i) }
    }

    fn latency(&self, i: usize, settings: &Settings, now: Instant, of: impl Fn(&Ewma, Instant) -> f64) -> f64 {
        match self.used(i) {
            Some(endpoint) => endpoint.vitals().with_latency(|latency| of(latency, now)),
            None => of(&Ewma::new(settings.initial_latency, settings.decay, self.ages.since(i)), now),
        }
    }

    /// Whether the `i`th is slow enough for others to be looked at.
    pub(super) fn is_slow(&self, i: usize, settings: &Settings, now: Instant) -> bool {
        zones::spill(self.latency(i, settings, now, Ewma::seconds), 0.0) > 0.0
    }

    /// The share of requests that go to `far` instead of to `near`.
    pub(super) fn spill(&self, near: usize, far: usize, settings: &Settings, now: Instant) -> f64 {
        let near = self.latency(near, settings, now, Ewma::seconds);
        zones::spill(near, self.latency(far, settings, now, Ewma::remembered))
    }
}

impl Ages {
    fn since(&self, i: usize) -> Instant {
        self.each.as_ref().map_or(self.first, |each| each[i])
    }

    /// Those of the list that follows.
    fn next(&self, each: impl Iterator<Item = Instant> + Clone) -> Ages {
        let alike = each.clone().all(|since| since == self.first);
        Ages { first: self.first, each: (!alike).then(|| each.collect()) }
    }
}

impl Place {
    /// See [`List`].
    fn of(zone: &str, models: &EndpointSet) -> Option<Box<Place>> {
        if zone.is_empty() || models.list.iter().all(|it| it.traits.zone.is_empty() && it.traits.hints.is_empty()) {
            return None;
        }
        let ignores_zones = models.policy.as_ref().is_some_and(|policy| policy.balancing.ignores_zones);
        let zones = if ignores_zones { None } else { Zones::of(zone, &models.list) };
        Some(Box::new(Place { zone: zone.into(), zones }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::policy::Balancing;
    use crate::model::{Name, Traits};
    use crate::resilience::backoff;

    fn endpoint(last: u8, weight: u16) -> model::Endpoint {
        let traits = Arc::new(Traits { weight, ..Traits::default() });
        model::Endpoint { addr: ([10, 0, 0, last], 80).into(), name: Name::default(), traits }
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
        let (list, later) = (List::new(start).next(first, ("", 0), start), start + Duration::from_secs(10));
        let list = list.next(second, ("", 0), later);
        let aged = (-1.0_f64).exp();
        for (found, expected) in latencies(&list, later).into_iter().zip([aged, 1.0, 1.0, aged]) {
            assert!((found - expected).abs() < 1e-9, "{found} for {expected}");
        }
        assert_eq!(list.next(EndpointSet::default(), ("", 0), later).len(), 0);
    }

    #[test]
    fn who_comes_to_others_begins_slowly_and_who_comes_to_nobody_does_not() {
        let slow = Some(Duration::from_secs(10));
        let balancing = Balancing { slow_start: slow, ..Balancing::default() };
        let policy = Some(Arc::new(BackendPolicy { balancing, ..BackendPolicy::default() }));
        let next = |list: &List, last: &[u8], now: Instant| {
            let set = EndpointSet { policy: policy.clone(), ..last.iter().map(|last| endpoint(*last, 1)).collect() };
            list.next(set, ("", 0), now)
        };
        let shares = |list: &List, now: Instant| (0..list.len()).map(|i| list.share(i, now)).collect::<Vec<_>>();
        let start = Instant::now();
        let second = |n: u64| start + Duration::from_secs(n);
        let list = next(&List::new(start), &[2, 4], second(1));
        assert_eq!(shares(&list, second(1)), [1.0, 1.0]);
        let list = next(&list, &[1, 2, 4], second(2));
        assert_eq!(shares(&list, second(2)), [0.1, 1.0, 1.0]);
        let list = next(&list, &[1, 2, 3], second(7));
        assert_eq!(shares(&list, second(7)), [0.5, 1.0, 0.1]);
        assert_eq!(shares(&next(&list, &[2], second(8)), second(8)), [1.0]);
        let list = next(&next(&list, &[], second(8)), &[3, 5], second(9));
        assert_eq!(shares(&list, second(9)), [1.0, 1.0]);
    }
}
