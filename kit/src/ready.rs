//! Readiness: the conjunction of named checks, and the end of readiness when a daemon drains.
//!
//! Invariant: once drained, never ready again. Non-goal: liveness, which needs no state (a process that answers is
//! alive).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whether one check holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    Ready,
    /// It does not hold yet, or no longer.
    Waiting,
}

/// All checks of one daemon. Clones share the state.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    state: Arc<Mutex<State>>,
}

/// One named check, to be set by whoever knows. It keeps its last status when dropped.
#[derive(Clone, Debug)]
pub struct Check {
    readiness: Readiness,
    index: usize,
}

#[derive(Debug, Default)]
struct State {
    checks: Vec<(&'static str, Status)>,
    draining: bool,
}

impl Readiness {
    /// No checks yet, hence ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check, which waits until it is set.
    #[must_use = "a check that nobody sets is never ready"]
    pub fn check(&self, name: &'static str) -> Check {
        let mut state = self.lock();
        state.checks.push((name, Status::Waiting));
        Check { readiness: self.clone(), index: state.checks.len() - 1 }
    }

    /// Whether every check holds and the daemon does not drain.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let state = self.lock();
        !state.draining && state.checks.iter().all(|(_, status)| *status == Status::Ready)
    }

    /// The names of what is waited for; `draining` among them after [`Self::drain`].
    #[must_use]
    pub fn waiting(&self) -> Vec<&'static str> {
        let state = self.lock();
        let waiting = state.checks.iter().filter(|(_, status)| *status == Status::Waiting);
        waiting.map(|(name, _)| *name).chain(state.draining.then_some("draining")).collect()
    }

    /// Makes the daemon unready for good.
    pub fn drain(&self) {
        self.lock().draining = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Check {
    /// Says whether the check holds now.
    pub fn set(&self, status: Status) {
        if let Some((_, current)) = self.readiness.lock().checks.get_mut(self.index) {
            *current = status;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_that_every_check_holds() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let (certified, listening) = (readiness.check("certified"), readiness.check("listening"));
        listening.set(Status::Ready);
        assert!(!readiness.is_ready());
        assert_eq!(readiness.waiting(), ["certified"]);
        certified.set(Status::Ready);
        assert!(readiness.is_ready());
        listening.set(Status::Waiting);
        assert_eq!(readiness.waiting(), ["listening"]);
    }

    #[test]
    fn a_drained_daemon_never_becomes_ready_again() {
        let readiness = Readiness::new();
        let check = readiness.check("certified");
        readiness.drain();
        check.set(Status::Ready);
        assert!(!readiness.is_ready());
        assert_eq!(readiness.waiting(), ["draining"]);
    }
}
