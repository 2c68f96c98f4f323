//! Bodies with an end in time: of an exchange that may take only so long, or be silent only so long.
//!
//! Invariant: a body whose time is over breaks, with CANCEL on HTTP/2, and its sender is told at once; it never ends cleanly.
//! Non-goal: a receiver that takes nothing; that is `Settings::stall_timeout`'s.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Late;
use super::body::{Body, BodyError};

/// When something last passed, either way, of one exchange.
#[derive(Debug)]
pub struct Activity {
    begun: Instant,
    millis: AtomicU64,
}

impl Activity {
    /// Something passes now.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { begun: Instant::now(), millis: AtomicU64::new(0) })
    }

    fn note(&self) {
        let passed = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.store(passed, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.begun + Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }

    /// Ready when nothing has passed for as long as `limit`.
    pub async fn silent_for(&self, limit: Duration) {
        while self.last() + limit > Instant::now() {
            tokio::time::sleep_until(self.last() + limit).await;
        }
    }
}

/// What bounds a body.
pub struct Limits {
    /// The end of the exchange, and whose it is.
    pub end: Option<(Instant, Late)>,
    /// How long it may be silent, and what knows how long it is.
    pub idle: Option<(Duration, Arc<Activity>)>,
    /// Hears of the break.
    pub broken: Box<dyn Fn(Late) + Send + Sync>,
}

pub(super) struct Timed {
    pub(super) body: Body,
    limits: Limits,
    timer: Pin<Box<Sleep>>,
}

impl Timed {
    pub(super) fn new(body: Body, limits: Limits) -> Self {
        let timer = Box::pin(sleep_until(limits.next().0));
        Self { body, limits, timer }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // First: a body that always has more to give shall end as well.
        while self.timer.as_mut().poll(cx).is_ready() {
            let (at, late) = self.limits.next();
            if at <= Instant::now() {
                self.body = Body::empty();
                (self.limits.broken)(late);
                return Poll::Ready(Some(Err(BodyError::Late(late))));
            }
            self.timer.as_mut().reset(at);
        }
        let polled = http_body::Body::poll_frame(Pin::new(&mut self.body), cx);
        if let (Poll::Ready(_), Some((_, activity))) = (&polled, &self.limits.idle) {
            activity.note();
        }
        polled
    }
}

impl Limits {
    /// What is due next, as far as is known now.
    fn next(&self) -> (Instant, Late) {
        let idle = self.idle.as_ref().map(|(limit, activity)| (activity.last() + *limit, Late::Idle(*limit)));
        let never = (Instant::now() + Duration::from_secs(24 * 3600), Late::Deadline);
        self.end.into_iter().chain(idle).min_by_key(|(at, _)| *at).unwrap_or(never)
    }
}

/// A body whose frames are noted.
pub(super) struct Noted {
    pub(super) body: Body,
    pub(super) activity: Arc<Activity>,
}

impl Noted {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = http_body::Body::poll_frame(Pin::new(&mut self.body), cx);
        if polled.is_ready() {
            self.activity.note();
        }
        polled
    }
}

/// A body whose first frame was looked at.
pub(super) struct Ahead {
    pub(super) first: Option<Result<Frame<Bytes>, BodyError>>,
    pub(super) body: Body,
}

impl Ahead {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => http_body::Body::poll_frame(Pin::new(&mut self.body), cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http_body_util::BodyExt as _;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A body that never comes, with limits, and what was heard of its break.
    fn endless(end: Option<Duration>, idle: Option<Duration>) -> (Body, Arc<Activity>, Arc<Mutex<Vec<Late>>>) {
        let (activity, heard) = (Activity::new(), Arc::<Mutex<Vec<Late>>>::default());
        let hears = Arc::clone(&heard);
        let limits = Limits {
            end: end.map(|after| (Instant::now() + after, Late::Request(after))),
            idle: idle.map(|limit| (limit, Arc::clone(&activity))),
            broken: Box::new(move |late| hears.lock().unwrap().push(late)),
        };
        let gate = Arc::new(super::super::body::Gate::default());
        let body = Body::full("late").gated(gate, 1000 * SECOND);
        (body.timed(limits), activity, heard)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_whose_time_is_over_breaks_and_is_no_clean_end() {
        let (mut body, _, heard) = endless(Some(3 * SECOND), None);
        let start = Instant::now();
        let error = body.frame().await.expect("no end").expect_err("no frame");
        assert_eq!((start.elapsed(), error.reason()), (3 * SECOND, h2::Reason::CANCEL));
        assert_eq!(*heard.lock().unwrap(), [Late::Request(3 * SECOND)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_body_breaks_unless_the_other_way_is_busy() {
        let (mut body, activity, heard) = endless(None, Some(2 * SECOND));
        let start = Instant::now();
        tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(SECOND).await;
                activity.note();
            }
        });
        assert!(matches!(body.frame().await, Some(Err(_))));
        assert_eq!(start.elapsed(), 7 * SECOND);
        assert_eq!(*heard.lock().unwrap(), [Late::Idle(2 * SECOND)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_in_time_passes_whole() {
        let limits =
            Limits { end: Some((Instant::now() + SECOND, Late::Deadline)), idle: None, broken: Box::new(|_| ()) };
        let whole = Body::full("whole").timed(limits).collect().await.expect("no break");
        assert_eq!(whole.to_bytes(), "whole");
    }
}
