//! One application's HTTP connection: each request by itself gets a route, an endpoint and an answer.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::SET_COOKIE;
use http::{HeaderMap, Method, Response, Version};

use super::leg::Leg;
use super::routed::{Onward, Routed, Way};
use super::target::{Route, Target};
use super::{DIRECTION, Outbound, copy_under, faults, reason_of, timed_out};
use crate::balance::{Failed, Terms, Wish};
use crate::http::answer::{MEMORY, Reason};
use crate::http::deadline::Deadline;
use crate::http::h2_server::Tunnel;
use crate::http::timed::Limits;
use crate::http::{self as web, Abort, Body, BoxedRequest, Caller, Failure, Handler, Late, headers, upgrade};
use crate::metrics::{self, Tls};
use crate::model::Protocol;
use crate::model::policy::{RequestPolicy, Timeouts};
use crate::net::Drain;

/// Serves the requests of one connection.
pub(super) struct Connection {
    outbound: Arc<Outbound>,
    target: Arc<Target>,
    drain: Drain,
}

/// Where a request is meant to go, and went.
#[derive(Default)]
struct Place {
    wish: Wish,
    served: Option<SocketAddr>,
    /// When it came, where something has taken time since.
    came: Option<Instant>,
}

impl Connection {
    pub(super) fn new(outbound: Arc<Outbound>, target: Arc<Target>, drain: Drain) -> Self {
        Self { outbound, target, drain }
    }

    /// To an endpoint; as `terms` say, where there are any.
    async fn forward(
        &self,
        request: BoxedRequest,
        leg: &Leg,
        place: &mut Place,
        terms: Option<Box<Terms>>,
        caller: &Caller,
        measured: &mut Option<metrics::Request>,
    ) -> Result<Response<Body>, Failed> {
        let (started, wish) = (Instant::now(), place.wish);
        let backend = leg.backend().await;
        let on_pick = |endpoint: &crate::balance::Endpoint| {
            measured.get_or_insert_with(|| leg.http(endpoint.tls()).request(started));
            place.served = Some(endpoint.addr);
        };
        match terms {
            None => backend.send(request, caller, &wish, on_pick).await,
            // Boxed, as few requests have terms.
            Some(terms) => Box::pin(backend.send_under(request, caller, &wish, &terms, on_pick)).await,
        }
    }

    /// By what the request is known, where that decides who gets it.
    async fn by_key(
        &self,
        request: BoxedRequest,
        leg: &Arc<Leg>,
        policy: Option<&Arc<RequestPolicy>>,
        place: &mut Place,
        caller: &Caller,
        measured: &mut Option<metrics::Request>,
    ) -> Result<Response<Body>, Failed> {
        let key = leg.now().key(&request, || self.outbound.local.all().first().copied());
        place.wish.hash = key.as_ref().map(|key| key.hash);
        let mut response = if headers::leaves_http(&request) {
            self.leave_http(request, leg, policy, place, caller, measured).await?
        } else {
            let terms = self.terms(policy, request.headers(), place);
            self.forward(request, leg, place, terms, caller, measured).await?
        };
        if let Some(cookie) = key.and_then(|key| key.set_cookie) {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
        Ok(response)
    }

    /// By the rule that the request takes.
    async fn by_route(
        &self,
        mut request: BoxedRequest,
        routed: &Routed,
        caller: &Caller,
        measured: &mut Option<metrics::Request>,
    ) -> Result<Response<Body>, Failed> {
        match routed.take(&mut request, &self.outbound) {
            Way::Onward(Onward { leg, copies, stick_to, answered }) => {
                let mut place = Place { wish: Wish { stick_to, ..Wish::default() }, ..Place::default() };
                let mut response = match self.injected(answered.policy(), request.headers(), &mut place).await {
                    Some(response) => response,
                    None => {
                        self.outbound.mirrors.send(copies, &mut request);
                        self.send(request, &leg, answered.policy(), &mut place, caller, measured).await?
                    }
                };
                answered.apply(response.headers_mut(), place.served, &self.outbound);
                Ok(response)
            }
            Way::Answer(response) => Ok(response),
            Way::Refused(reason, detail) => Ok(self.refuse(reason, request.headers(), &detail)),
        }
    }

    /// To a destination without routes whose policy injects faults.
    async fn under_faults(
        &self,
        request: BoxedRequest,
        route: &Route,
        caller: &Caller,
        measured: &mut Option<metrics::Request>,
    ) -> Result<Response<Body>, Failed> {
        let mut place = Place::default();
        match self.injected(route.policy(), request.headers(), &mut place).await {
            Some(response) => Ok(response),
            None => self.send(request, route.leg(), route.policy(), &mut place, caller, measured).await,
        }
    }

    /// What a policy has answered in place of a backend. A delay is a part of the request's time.
    async fn injected(
        &self,
        policy: Option<&Arc<RequestPolicy>>,
        headers: &HeaderMap,
        place: &mut Place,
    ) -> Option<Response<Body>> {
        let own = policy.filter(|policy| !policy.faults.is_empty())?;
        place.came = Some(Instant::now());
        let end = self.terms(policy, headers, place).and_then(|terms| terms.ends_at());
        faults::inject(own, headers, end, &self.outbound.metrics).await
    }

    async fn send(
        &self,
        request: BoxedRequest,
        leg: &Arc<Leg>,
        policy: Option<&Arc<RequestPolicy>>,
        place: &mut Place,
        caller: &Caller,
        measured: &mut Option<metrics::Request>,
    ) -> Result<Response<Body>, Failed> {
        let stand_in = self.outbound.stand_in(leg).await;
        let leg = stand_in.as_ref().unwrap_or(leg);
        // Boxed both: they are rare, and larger than what other requests need.
        if leg.now().is_keyed() {
            return Box::pin(self.by_key(request, leg, policy, place, caller, measured)).await;
        }
        if headers::leaves_http(&request) {
            return Box::pin(self.leave_http(request, leg, policy, place, caller, measured)).await;
        }
        let terms = self.terms(policy, request.headers(), place);
        self.forward(request, leg, place, terms, caller, measured).await
    }

    /// What bounds a request; `None`: the proxy's defaults alone.
    fn terms(&self, policy: Option<&Arc<RequestPolicy>>, headers: &HeaderMap, place: &Place) -> Option<Box<Terms>> {
        let came = || place.came.unwrap_or_else(Instant::now);
        let deadline = Deadline::of(headers, came);
        if policy.is_none() && deadline.is_none() {
            return None;
        }
        Some(Box::new(Terms::new(came(), policy.cloned(), deadline, Arc::new(self.broken()))))
    }

    /// What hears of responses that are broken off.
    fn broken(&self) -> impl Fn(Late) + Send + Sync + 'static {
        let metrics = self.outbound.metrics.clone();
        move |late: Late| {
            let reason = late.reason().word();
            metrics.error(DIRECTION, reason);
            tracing::info!(reason, detail = %late, "exchange ended");
        }
    }

    /// An upgrade or CONNECT. A policy's limits hold until both sides have agreed to leave HTTP, or for the answer that says no.
    async fn leave_http(
        &self,
        request: BoxedRequest,
        leg: &Arc<Leg>,
        policy: Option<&Arc<RequestPolicy>>,
        place: &mut Place,
        caller: &Caller,
        measured: &mut Option<metrics::Request>,
    ) -> Result<Response<Body>, Failed> {
        let end = policy.and_then(|policy| end_of(&policy.timeouts, Instant::now()));
        let asked = self.ask_to_leave(request, leg, policy, place, caller, measured);
        let Some((at, late)) = end else { return asked.await };
        let Ok(result) = tokio::time::timeout_at(at.into(), asked).await else {
            leg.now().timed_out(late.kind());
            return Err(Failed { failure: Some(Failure::Late(late)), detail: format!("upgrade: {late}") });
        };
        let (broken, leg) = (self.broken(), Arc::clone(leg));
        let broken = Box::new(move |late: Late| {
            leg.now().timed_out(late.kind());
            broken(late);
        });
        Ok(result?
            .map(|body| body.timed(Limits { end: Some((at.into(), late)), has_trailers: false, idle: None, broken })))
    }

    /// A connection of its own to one endpoint, then bytes.
    async fn ask_to_leave(
        &self,
        mut request: BoxedRequest,
        leg: &Arc<Leg>,
        policy: Option<&Arc<RequestPolicy>>,
        place: &mut Place,
        caller: &Caller,
        measured: &mut Option<metrics::Request>,
    ) -> Result<Response<Body>, Failed> {
        let timeouts = policy.map(|policy| policy.timeouts).unwrap_or_default();
        let (upstream, load) = leg.open(Some(Protocol::Http1), &place.wish).await?;
        place.served = Some(load.endpoint().addr);
        let tls = load.endpoint().tls();
        *measured = Some(leg.http(tls).request(Instant::now()));
        load.sends(&mut request);
        headers::strip_ours(request.headers_mut());
        let joined = {
            let (target, copy) = (Arc::clone(&self.target), copy_under(self.outbound.settings.copy, policy));
            let (leg, drain) = (Arc::clone(leg), self.drain.clone());
            move |client, upstream| {
                let connection = leg.tcp(tls, &crate::sniff::Seen::Opaque).open().to_zone(load.zone());
                web::bytes::spawn_copy(client, upstream, copy, connection, move |end| {
                    timed_out(&leg, end);
                    drop((load, target, leg, drain));
                });
            }
        };
        let limit = timeouts.response_headers.unwrap_or(Some(self.outbound.http.response_timeout));
        let exchanged = pin!(upgrade::exchange(request, upstream, caller, &self.outbound.http, joined));
        // What asks to leave HTTP has no body to wait for.
        let result = web::patience::within(limit, || Some(Duration::MAX), exchanged).await;
        let result = result.map(if tls == Tls::Mutual { headers::from_peer } else { headers::from_stranger });
        result.map_err(|failure| {
            let detail = format!("upgrade: {failure}");
            Failed { failure: Some(failure), detail }
        })
    }
}

/// When a request with one try is over that begins at `now`, and by whose word.
fn end_of(timeouts: &Timeouts, now: Instant) -> Option<(Instant, Late)> {
    let request = timeouts.request.flatten().map(|limit| (limit, Late::Request(limit)));
    let backend = timeouts.backend.flatten().map(|limit| (limit, Late::Backend(limit)));
    let (limit, late) = request.into_iter().chain(backend).min_by_key(|(limit, _)| *limit)?;
    Some((now.checked_add(limit)?, late))
}

impl Handler for Connection {
    async fn handle(&self, mut request: BoxedRequest, caller: Caller) -> Result<Response<Body>, Abort> {
        let Outbound { discovery, reach, metrics, .. } = &*self.outbound;
        let route = self.target.route(discovery, reach, metrics);
        let version = request.version();
        let asked_as = web::answer::AskedAs::of(request.headers());
        let mut measured = None;
        let result = match (headers::settle_authority(&mut request), route.routed()) {
            (Err(bad), _) => Ok(self.refuse(Reason::BadRequest, request.headers(), &bad.to_string())),
            (Ok(()), _) if caller.asks_too_much() => Ok(self.refuse(Reason::Overload, request.headers(), MEMORY)),
            // Boxed, as few policies have faults.
            (Ok(()), None) if route.policy().is_some_and(|policy| !policy.faults.is_empty()) => {
                Box::pin(self.under_faults(request, &route, &caller, &mut measured)).await
            }
            (Ok(()), None) => {
                self.send(request, route.leg(), route.policy(), &mut Place::default(), &caller, &mut measured).await
            }
            // Boxed, as few destinations have routes.
            (Ok(()), Some(routed)) => Box::pin(self.by_route(request, routed, &caller, &mut measured)).await,
        };
        let response = match result {
            Ok(response) => response,
            Err(failed) => {
                let reset = failed.failure.as_ref().and_then(Failure::reset);
                if let (Version::HTTP_2, Some(reason)) = (version, reset) {
                    return Err(Abort(reason));
                }
                let (reason, detail) = match caller.blame() {
                    Some(bad) => (Reason::BadRequest, bad.to_string()),
                    None => (reason_of(&failed), failed.detail),
                };
                self.outbound.metrics.error(DIRECTION, reason.word());
                tracing::info!(reason = reason.word(), %detail, "answered by the mesh");
                asked_as.answer(reason, &detail)
            }
        };
        let measured = measured.unwrap_or_else(|| route.leg().http(Tls::None).request(Instant::now()));
        Ok(web::body::measure(response, measured))
    }

    fn refuse(&self, reason: Reason, headers: &HeaderMap, detail: &str) -> Response<Body> {
        self.outbound.metrics.error(DIRECTION, reason.word());
        tracing::info!(reason = reason.word(), %detail, "answered by the mesh");
        reason.answer(headers, detail)
    }

    fn too_slow(&self) {
        let reason = Reason::TooSlow.word();
        self.outbound.metrics.error(DIRECTION, reason);
        tracing::info!(reason, "exchange ended");
    }

    /// CONNECT over HTTP/2 asks for a tunnel; an application has no business asking a sidecar for one.
    async fn connect(&self, tunnel: Tunnel) {
        let detail = format!("{} over HTTP/2 is not forwarded", Method::CONNECT);
        let answer = self.refuse(Reason::BadRequest, tunnel.request().headers(), &detail);
        tunnel.refuse(answer).await;
    }
}
