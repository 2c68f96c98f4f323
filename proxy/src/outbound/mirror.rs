//! Requests that are sent to another backend as well, whose answers are dropped.
//!
//! Invariant: the request itself never waits for a copy, and fares as it would without. Copies are bounded: so many at a time, each
//! for so long, and 64 KiB of body that a mirror has not yet taken (`http::tee`); what is beyond that is dropped and counted.
//! A copy is the request as it goes to its own backend, host and path included.
//! Non-goal: upgrades and CONNECT, which are no requests that could be copied.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Request;
use http::header::EXPECT;
use http_body_util::BodyExt as _;
use mesh_kit::pressure::{self, Level};

use super::leg::Leg;
use crate::balance::Wish;
use crate::http::body::measure;
use crate::http::tee::Pace;
use crate::http::{Body, BoxedRequest, Caller, headers};
use crate::metrics::Metrics;
use crate::model::policy::Mirror;

/// A copy lasts so long at most, whatever its request does.
const LONGEST: Duration = Duration::from_secs(60);

/// How many copies are on their way.
pub(super) struct Mirrors {
    most: usize,
    in_flight: Arc<AtomicUsize>,
    metrics: Metrics,
}

/// The head of a copy, and where it goes.
pub(super) struct Copied {
    leg: Arc<Leg>,
    head: Request<()>,
}

/// A place among those on their way.
struct Place(Arc<AtomicUsize>);

impl Mirrors {
    pub(super) fn new(most: usize, metrics: &Metrics) -> Self {
        Self { most, in_flight: Arc::default(), metrics: metrics.clone() }
    }

    /// Copies the head of `request` for `mirror`, if chance has it.
    pub(super) fn copy(&self, mirror: &Mirror, leg: Option<&Arc<Leg>>, request: &BoxedRequest) -> Option<Copied> {
        if fastrand::u32(..mirror.denominator.max(1)) >= mirror.numerator || headers::leaves_http(request) {
            return None;
        }
        let Some(leg) = leg else {
            self.metrics.mirrored("invalid");
            return None;
        };
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.version_mut() = request.version();
        *head.headers_mut() = request.headers().clone();
        // The body comes as the request's own reader takes it, whoever says 100.
        head.headers_mut().remove(EXPECT);
        Some(Copied { leg: Arc::clone(leg), head })
    }

    /// Sends the copies of `request`, whose body is read once for all.
    pub(super) fn send(&self, copies: Vec<Copied>, request: &mut BoxedRequest) {
        let places: Vec<_> = copies.into_iter().filter_map(|copied| Some((self.place()?, copied))).collect();
        if places.is_empty() {
            return;
        }
        let (body, bodies) = std::mem::take(request.body_mut()).split(places.len());
        *request.body_mut() = body;
        for ((place, Copied { leg, head }), (body, pace)) in places.into_iter().zip(bodies) {
            let metrics = self.metrics.clone();
            tokio::spawn(async move {
                let request = Box::new(head.map(|()| body));
                let exchanged = tokio::time::timeout(LONGEST, exchange(&leg, request)).await;
                metrics.mirrored(result(&exchanged, pace.as_ref()));
                drop(place);
            });
        }
    }

    fn place(&self) -> Option<Place> {
        let place = Place(Arc::clone(&self.in_flight));
        let has_room = place.0.fetch_add(1, Ordering::Relaxed) < self.most;
        // Where memory is short, what nobody waits for goes first.
        if has_room && pressure::look() == Level::Calm {
            return Some(place);
        }
        self.metrics.mirrored("dropped");
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The whole of it: the answer is read to its end, as the mirror would see a client that gives up otherwise.
async fn exchange(leg: &Leg, request: BoxedRequest) -> Result<(), ()> {
    let (began, mut measured) = (Instant::now(), None);
    let on_pick = |endpoint: &crate::balance::Endpoint| {
        measured.get_or_insert_with(|| leg.http(endpoint.tls()).request(began));
    };
    let answer = leg.backend().await.send(request, &Caller::Deaf, &Wish::default(), on_pick).await;
    let answer = answer.map_err(|failed| tracing::debug!(detail = failed.detail, "a mirrored request failed"))?;
    let mut body: Body = match measured {
        Some(measured) => measure(answer, measured).into_body(),
        None => answer.into_body(),
    };
    while let Some(frame) = body.frame().await {
        frame.map_err(drop)?;
    }
    Ok(())
}

fn result<E>(exchanged: &Result<Result<(), ()>, E>, pace: Option<&Pace>) -> &'static str {
    match exchanged {
        _ if pace.is_some_and(Pace::is_lost) => "too_slow",
        Ok(Ok(())) => "answered",
        Ok(Err(())) => "failed",
        Err(_) => "too_slow",
    }
}
