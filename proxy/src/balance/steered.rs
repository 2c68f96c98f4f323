//! The loop that gets a request to an endpoint where a policy, or the caller's deadline, says how long it may take and when it
//! is sent again.
//!
//! Invariant: whatever is tried, it ends with the request's time; a retry is within the policy's attempts and the backend's
//! budget; and a response is given up only when the request can be sent again from its first byte.
//! Non-goal: requests without a policy; `Backend::send` is theirs, and pays for nothing here.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Response;
use http_body_util::BodyExt as _;

use super::backend::{Backend, Failed, Tried};
use super::choice;
use super::endpoint::{Endpoint, Load};
use super::request::Repeatable;
use super::verdict::{self, Pushback, Wish};
use crate::http::deadline::{Deadline, has_trailers};
use crate::http::headers::GRPC_STATUS;
use crate::http::timed::{Activity, Limits};
use crate::http::{Body, BoxedRequest, Caller, Failure, Late};
use crate::model::policy::{RequestPolicy, Retries, Timeouts};
use crate::resilience::budget;

/// How one request is treated.
pub struct Terms {
    began: Instant,
    policy: Option<Arc<RequestPolicy>>,
    /// The caller's own.
    deadline: Option<Deadline>,
    /// Hears of a response that was broken off after its head.
    pub broken: Arc<dyn Fn(Late) + Send + Sync>,
}

/// When it is over, and by whose word.
type End = (Instant, Late);

/// A response of gRPC that may be of trailers only is held back so long at most, to see whether it is.
const PEEK: Duration = Duration::from_millis(100);

impl Terms {
    /// Of a request that came at `began`.
    pub fn new(
        began: Instant,
        policy: Option<Arc<RequestPolicy>>,
        deadline: Option<Deadline>,
        broken: Arc<dyn Fn(Late) + Send + Sync>,
    ) -> Self {
        Self { began, policy, deadline, broken }
    }

    /// When all of it is over.
    pub fn ends_at(&self) -> Option<Instant> {
        self.end().map(|(at, _)| at)
    }

    fn timeouts(&self) -> Timeouts {
        self.policy.as_ref().map(|policy| policy.timeouts).unwrap_or_default()
    }

    fn retries(&self) -> Option<&Retries> {
        self.policy.as_ref()?.retries.as_ref()
    }

    fn budget(&self) -> crate::model::policy::Budget {
        self.policy.as_ref().and_then(|policy| policy.budget).unwrap_or(budget::DEFAULT)
    }

    fn idle(&self) -> Option<Duration> {
        self.timeouts().stream_idle.flatten()
    }

    /// When a try is over that begins just now.
    fn end_of_try(&self) -> Option<(Instant, Duration)> {
        let limit = self.timeouts().backend.flatten()?;
        Some((Instant::now().checked_add(limit)?, limit))
    }

    /// When all of it is over, and by whose word.
    fn end(&self) -> Option<End> {
        let request = self.timeouts().request.flatten();
        let request = request.and_then(|limit| Some((self.began.checked_add(limit)?, Late::Request(limit))));
        let deadline = self.deadline.map(|deadline| (deadline.0, Late::Deadline));
        request.into_iter().chain(deadline).min_by_key(|(at, _)| *at)
    }
}

impl Backend {
    /// Gets `request` to an endpoint, as `terms` say. `on_pick` hears of each choice before it is tried.
    pub async fn send_under(
        &self,
        mut request: BoxedRequest,
        caller: &Caller,
        wish: &choice::Wish,
        terms: &Terms,
        on_pick: impl FnMut(&Endpoint) + Send,
    ) -> Result<Response<Body>, Failed> {
        let has_trailers = has_trailers(&request);
        let activity = terms.idle().map(|limit| (limit, Activity::new()));
        if let Some((_, activity)) = &activity {
            let body = std::mem::take(request.body_mut());
            *request.body_mut() = body.noted(Arc::clone(activity));
        }
        let end = terms.end();
        if let Some((at, late)) = end
            && at <= Instant::now()
        {
            return Err(self.late(late));
        }
        self.budget().request(terms.budget(), terms.began);
        let tries = Tries::new(self, request, caller, (wish, terms), activity.clone());
        let tries = pin!(tries.run(on_pick));
        let result = match end {
            None => tries.await,
            Some((at, late)) => {
                let result = tokio::time::timeout_at(at.into(), tries).await;
                result.unwrap_or_else(|_| Err(self.late(late)))
            }
        };
        let (response, end_of_try) = result?;
        let end = end.into_iter().chain(end_of_try).min_by_key(|(at, _)| *at);
        if end.is_none() && activity.is_none() {
            return Ok(response);
        }
        let (timeouts, broken) = (self.metrics().timeouts(), Arc::clone(&terms.broken));
        let broken = move |late: Late| {
            timeouts.count(late.kind());
            broken(late);
        };
        let end = end.map(|(at, late)| (at.into(), late));
        Ok(response.map(|body| body.timed(Limits { end, has_trailers, idle: activity, broken: Box::new(broken) })))
    }

    fn late(&self, late: Late) -> Failed {
        self.metrics().timeouts().count(late.kind());
        self.failed(Some(Failure::Late(late)))
    }
}

/// The tries of one request.
struct Tries<'a> {
    backend: &'a Backend,
    caller: &'a Caller,
    /// What is wished of it.
    endpoint: &'a choice::Wish,
    terms: &'a Terms,
    activity: Option<(Duration, Arc<Activity>)>,
    request: Repeatable,
    tried: Tried,
    /// How often it was sent again.
    retries: u32,
    /// Such as the policy asks for.
    wanted: u32,
    /// When the try that is on its way is over, and how long it may take.
    end: Option<(Instant, Duration)>,
}

/// How a try ended.
type Outcome = Result<Response<Body>, Failure>;

impl<'a> Tries<'a> {
    fn new(
        backend: &'a Backend,
        request: BoxedRequest,
        caller: &'a Caller,
        (endpoint, terms): (&'a choice::Wish, &'a Terms),
        activity: Option<(Duration, Arc<Activity>)>,
    ) -> Self {
        let (request, tried) = (Repeatable::new(request), Tried::without_end());
        Self { backend, caller, endpoint, terms, activity, request, tried, retries: 0, wanted: 0, end: None }
    }

    /// The response to pass on, and when its try is over.
    async fn run(mut self, mut on_pick: impl FnMut(&Endpoint) + Send) -> Result<(Response<Body>, Option<End>), Failed> {
        let place = self.backend.enter().await?;
        loop {
            let mut load = self.pick()?;
            if let Some((end, _)) = self.terms.end() {
                load.expect_by(self.terms.began, end);
            }
            on_pick(load.endpoint());
            let (outcome, wish) = self.attempt(&mut load).await;
            if let Some(failure) = outcome.as_ref().err() {
                self.backend.judge(&mut load, failure);
            }
            let pause = match wish {
                Some(wish) => self.again(wish, &outcome),
                None => self.settled(&outcome),
            };
            let (Some(pause), Some(wish)) = (pause, wish) else {
                return match outcome {
                    Ok(response) => {
                        load.keep(place);
                        Ok((response.map(|body| body.witnessed(load)), self.end.map(late)))
                    }
                    Err(failure) => Err(self.backend.failed(Some(failure))),
                };
            };
            self.backend.metrics().retry_result("attempted");
            self.backend.leave(&load, wish.word(), outcome.err(), &mut self.tried);
            // What it held of the upstream goes now, not after the pause: an answer that nobody wants is not read on.
            drop(load);
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// The endpoint to try next: another one, unless there is none and the policy asks for more.
    fn pick(&mut self) -> Result<Load, Failed> {
        let picked = self.backend.pick(&self.tried, self.endpoint);
        if picked.is_err() && self.wanted > 0 && self.tried.start_over() {
            return self.backend.pick(&self.tried, self.endpoint);
        }
        picked
    }

    /// One try, and what is wished of it.
    async fn attempt(&mut self, load: &mut Load) -> (Outcome, Option<Wish>) {
        match self.send(load).await {
            Ok(response) => {
                load.heard(&response, Instant::now());
                let (response, trailers) = self.peek(response).await;
                if let Some(trailers) = &trailers {
                    load.ended(trailers);
                }
                let wish = self.terms.retries().and_then(|retries| {
                    verdict::of_response(retries, self.request.is_grpc(), &response, trailers.as_ref())
                });
                (Ok(response), wish)
            }
            Err(failure) => {
                let safe = self.request.is_safe_after(&failure);
                let wish = verdict::of_failure(self.terms.retries(), self.request.is_grpc(), safe, &failure);
                (Err(failure), wish)
            }
        }
    }

    /// One try, to the head of its response.
    async fn send(&mut self, load: &Load) -> Outcome {
        let timeouts = self.terms.timeouts();
        if let Some(deadline) = self.terms.deadline {
            let end = self.terms.end().map_or(deadline, |(at, _)| Deadline(at));
            self.request.tell(end);
        }
        let limit = timeouts.response_headers.unwrap_or_else(|| self.request.patience(load.endpoint().http()));
        let metrics = self.backend.metrics();
        let sent = async {
            let result = self.backend.once(load, &mut self.request, self.caller, limit).await;
            if matches!(result, Err(Failure::Silent(_))) {
                metrics.timeouts().count("response_headers");
            }
            result
        };
        let sent = pin!(async {
            let result = unless_silent(self.activity.as_ref(), sent).await;
            if let Err(Failure::Late(late @ Late::Idle(_))) = &result {
                metrics.timeouts().count(late.kind());
            }
            result
        });
        self.end = self.terms.end_of_try();
        let Some((at, limit)) = self.end else { return sent.await };
        let result = tokio::time::timeout_at(at.into(), sent).await;
        result.unwrap_or_else(|_| {
            metrics.timeouts().count(Late::Backend(limit).kind());
            Err(Failure::Silent(limit))
        })
    }

    /// Looks at the first frame of a response of gRPC, when its status may be in it.
    async fn peek(&self, response: Response<Body>) -> (Response<Body>, Option<http::HeaderMap>) {
        let is_asked_for = self.terms.retries().is_some_and(|retries| retries.grpc != 0) && self.request.is_grpc();
        let is_over = response.headers().contains_key(&GRPC_STATUS) || http_body::Body::is_end_stream(response.body());
        // A client that has more to say may wait for the head with it.
        if !is_asked_for || is_over || self.request.out_for().is_none() || !self.may_try_again() {
            return (response, None);
        }
        let (head, mut body) = response.into_parts();
        let mut trailers = None;
        if let Ok(Some(first)) = tokio::time::timeout(PEEK, body.frame()).await {
            trailers = first.as_ref().ok().and_then(|frame| frame.trailers_ref().cloned());
            body = body.ahead(first);
        }
        (Response::from_parts(head, body), trailers)
    }

    fn may_try_again(&self) -> bool {
        self.terms.retries().is_some_and(|retries| self.wanted < retries.attempts) && self.request.is_whole()
    }

    /// Whether the request is sent again, after a pause; then it is ready for it.
    fn again(&mut self, wish: Wish, outcome: &Outcome) -> Option<Duration> {
        let result = |result| self.backend.metrics().retry_result(result);
        let pause = match self.pause(&wish) {
            Ok(pause) => pause,
            Err(over) => return refused(result, over),
        };
        if !self.request.is_whole() {
            return refused(result, "too_large");
        }
        let is_free = outcome.as_ref().err().is_some_and(Failure::is_connect);
        if !is_free && !self.backend.budget().retry(self.terms.budget(), Instant::now()) {
            return refused(result, "budget_exceeded");
        }
        if !self.request.rewind() {
            return refused(result, "too_large");
        }
        self.retries += 1;
        self.wanted += u32::from(wish.is_wanted());
        Some(pause)
    }

    /// How long to wait; or the limit that is in the way.
    fn pause(&self, wish: &Wish) -> Result<Duration, &'static str> {
        const OVER: &str = "limit_exceeded";
        let Some(retries) = self.terms.retries() else {
            // As without a policy: once more, and at once.
            return if self.retries == 0 || wish.is_unsent() { self.safe() } else { Err(OVER) };
        };
        if !wish.is_wanted() {
            return self.safe();
        }
        if self.wanted >= retries.attempts {
            return Err(OVER);
        }
        let doubled = retries.backoff.saturating_mul(1 << self.wanted.min(16));
        let backoff = retries.least_backoff + doubled.min(retries.max_backoff).mul_f64(fastrand::f64());
        let pause = match wish.pushback() {
            Pushback::None if wish.is_unsent() && self.wanted == 0 => Duration::ZERO,
            Pushback::None => backoff,
            Pushback::After(asked) if asked <= retries.max_retry_after => asked.max(backoff),
            Pushback::After(_) | Pushback::Never => return Err(OVER),
        };
        let in_time = self.terms.end().is_none_or(|(at, _)| Instant::now() + pause < at);
        if in_time { Ok(pause) } else { Err(OVER) }
    }

    fn safe(&self) -> Result<Duration, &'static str> {
        let most = self.backend.tries();
        if (self.retries as usize) + 1 < most { Ok(Duration::ZERO) } else { Err("limit_exceeded") }
    }

    /// It needs no other try.
    fn settled(&self, outcome: &Outcome) -> Option<Duration> {
        if self.retries > 0 && outcome.is_ok() {
            self.backend.metrics().retry_result("succeeded");
        }
        None
    }
}

fn late((at, limit): (Instant, Duration)) -> End {
    (at, Late::Backend(limit))
}

fn refused(result: impl Fn(&'static str), why: &'static str) -> Option<Duration> {
    result(why);
    None
}

/// `sent`, unless nothing passes either way for too long.
async fn unless_silent(activity: Option<&(Duration, Arc<Activity>)>, sent: impl Future<Output = Outcome>) -> Outcome {
    let Some((limit, activity)) = activity else { return sent.await };
    tokio::select! {
        biased;
        result = sent => result,
        () = activity.silent_for(*limit) => Err(Failure::Late(Late::Idle(*limit))),
    }
}
