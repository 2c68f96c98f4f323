//! When requests are due, evenly spaced, and a clock that says so on time.
//!
//! Invariant: the n-th request is due at a moment that no other request's fate changes; a late server makes late answers
//! and never a lower rate.
//! Non-goal: random arrivals.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const SECOND: u64 = 1_000_000_000;
/// Above 20,000/s several requests are due at each tick.
const FASTEST: Duration = Duration::from_micros(50);

/// A number of requests at a rate, from a moment on.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// When the first is due.
    pub start: Instant,
    /// Requests per second, at least 1.
    pub rate: u32,
    /// How many in all.
    pub count: u64,
}

impl Schedule {
    /// `seconds` of requests.
    #[must_use]
    pub fn new(start: Instant, rate: u32, seconds: u32) -> Self {
        Self { start, rate: rate.max(1), count: u64::from(rate) * u64::from(seconds) }
    }

    /// When request `number`, counted from 0, is due.
    #[must_use]
    pub fn due(&self, number: u64) -> Instant {
        let (seconds, rest) = (number / u64::from(self.rate), number % u64::from(self.rate));
        self.start + Duration::from_secs(seconds) + Duration::from_nanos(rest * SECOND / u64::from(self.rate))
    }

    /// How many are due at `now`.
    #[must_use]
    pub fn due_by(&self, now: Instant) -> u64 {
        let Some(elapsed) = now.checked_duration_since(self.start) else { return 0 };
        // `due` rounds down to whole nanoseconds: the nanosecond that has begun counts as passed.
        let due = ((elapsed.as_nanos() + 1) * u128::from(self.rate)).div_ceil(u128::from(SECOND));
        u64::try_from(due).unwrap_or(u64::MAX).min(self.count)
    }

    /// When the last is due.
    #[must_use]
    pub fn end(&self) -> Instant {
        self.due(self.count.saturating_sub(1))
    }
}

/// Ticks as often as a schedule's requests are due. A timer of the kernel: the runtime's own counts in milliseconds.
pub struct Ticker(AsyncFd<File>);

impl Ticker {
    /// Begins to tick.
    ///
    /// # Errors
    /// When the kernel gives no timer, or outside of a runtime.
    pub fn start(rate: u32) -> io::Result<Self> {
        let period = (Duration::from_secs(1) / rate.max(1)).max(FASTEST);
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        let every = Expiration::Interval(TimeSpec::from_duration(period));
        timer.set(every, TimerSetTimeFlags::empty())?;
        // The successor is unsafe, for types that lose their descriptor while they live; a file keeps its own.
        #[expect(deprecated)]
        let timer = AsyncFd::with_interest(File::from(OwnedFd::from(timer)), Interest::READABLE)?;
        Ok(Self(timer))
    }

    /// Waits for the next tick; those that were missed are one.
    ///
    /// # Errors
    /// When the timer cannot be read.
    pub async fn tick(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable_mut().await?;
            let mut expirations = [0; 8];
            match ready.try_io(|timer| timer.get_mut().read_exact(&mut expirations)) {
                Ok(read) => return read,
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_evenly_from_the_start_on() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 1000, 2);
        assert_eq!(schedule.count, 2000);
        for (number, micros) in [(0, 0), (1, 1000), (999, 999_000), (1999, 1_999_000)] {
            assert_eq!(schedule.due(number), start + Duration::from_micros(micros));
        }
        assert_eq!(schedule.end(), schedule.due(1999));
    }

    #[test]
    fn what_is_due_agrees_with_when_it_is_due() {
        let start = Instant::now();
        for rate in [1, 3, 7, 1000, 1001, 30_000] {
            let schedule = Schedule::new(start, rate, 3);
            for number in [0, 1, 2, 5, u64::from(rate) - 1, u64::from(rate), 3 * u64::from(rate) - 1] {
                let number = number.min(schedule.count - 1);
                assert_eq!(schedule.due_by(schedule.due(number)), number + 1, "number {number} at {rate}/s");
            }
            assert_eq!(schedule.due_by(start + Duration::from_secs(60)), schedule.count);
        }
    }

    #[test]
    fn nothing_is_due_before_the_start() {
        let start = Instant::now() + Duration::from_secs(1);
        assert_eq!(Schedule::new(start, 1000, 1).due_by(Instant::now()), 0);
    }

    #[tokio::test]
    async fn a_ticker_keeps_its_rate() {
        let start = Instant::now();
        let mut ticker = Ticker::start(1000).unwrap();
        for _ in 0..100 {
            ticker.tick().await.unwrap();
        }
        // A busy machine may miss ticks and so take longer, never shorter.
        assert!(start.elapsed() >= Duration::from_millis(99), "{:?}", start.elapsed());
    }
}
