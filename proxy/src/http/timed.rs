//! Bodies with an end in time: of an exchange that may take only so long, or be silent only so long.
//!
//! Invariant: a body whose time is over breaks, with CANCEL on HTTP/2, and its sender is told at once; it never looks whole. A call
//! whose own deadline it was ends with its status in trailers instead: a caller whose clock is a little behind ours would take
//! CANCEL for what it says.
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
    /// Whether its receiver understands a status in trailers (`deadline::has_trailers`).
    pub has_trailers: bool,
    /// How long it may be silent, and what knows how long it is.
    pub idle: Option<(Duration, Arc<Activity>)>,
    /// Hears of the break.
    pub broken: Box<dyn Fn(Late) + Send + Sync>,
}

pub(super) struct Timed {
    pub(super) body: Body,
    /// None once it is over.
    limits: Option<Limits>,
    timer: Pin<Box<Sleep>>,
}

impl Timed {
    pub(super) fn new(body: Body, limits: Limits) -> Self {
        let timer = Box::pin(sleep_until(limits.next().0));
        Self { body, limits: Some(limits), timer }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // First: a body that always has more to give shall end as well.
        while let Some(limits) = &self.limits
            && self.timer.as_mut().poll(cx).is_ready()
        {
            let (at, late) = limits.next();
            if at <= Instant::now() {
                (limits.broken)(late);
                let end = limits.last(late);
                (self.body, self.limits) = (Body::empty(), None);
                return Poll::Ready(Some(end));
            }
            self.timer.as_mut().reset(at);
        }
        let polled = http_body::Body::poll_frame(Pin::new(&mut self.body), cx);
        if let (Poll::Ready(_), Some(Limits { idle: Some((_, activity)), .. })) = (&polled, &self.limits) {
            activity.note();
        }
        polled
    }
}

impl Limits {
    /// What comes in place of the rest.
    fn last(&self, late: Late) -> Result<Frame<Bytes>, BodyError> {
        match late {
            Late::Deadline if self.has_trailers => Ok(Frame::trailers(late.reason().trailers(&late.to_string()))),
            _ => Err(BodyError::Late(late)),
        }
    }

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
            has_trailers: true,
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

    fn by_deadline(has_trailers: bool, broken: impl Fn(Late) + Send + Sync + 'static) -> Limits {
        let end = Some((Instant::now() + SECOND, Late::Deadline));
        Limits { end, has_trailers, idle: None, broken: Box::new(broken) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_whose_deadline_is_over_ends_with_its_status_once() {
        let heard = Arc::new(AtomicU64::new(0));
        for has_trailers in [true, false] {
            let hears = Arc::clone(&heard);
            let gate = Arc::new(super::super::body::Gate::default());
            let late = Body::full("late").gated(gate, 1000 * SECOND);
            let mut body = late.timed(by_deadline(has_trailers, move |_| _ = hears.fetch_add(1, Ordering::Relaxed)));
            match (has_trailers, body.frame().await.expect("no end")) {
                (true, Ok(frame)) => {
                    let trailers = frame.into_trailers().expect("no data");
                    assert_eq!(trailers["grpc-status"], "4");
                    assert_eq!(trailers["grpc-message"], "deadline; the caller's deadline is over");
                    assert!(http_body::Body::is_end_stream(&body) && body.frame().await.is_none());
                }
                (false, Err(error)) => assert_eq!(error.reason(), h2::Reason::CANCEL),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(heard.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_in_time_passes_whole() {
        let limits = by_deadline(true, |_| ());
        let whole = Body::full("whole").timed(limits).collect().await.expect("no break");
        assert_eq!(whole.to_bytes(), "whole");
    }
}
