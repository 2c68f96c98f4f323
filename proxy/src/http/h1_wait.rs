//! When an HTTP/1 connection that is served has waited long enough: for the rest of a head, or for its next request.
//!
//! Invariant: pure, and one timer per connection, not per request: it is set anew when it has run out, or when the head of a
//! request arrives in parts.

use std::time::Duration;

/// What a connection does, as its socket shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is left to be read or written, and no byte of a request has come.
    Idle,
    /// A part of a request's head has come.
    Head,
    /// A request is being answered.
    Exchange,
    /// The same, and the client is to send the rest of it or to take the answer.
    Awaiting,
}

/// What is to be done when the timer has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The connection has been idle all the time.
    Park,
    /// The head is late, or nothing has moved while it is the client's turn.
    TooSlow,
    /// Nothing: the connection has been used meanwhile.
    Nothing,
}

/// What the timer is set for.
#[derive(Debug)]
pub(super) struct Wait {
    park_after: Duration,
    head: Duration,
    stall: Duration,
    /// The phase that was waited in when the timer was set, and the heads, or movements, that there had been by then.
    set: Option<(Phase, u32)>,
}

impl Wait {
    pub(super) fn new(park_after: Duration, head: Duration, stall: Duration) -> Self {
        Self { park_after, head, stall, set: None }
    }

    /// Whether the connection is parked as soon as it is idle.
    pub(super) fn is_over(&self, phase: Phase) -> bool {
        phase == Phase::Idle && self.park_after.is_zero()
    }

    /// How long to set the timer for, if it must be set anew. `turn` counts the heads that were waited for.
    pub(super) fn set(&mut self, phase: Phase, turn: u32) -> Option<Duration> {
        let pause = match (phase, self.set) {
            (Phase::Exchange, _) => return None,
            // A timer that was set for an earlier turn finds out when it runs out.
            (Phase::Idle, Some((Phase::Idle, _))) | (Phase::Awaiting, Some((Phase::Awaiting, _))) => return None,
            (Phase::Idle, _) => self.park_after,
            (Phase::Head, Some(set)) if set == (Phase::Head, turn) => return None,
            (Phase::Head, _) => self.head,
            (Phase::Awaiting, _) => self.stall,
        };
        self.set = Some((phase, turn));
        Some(pause)
    }

    /// Whether the timer runs.
    pub(super) fn is_set(&self) -> bool {
        self.set.is_some()
    }

    /// The timer has run out.
    pub(super) fn run_out(&mut self, phase: Phase, turn: u32) -> Due {
        match (phase, self.set.take()) {
            (Phase::Idle, Some((Phase::Idle, since))) if since == turn => Due::Park,
            (Phase::Head, Some((Phase::Head, since))) if since == turn => Due::TooSlow,
            (Phase::Awaiting, Some((Phase::Awaiting, since))) if since == turn => Due::TooSlow,
            _ => Due::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARK: Duration = Duration::from_millis(100);
    const HEAD: Duration = Duration::from_secs(10);
    const STALL: Duration = Duration::from_secs(300);

    #[test]
    fn a_client_whose_turn_it_is_may_pause_but_not_for_long() {
        let mut wait = Wait::new(PARK, HEAD, STALL);
        assert_eq!(wait.set(Phase::Awaiting, 7), Some(STALL));
        assert_eq!(wait.set(Phase::Exchange, 1), None, "the timer runs on");
        assert_eq!(wait.set(Phase::Awaiting, 8), None, "not from each byte");
        assert_eq!(wait.run_out(Phase::Awaiting, 8), Due::Nothing, "something has moved");
        assert_eq!(wait.set(Phase::Awaiting, 8), Some(STALL));
        assert_eq!(wait.run_out(Phase::Exchange, 1), Due::Nothing, "it is not the client's turn any more");
        wait.set(Phase::Awaiting, 9);
        assert_eq!(wait.run_out(Phase::Awaiting, 9), Due::TooSlow);
    }

    #[test]
    fn a_connection_that_stays_idle_is_parked() {
        let mut wait = Wait::new(PARK, HEAD, STALL);
        assert_eq!(wait.set(Phase::Idle, 1), Some(PARK));
        assert_eq!(wait.set(Phase::Idle, 1), None, "set already");
        assert_eq!(wait.run_out(Phase::Idle, 1), Due::Park);
    }

    #[test]
    fn without_patience_an_idle_connection_is_parked_at_once() {
        let wait = Wait::new(Duration::ZERO, HEAD, STALL);
        assert!(wait.is_over(Phase::Idle));
        assert!(!wait.is_over(Phase::Head) && !wait.is_over(Phase::Exchange));
        assert!(!Wait::new(PARK, HEAD, STALL).is_over(Phase::Idle));
    }

    #[test]
    fn a_busy_connection_sets_its_timer_once_in_a_while() {
        let mut wait = Wait::new(PARK, HEAD, STALL);
        assert_eq!(wait.set(Phase::Idle, 1), Some(PARK));
        for turn in 2..100 {
            assert_eq!(wait.set(Phase::Exchange, turn - 1), None);
            assert_eq!(wait.set(Phase::Idle, turn), None);
        }
        assert_eq!(wait.run_out(Phase::Idle, 99), Due::Nothing, "it was used meanwhile");
        assert_eq!(wait.set(Phase::Idle, 99), Some(PARK));
        assert_eq!(wait.run_out(Phase::Exchange, 99), Due::Nothing, "a long exchange needs no timer");
        assert!(!wait.is_set());
    }

    #[test]
    fn each_head_has_its_own_time() {
        let mut wait = Wait::new(PARK, HEAD, STALL);
        wait.set(Phase::Idle, 1);
        assert_eq!(wait.set(Phase::Head, 1), Some(HEAD), "from its first byte");
        assert_eq!(wait.set(Phase::Head, 1), None, "not from each byte");
        assert_eq!(wait.set(Phase::Head, 2), Some(HEAD), "the next one again");
        assert_eq!(wait.run_out(Phase::Head, 2), Due::TooSlow);
    }
}
