//! What is known of an endpoint that is in use: latency, breaker, and whether it asked to be spared.
//!
//! Invariant: `is_ejected` and `is_spared` say without a lock whether there is anything out of the ordinary, so that choices
//! among endpoints that are well take no lock for it.

use std::sync::Arc as Shared;
use std::time::{Duration, Instant};

use super::ewma::Ewma;
use super::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use super::sync::{Arc, Mutex, MutexGuard, PoisonError};
use crate::model::policy::BackendPolicy;
use crate::resilience::breaker::{Admits, Breaker, Change, Outcome, Settings};

/// What the endpoints of a backend are together.
#[derive(Default)]
pub(super) struct Fleet {
    /// How many are ejected; of those that were listed before as well, while they finish what they have.
    pub(super) ejected: AtomicUsize,
}

/// See the module.
pub(super) struct Vitals {
    known: Mutex<Known>,
    is_ejected: AtomicBool,
    is_spared: AtomicBool,
    fleet: Arc<Fleet>,
}

struct Known {
    latency: Ewma,
    breaker: Breaker,
    spared_until: Option<Instant>,
}

/// Of the requests that it would get otherwise, one that asks to be spared gets this share.
const SPARED: f64 = 0.1;

/// The breaker's settings under `policy`.
pub(super) fn breaker_of(policy: Option<&Shared<BackendPolicy>>) -> Settings {
    policy.map(|policy| policy.breaker).unwrap_or_default()
}

impl Vitals {
    /// Of an endpoint that is listed `since` then.
    pub(super) fn new(latency: Ewma, since: Instant, fleet: Arc<Fleet>) -> Self {
        let known = Known { latency, breaker: Breaker::new(since), spared_until: None };
        let (is_ejected, is_spared) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { known: Mutex::new(known), is_ejected, is_spared, fleet }
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.is_ejected.load(Ordering::Relaxed)
    }

    /// Whether a probe may go to it now.
    pub(super) fn is_due(&self, settings: &Settings, now: Instant) -> bool {
        self.is_ejected() && self.known().breaker.admits(settings, now) == Admits::Probe
    }

    /// When it may be probed, if it is ejected.
    pub(super) fn ejected_until(&self) -> Option<Instant> {
        if self.is_ejected() { self.known().breaker.until() } else { None }
    }

    pub(super) fn failures_in_a_row(&self) -> u32 {
        self.known().breaker.in_a_row()
    }

    pub(super) fn probe(&self, now: Instant) {
        self.known().breaker.probe(now);
    }

    pub(super) fn probe_abandoned(&self, now: Instant) {
        self.known().breaker.probe_abandoned(now);
    }

    /// It was connected again, after a failed attempt.
    pub(super) fn reached(&self, now: Instant) {
        if self.is_ejected() {
            self.known().breaker.reached(now);
        }
    }

    /// What an exchange said of it.
    pub(super) fn observe(&self, outcome: Outcome, settings: &Settings, now: Instant) -> Option<Change> {
        let mut known = self.known();
        let change = known.breaker.observe(outcome, settings, now, &mut fastrand::Rng::new());
        // Under the lock, so that flags and counts follow in the same order.
        match change {
            Some(Change::Ejected(_)) => self.set_ejected(true),
            Some(Change::Returned) => self.set_ejected(false),
            None => {}
        }
        change
    }

    fn set_ejected(&self, ejected: bool) {
        if self.is_ejected.swap(ejected, Ordering::Relaxed) != ejected {
            match ejected {
                true => self.fleet.ejected.fetch_add(1, Ordering::Relaxed),
                false => self.fleet.ejected.fetch_sub(1, Ordering::Relaxed),
            };
        }
    }

    /// Gives it less for so long.
    pub(super) fn spare(&self, pause: Duration, now: Instant) {
        let mut known = self.known();
        known.spared_until = known.spared_until.max(Some(now + pause));
        self.is_spared.store(true, Ordering::Relaxed);
    }

    /// Whether it may have asked to be spared.
    pub(super) fn is_spared(&self) -> bool {
        self.is_spared.load(Ordering::Relaxed)
    }

    /// The share of what it would get otherwise, by what it has asked for.
    pub(super) fn share(&self, now: Instant) -> f64 {
        if !self.is_spared() {
            return 1.0;
        }
        let mut known = self.known();
        if known.spared_until.is_some_and(|until| now < until) {
            return SPARED;
        }
        known.spared_until = None;
        self.is_spared.store(false, Ordering::Relaxed);
        1.0
    }

    pub(super) fn with_latency<T>(&self, look: impl FnOnce(&mut Ewma) -> T) -> T {
        look(&mut self.known().latency)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Vitals {
    fn drop(&mut self) {
        self.set_ejected(false);
    }
}
