//! One endpoint: its load, its health, and the way to it.
//!
//! Invariant: `failing` is about connecting only. It holds from a failed attempt until an attempt in the background succeeds;
//! the pauses between attempts grow until a response has come from the endpoint. What its answers say of it is its breaker's
//! (`vitals`), which hears of each exchange once, when its outcome is known.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Response, Version};

use super::bulkhead::{Bulkhead, Place};
use super::outcome;
use super::reach::Reach;
use super::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use super::sync::{Arc, Mutex, PoisonError};
use super::vitals::{Vitals, breaker_of};
use crate::http::body::Witness;
use crate::http::wear::Wear;
use crate::http::{self as web, Body, BoxedRequest, Caller, Failure, h1_pool, h2_client, h2_pool, headers};
use crate::metrics::{Tls, Zone, Zones};
use crate::model::policy::BackendPolicy;
use crate::model::{self, Protocol, Traits};
use crate::net::Stream;
use crate::net::connect::ConnectError;
use crate::resilience::backoff::Backoff;
use crate::resilience::breaker::{Change, Outcome};

/// An endpoint in use, with what is known of it. Discovery's list has its name.
pub struct Endpoint {
    /// Where the application listens.
    pub addr: SocketAddr,
    pub(super) traits: std::sync::Arc<Traits>,
    /// Made when it is first wanted.
    way: OnceLock<Way>,
    reach: std::sync::Arc<Reach>,
    vitals: Vitals,
    in_flight: AtomicUsize,
    failing: AtomicBool,
    /// While it fails.
    backoff: Mutex<Option<Box<Backoff>>>,
}

enum Way {
    /// With what the far sidecar is [told](Endpoint::told).
    Mesh(Arc<h2_pool::Pool>, HeaderValue),
    Plain {
        h1: Arc<h1_pool::Pool>,
        h2: Arc<h2_pool::Pool>,
    },
}

/// A connection to the endpoint, for one request.
pub(super) enum Line {
    Mesh(h2_pool::Ready),
    H1(h1_pool::Lease),
    H2(h2_pool::Ready),
}

/// Counts as load on its endpoint until dropped.
pub struct Load {
    endpoint: Arc<Endpoint>,
    since: Instant,
    /// Neither answered nor failed.
    owed: bool,
    /// What holds for it; `None` is the proxy's defaults.
    policy: Option<std::sync::Arc<BackendPolicy>>,
    stage: Stage,
    /// It finds out whether the endpoint is well again.
    is_probe: bool,
    /// Its place among those that the backend may have.
    place: Option<Place>,
    /// To have said nothing until then is a failure. Boxed, as few requests have an end.
    due: Option<Box<Instant>>,
    /// Count what goes to the endpoint and comes from it, where its zone is known.
    zones: Option<Zones>,
    /// Of the endpoint, if it is known.
    zone: Zone,
}

/// Counts the body of a request.
struct Sent(Zones, Zone);

impl Witness for Sent {
    fn data(&mut self, bytes: usize) {
        self.0.sent(self.1, bytes as u64);
    }
}

/// How much the breaker knows of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Untold,
    /// Of its head; the trailers decide.
    Head,
    Told,
}

impl Endpoint {
    pub(super) fn new(model: &model::Endpoint, reach: std::sync::Arc<Reach>, vitals: Vitals) -> Arc<Self> {
        Arc::new(Self {
            addr: model.addr,
            traits: std::sync::Arc::clone(&model.traits),
            way: OnceLock::new(),
            reach,
            vitals,
            in_flight: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            backoff: Mutex::default(),
        })
    }

    fn way(&self) -> &Way {
        self.way.get_or_init(|| {
            let reach = &self.reach;
            let Some(peer) = self.traits.peer(self.addr.ip()) else {
                let dial = h2_pool::Dial::Plain(self.addr);
                let (connector, http) = (reach.connector.clone(), Arc::clone(&reach.http));
                return Way::Plain {
                    h1: h1_pool::Pool::new(self.addr, connector.clone(), Arc::clone(&http)),
                    h2: h2_pool::Pool::new(dial, connector, http, reach.metrics.clone()),
                };
            };
            Way::Mesh(reach.tunnels(&peer), headers::address_value(self.addr))
        })
    }

    /// What the far sidecar is told of where the application listens.
    fn told(&self) -> HeaderValue {
        match self.way() {
            Way::Mesh(_, told) => told.clone(),
            Way::Plain { .. } => headers::address_value(self.addr),
        }
    }

    /// What protects the way to it.
    pub fn tls(&self) -> Tls {
        if self.traits.is_meshed() { Tls::Mutual } else { Tls::None }
    }

    /// How HTTP is spoken with it.
    pub(super) fn http(&self) -> &web::Settings {
        &self.reach.http
    }

    /// Whether the last attempt to connect failed.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Expected latency in seconds.
    pub fn latency(&self, now: Instant) -> f64 {
        self.vitals.with_latency(|latency| latency.seconds(now))
    }

    pub(super) fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    /// Requests and connections that it serves for us now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a request or connection, for which `policy` holds.
    pub(super) fn take(self: &Arc<Self>, policy: Option<&std::sync::Arc<BackendPolicy>>, now: Instant) -> Load {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.vitals.with_latency(|latency| latency.asked(now));
        let policy = policy.map(std::sync::Arc::clone);
        Load {
            endpoint: Arc::clone(self),
            since: now,
            owed: true,
            policy,
            stage: Stage::Untold,
            is_probe: false,
            place: None,
            due: None,
            zones: None,
            zone: Zone::Other,
        }
    }

    /// The same, to find out whether it is well again.
    pub(super) fn probe(self: &Arc<Self>, policy: Option<&std::sync::Arc<BackendPolicy>>, now: Instant) -> Load {
        self.vitals.probe(now);
        let mut load = self.take(policy, now);
        load.is_probe = true;
        load
    }

    /// A connection for one request of `version`.
    async fn line(
        &self,
        version: Version,
        wear: Option<&Wear>,
        admit: Option<&h1_pool::Admit<'_>>,
    ) -> Result<Line, Failure> {
        match self.way() {
            Way::Mesh(tunnels, _) => tunnels.ready(wear).await.map(Line::Mesh),
            Way::Plain { h1, .. } if version < Version::HTTP_2 => h1.lease(wear, admit).await.map(Line::H1),
            Way::Plain { h2, .. } => h2.ready(wear).await.map(Line::H2),
        }
    }

    /// Sends an application's request on `line`.
    pub(super) async fn send(
        &self,
        line: Line,
        mut request: BoxedRequest,
        caller: &Caller,
    ) -> Result<Response<Body>, Failure> {
        match line {
            Line::Mesh(ready) => {
                headers::into_tunnel(&mut request, self.addr, self.told());
                let response = h2_client::send(ready, request, caller, &self.reach.http).await;
                response.map(headers::from_peer)
            }
            Line::H1(lease) => {
                headers::strip_ours(request.headers_mut());
                headers::into_h1_hop(&mut request);
                let response = lease.send(request, caller).await;
                response.map(headers::from_stranger)
            }
            Line::H2(ready) => {
                headers::strip_ours(request.headers_mut());
                headers::strip_hop_by_hop(request.headers_mut());
                headers::into_h2_form(&mut request, self.addr);
                let response = h2_client::send(ready, request, caller, &self.reach.http).await;
                response.map(headers::from_stranger)
            }
        }
    }

    /// Opens a byte stream to the application.
    async fn open(&self, protocol: Option<Protocol>, wear: Option<&Wear>) -> Result<Stream, Failure> {
        match self.way() {
            Way::Mesh(tunnels, _) => tunnels.tunnel(self.addr, protocol, wear).await,
            Way::Plain { .. } => {
                let limit = wear.and_then(|wear| wear.connect);
                Ok(self.reach.connector.connect_within(self.addr, limit).await?.into())
            }
        }
    }

    /// It could not be connected: from now on others go first, until an attempt succeeds.
    pub(super) fn failed(self: &Arc<Self>) {
        if !self.failing.swap(true, Ordering::Relaxed) {
            tokio::spawn(reconnect(Arc::downgrade(self)));
        }
    }

    /// An attempt to connect. Boxed, so that the many that only wait for their next one do not keep room for it.
    async fn is_reached(&self) -> bool {
        match self.way() {
            Way::Mesh(tunnels, _) => Box::pin(tunnels.ready(None)).await.is_ok(),
            Way::Plain { .. } => Box::pin(self.reach.connector.connect(self.addr)).await.is_ok(),
        }
    }

    fn pause(&self) -> std::time::Duration {
        let mut backoff = self.backoff.lock().unwrap_or_else(PoisonError::into_inner);
        backoff.get_or_insert_with(|| Box::new(Backoff::new(self.reach.settings.reconnect))).next()
    }
}

/// Tries to connect until it succeeds or the endpoint is gone.
async fn reconnect(endpoint: std::sync::Weak<Endpoint>) {
    loop {
        let Some(pause) = endpoint.upgrade().map(|endpoint| endpoint.pause()) else { return };
        tokio::time::sleep(pause).await;
        let Some(endpoint) = endpoint.upgrade() else { return };
        if endpoint.is_reached().await {
            endpoint.failing.store(false, Ordering::Relaxed);
            endpoint.vitals.reached(Instant::now());
            return;
        }
    }
}

impl Load {
    /// The endpoint that carries the load.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// A connection for its request, as its backend's policy bounds it.
    pub(super) async fn line(&self, version: Version, bulkhead: Option<&Bulkhead>) -> Result<Line, Failure> {
        match &self.policy {
            None => self.endpoint.line(version, None, None).await,
            // Boxed: few backends have a policy.
            Some(policy) => {
                let by_policy = async {
                    let wear = wear(policy);
                    let bulkhead = bulkhead.filter(|_| policy.limits.connections.is_some());
                    let admit = bulkhead.map(|bulkhead| |pool: &Arc<h1_pool::Pool>| bulkhead.pooled(pool));
                    let admit = admit.as_ref().map(|admit| admit as &h1_pool::Admit<'_>);
                    self.in_time(policy, self.endpoint.line(version, Some(&wear), admit)).await
                };
                Box::pin(by_policy).await
            }
        }
    }

    /// A byte stream to the application.
    pub(super) async fn open(&self, protocol: Option<Protocol>) -> Result<Stream, Failure> {
        match &self.policy {
            None => self.endpoint.open(protocol, None).await,
            Some(policy) => {
                let by_policy = async {
                    let wear = wear(policy);
                    self.in_time(policy, self.endpoint.open(protocol, Some(&wear))).await
                };
                Box::pin(by_policy).await
            }
        }
    }

    async fn in_time<T>(
        &self,
        policy: &BackendPolicy,
        connecting: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let Some(limit) = policy.connect_timeout else { return connecting.await };
        tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| {
            let cause = format!("no connection within {limit:?} (timeouts.connect)");
            Err(ConnectError { addr: self.endpoint.addr, cause, is_ours: false }.into())
        })
    }

    /// Takes its place among those that the backend may have.
    pub(super) fn keep(&mut self, place: Option<Place>) {
        self.place = place;
    }

    /// Counts what goes there for the endpoint's zone.
    pub(super) fn goes_to(&mut self, zone: Zone, zones: Zones) {
        (self.zones, self.zone) = (Some(zones), zone);
    }

    /// What counts for the endpoint's zone.
    pub fn zone(&self) -> Option<(Zones, Zone)> {
        Some((self.zones.clone()?, self.zone))
    }

    /// The request goes out.
    pub fn sends(&self, request: &mut BoxedRequest) {
        let Some(zones) = &self.zones else { return };
        zones.request(self.zone);
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = body.witnessed(Sent(zones.clone(), self.zone));
    }

    /// The request has begun at `began` and is given up at `end`: to have said nothing until then is the endpoint's failure, if
    /// it had at least half of that time.
    pub(super) fn expect_by(&mut self, began: Instant, end: Instant) {
        let (all, left) = (end.saturating_duration_since(began), end.saturating_duration_since(self.since));
        self.due = (left >= all / 2).then(|| Box::new(end));
    }

    /// Nobody waits any longer for what it owes.
    pub fn give_up(&mut self, now: Instant) {
        if std::mem::take(&mut self.owed) {
            let waited = now.saturating_duration_since(self.since);
            self.endpoint.vitals.with_latency(|latency| latency.given_up(waited, now));
            if self.due.take().is_some_and(|due| now >= *due) {
                self.tell(Outcome::Failure, now);
            }
        }
    }

    /// The trailers of the response, where they were looked at before it was passed on.
    pub(super) fn ended(&mut self, trailers: &HeaderMap) {
        if let Some(status) = trailers.get(&headers::GRPC_STATUS).and_then(|status| status.to_str().ok()?.parse().ok())
        {
            self.grpc(status);
        }
    }

    /// A byte stream is open: the latency is known, and the endpoint is well.
    pub fn opened(&mut self, now: Instant) {
        self.answered(now);
        self.tell(Outcome::Success, now);
    }

    /// The head of a response is here.
    pub fn heard<B>(&mut self, response: &Response<B>, now: Instant) {
        self.answered(now);
        let verdict = outcome::of_head(response);
        if let Some(pause) = verdict.pause {
            self.endpoint.vitals.spare(pause, now);
        }
        match verdict.outcome {
            Some(outcome) => self.tell(outcome, now),
            None => self.stage = Stage::Head,
        }
    }

    /// The response, which counts as load to its last byte.
    pub(super) fn carry(mut self, response: Response<Body>) -> Response<Body> {
        self.heard(&response, Instant::now());
        response.map(|body| body.witnessed(self))
    }

    fn answered(&mut self, now: Instant) {
        self.owed = false;
        let took = now.saturating_duration_since(self.since);
        self.endpoint.vitals.with_latency(|latency| latency.answered(took, now));
        *self.endpoint.backoff.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// It has failed, and the endpoint or the way to it said so.
    pub(super) fn settled(&mut self, now: Instant) {
        self.owed = false;
        self.endpoint.vitals.with_latency(|latency| latency.settled(now));
    }

    /// The exchange ended like this, for the breaker.
    pub fn tell(&mut self, outcome: Outcome, now: Instant) {
        self.stage = Stage::Told;
        let breaker = breaker_of(self.policy.as_ref());
        self.is_probe = false;
        let change = self.endpoint.vitals.observe(outcome, &breaker, now);
        let addr = self.endpoint.addr;
        match change {
            Some(Change::Ejected(time)) => {
                self.endpoint.reach.metrics.ejection();
                tracing::warn!(endpoint = %addr, ?time, "ejected: too many failures");
            }
            Some(Change::Returned) => {
                let took = now.saturating_duration_since(self.since);
                self.endpoint.vitals.with_latency(|latency| latency.begin_again(took, now));
                tracing::info!(endpoint = %addr, "well again");
            }
            None => {}
        }
    }
}

/// When a connection takes no more of a backend's requests.
fn wear(policy: &BackendPolicy) -> Wear {
    let limits = &policy.limits;
    Wear { requests: limits.requests_per_connection, age: limits.connection_age, connect: policy.connect_timeout }
}

impl Witness for Load {
    fn data(&mut self, bytes: usize) {
        if let Some(zones) = &self.zones {
            zones.received(self.zone, bytes as u64);
        }
    }

    fn grpc(&mut self, status: u16) {
        if self.stage == Stage::Head {
            let (outcome, now) = (outcome::of_grpc(status), Instant::now());
            if let Some(pause) = outcome::pause_after(outcome) {
                self.endpoint.vitals.spare(pause, now);
            }
            self.tell(outcome, now);
        }
    }

    fn broken(&mut self) {
        self.tell(Outcome::Failure, Instant::now());
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if self.owed {
            self.give_up(Instant::now());
        }
        if self.is_probe {
            self.endpoint.vitals.probe_abandoned(Instant::now());
        }
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
