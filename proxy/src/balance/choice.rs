//! Which endpoint gets the next request or connection.
//!
//! Invariant: one that is not well (it could not be connected, or its breaker is open) is passed by while there is another;
//! when more are out than the policy allows, breakers are not heeded, nor when no other could be connected. Those of the own
//! zone go first; requests go to another zone the more often, the slower the own one is beside it, so there is no split that
//! somebody has to set.
//! Pure but for the draws.

use std::net::SocketAddr;
use std::time::Instant;

use super::Settings;
use super::list::List;
use super::pick::{two_choices, two_choices_by_weight};
use crate::model::policy::BalancingKind;
use crate::resilience::{breaker, rendezvous};

/// What a request wishes of the choice. The default wishes nothing, and costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Equal ones go to the same endpoint, where the backend's policy balances by hash.
    pub hash: Option<u64>,
    /// This endpoint, if it is listed, well and not yet tried; else the usual choice is made.
    pub stick_to: Option<SocketAddr>,
}

/// What is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// This one.
    Endpoint(usize),
    /// This one, to see whether it is well again.
    Probe(usize),
    /// There are some, but the breakers of all that are left are open.
    AllEjected,
    /// There is nobody to try.
    Nobody,
}

/// What is asked for.
pub(super) struct Asked<'a, F> {
    pub(super) wish: &'a Wish,
    /// It was not tried there yet.
    pub(super) untried: F,
    /// Those that are failing may be tried as well.
    pub(super) in_time: bool,
    /// The last one tried could not be connected.
    pub(super) is_unsent: bool,
    pub(super) now: Instant,
    pub(super) settings: &'a Settings,
}

/// Chooses among `list`.
pub(super) fn choose(list: &mut List, asked: &Asked<'_, impl Fn(&List, usize) -> bool>) -> Choice {
    let breaker = list.breaker();
    let breaks = list.has_ejected() && breaker.is_enabled;
    let heeds = breaks && !list.is_in_panic(&breaker);
    let look = Look { list, asked, breaker, heeds };
    if let Some(i) = look.sticks_to() {
        return Choice::Endpoint(i);
    }
    let hash = asked.wish.hash.filter(|_| matches!(look.list.kind(), Some(BalancingKind::ConsistentHash { .. })));
    if breaks
        && hash.is_none()
        && let Some(i) = look.due()
    {
        return Choice::Probe(i);
    }
    let chosen = match hash {
        Some(key) => look.by_hash(key),
        None => look.by_turns_or_load(),
    };
    let Some(i) = chosen else {
        return if look.heeds && list.has_ejected() { Choice::AllEjected } else { Choice::Nobody };
    };
    if heeds && list.is_ejected(i) { Choice::Probe(i) } else { Choice::Endpoint(i) }
}

struct Look<'a, F> {
    list: &'a List,
    asked: &'a Asked<'a, F>,
    breaker: breaker::Settings,
    /// Whether breakers count.
    heeds: bool,
}

impl<F: Fn(&List, usize) -> bool> Look<'_, F> {
    fn untried(&self, i: usize) -> bool {
        (self.asked.untried)(self.list, i)
    }

    fn is_out(&self, i: usize) -> bool {
        self.heeds && self.list.is_ejected(i)
    }

    fn is_well(&self, i: usize) -> bool {
        !self.list.is_failing(i) && !self.is_out(i)
    }

    /// Nobody was asked so far for want of a connection, and it may be well by now.
    fn is_last_resort(&self, i: usize) -> bool {
        self.asked.is_unsent && self.is_out(i) && !self.list.is_failing(i) && self.untried(i)
    }

    /// Whether it takes part in this choice: new ones and those that ask to be spared do so less often.
    fn takes_part(&self, i: usize) -> bool {
        let share = self.list.share(i, self.asked.now);
        share >= 1.0 || fastrand::f64() < share
    }

    fn load(&self, i: usize) -> f64 {
        match self.list.kind() {
            Some(BalancingKind::LeastRequest) => self.list.requests(i),
            _ => self.list.business(i, self.asked.settings, self.asked.now).load,
        }
    }

    fn sticks_to(&self) -> Option<usize> {
        let i = self.list.find(self.asked.wish.stick_to?)?;
        (self.is_well(i) && self.untried(i)).then_some(i)
    }

    /// One whose ejection is over.
    fn due(&self) -> Option<usize> {
        let is_due = |i: &usize| {
            self.list.is_due(*i, &self.breaker, self.asked.now) && !self.list.is_failing(*i) && self.untried(*i)
        };
        (0..self.list.len()).find(is_due)
    }

    fn by_hash(&self, key: u64) -> Option<usize> {
        let due = |i: usize| self.is_out(i) && self.list.is_due(i, &self.breaker, self.asked.now);
        let well = |i: usize| !self.list.is_failing(i) && (!self.is_out(i) || due(i));
        let chosen = self.highest(key, |i| well(i) && self.untried(i));
        let chosen = chosen.or_else(|| self.highest(key, |i| self.asked.in_time && !self.is_out(i) && self.untried(i)));
        let chosen = chosen.or_else(|| self.highest(key, |i| self.is_last_resort(i)));
        chosen.or_else(|| self.highest(key, |i| self.is_well(i)))
    }

    fn highest(&self, key: u64, eligible: impl Fn(usize) -> bool) -> Option<usize> {
        let list = self.list;
        let most = list.bounded_load();
        let has_room = |i: usize| list.in_flight(i) < rendezvous::room(most.0, list.weight(i), most.1, most.2);
        let place = |i: usize| (rendezvous::place(&list.models()[i].addr), list.weight(i));
        rendezvous::choose(key, list.len(), eligible, has_room, place)
    }

    /// When all are failing, those not yet tried may have come back; and one that is well but refused a request may take it
    /// on a new connection.
    fn by_turns_or_load(&self) -> Option<usize> {
        let first = |i: usize| self.is_well(i) && self.untried(i);
        let mut chosen = self.one(&|i| first(i) && self.takes_part(i));
        if chosen.is_none() && self.list.has_shares() {
            chosen = self.one(&first);
        }
        let chosen = chosen.or_else(|| self.one(&|i| self.asked.in_time && !self.is_out(i) && self.untried(i)));
        let chosen = chosen.or_else(|| self.one(&|i| self.is_last_resort(i)));
        chosen.or_else(|| self.one(&|i| self.is_well(i)))
    }

    /// One of the eligible, of the own zone if that is as good.
    fn one(&self, eligible: &dyn Fn(usize) -> bool) -> Option<usize> {
        let Some(zones) = self.list.zones() else { return self.among(None, eligible) };
        let Some(near) = self.among(Some(&zones.near), eligible) else {
            return self.among(Some(&zones.far), eligible);
        };
        let spilled = self.list.is_slow(near, self.asked.settings, self.asked.now).then(|| {
            let far = self.lightest(Some(&zones.far), eligible)?;
            let share = self.list.spill(near, far, self.asked.settings, self.asked.now);
            (fastrand::f64() < share).then_some(far)
        });
        spilled.flatten().or(Some(near))
    }

    fn among(&self, these: Option<&[u32]>, eligible: &dyn Fn(usize) -> bool) -> Option<usize> {
        if !matches!(self.list.kind(), Some(BalancingKind::RoundRobin)) {
            return self.lightest(these, eligible);
        }
        let at = |k: usize| these.map_or(k, |these| these[k] as usize);
        let n = these.map_or(self.list.len(), <[u32]>::len);
        let mut turns = self.list.turns.get();
        let next = turns.next(n, |k| eligible(at(k)), |k| self.list.weight(at(k)), self.list.heaviest());
        self.list.turns.set(turns);
        next.map(at)
    }

    fn lightest(&self, these: Option<&[u32]>, eligible: &dyn Fn(usize) -> bool) -> Option<usize> {
        let mut random = fastrand::Rng::new();
        let at = |k: usize| these.map_or(k, |these| these[k] as usize);
        let n = these.map_or(self.list.len(), <[u32]>::len);
        let (eligible, load) = (|k: usize| eligible(at(k)), |k: usize| self.load(at(k)));
        let chosen = match self.list.weighs() {
            None => two_choices(n, eligible, load, &mut random),
            Some(heaviest) => {
                let weigh = (|k: usize| self.list.weight(at(k)), heaviest);
                two_choices_by_weight(n, eligible, weigh, load, &mut random)
            }
        };
        chosen.map(at)
    }
}
