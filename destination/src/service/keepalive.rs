//! Pings, so that a peer that is gone without a word does not stay.
//!
//! Invariant: one ping is on its way at a time, and has to be answered in time. Non-goal: measuring round trips.

use std::ops::ControlFlow;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use h2::PingPong;

use super::Settings;

/// Of one connection.
#[derive(Debug)]
pub(super) struct Keepalive {
    pings: PingPong,
    state: Ping,
}

#[derive(Debug)]
enum Ping {
    /// The next one goes then.
    Due(Instant),
    /// One is on its way, and has to be answered by then.
    Sent(Instant),
}

impl Keepalive {
    pub(super) fn new(pings: PingPong, settings: &Settings, now: Instant) -> Self {
        Self { pings, state: Ping::Due(now + settings.ping_interval) }
    }

    /// Asks or listens; when to do so again. Breaks when the peer does not answer.
    pub(super) fn turn(&mut self, settings: &Settings, now: Instant) -> ControlFlow<(), Instant> {
        if matches!(self.state, Ping::Sent(_)) {
            // The task drives the connection itself, so that nobody has to be woken by an answer.
            match self.pings.poll_pong(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(_)) => self.state = Ping::Due(now + settings.ping_interval),
                Poll::Ready(Err(_)) => return ControlFlow::Break(()),
                Poll::Pending => {}
            }
        }
        match self.state {
            Ping::Due(at) if now >= at => {
                if self.pings.send_ping(h2::Ping::opaque()).is_err() {
                    return ControlFlow::Break(());
                }
                self.state = Ping::Sent(now + settings.ping_timeout);
                ControlFlow::Continue(now + settings.ping_timeout)
            }
            Ping::Sent(by) if now >= by => ControlFlow::Break(()),
            Ping::Due(at) | Ping::Sent(at) => ControlFlow::Continue(at),
        }
    }
}
