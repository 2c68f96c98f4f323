//! A backend: its endpoints as discovery lists them, and the loop that gets a request to one of them.
//!
//! Invariant: a request is sent elsewhere only when it surely did not reach an application, and its body can be sent again.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use http::{Response, StatusCode};
use serde::Serialize;

use super::endpoint::{Endpoint, Load};
use super::list::{Business, List};
use super::pick::two_choices;
use super::reach::Reach;
use super::request::Repeatable;
use super::sync::{Arc, Mutex, MutexGuard, PoisonError};
use crate::http::answer::Reason;
use crate::http::headers::ERROR;
use crate::http::{Body, BoxedRequest, Caller, Failure, patience};
use crate::metrics;
use crate::model::{EndpointSet, Protocol};
use crate::net::Stream;

/// The endpoints behind a target.
pub struct Backend {
    name: Arc<str>,
    reach: Arc<Reach>,
    endpoints: Mutex<List>,
    metrics: metrics::Balancer,
}

/// Why nothing was reached.
#[derive(Debug)]
pub struct Failed {
    /// How the last try ended; none: there was nobody to try.
    pub failure: Option<Failure>,
    /// For humans: the backend, how many endpoints are known, the last error.
    pub detail: String,
}

/// One endpoint as `/state` shows it.
#[derive(Debug, Serialize)]
pub struct EndpointState {
    addr: SocketAddr,
    name: Box<str>,
    identity: Option<String>,
    zone: Box<str>,
    weight: u16,
    latency_ms: f64,
    in_flight: usize,
    load: f64,
    failing: bool,
}

/// Where a request or connection was tried.
pub struct Tried {
    since: Instant,
    endpoints: Vec<Arc<Endpoint>>,
    last: Option<Failure>,
}

/// What a request wishes of the choice. The default wishes nothing, and costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Equal ones go to the same endpoint, where the backend's policy balances by hash.
    pub hash: Option<u64>,
    /// This endpoint, if it is listed, well and not yet tried; else the usual choice is made.
    pub stick_to: Option<SocketAddr>,
}

/// Endpoints that are known to fail are tried for so long, then the caller learns of it.
const FAIL_FAST: Duration = Duration::from_secs(2);

impl Default for Tried {
    /// Nowhere yet; the time runs from now on.
    fn default() -> Self {
        Self { since: Instant::now(), endpoints: Vec::new(), last: None }
    }
}

impl Backend {
    /// A backend without endpoints; `apply` brings them.
    pub fn new(name: &str, reach: &Arc<Reach>) -> Self {
        let metrics = reach.metrics.balancer(name);
        Self { name: name.into(), reach: Arc::clone(reach), endpoints: Mutex::default(), metrics }
    }

    /// Makes `set` the endpoints. Those that stay as they were keep their connections and load; those that go finish what
    /// they have.
    pub fn apply(&self, set: EndpointSet) {
        let mut endpoints = self.endpoints();
        let next = endpoints.next(set, Instant::now());
        let old = std::mem::replace(&mut *endpoints, next);
        drop(endpoints);
        // Not under the lock: connections may end with it.
        drop(old);
        self.count();
    }

    /// The target's name, as metrics and logs have it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What is known of each endpoint.
    pub fn state(&self, now: Instant) -> Vec<EndpointState> {
        let endpoints = self.endpoints();
        (0..endpoints.len()).map(|i| self.state_of(&endpoints, i, now)).collect()
    }

    /// Gets `request` to an endpoint, to the one it wishes for if that can be. `on_pick` hears of each choice before it is tried.
    pub async fn send(
        &self,
        request: BoxedRequest,
        caller: &Caller,
        wish: &Wish,
        mut on_pick: impl FnMut(&Endpoint) + Send,
    ) -> Result<Response<Body>, Failed> {
        let mut request = Repeatable::new(request);
        let mut tried = Tried::default();
        loop {
            let mut load = self.pick(&tried, wish)?;
            on_pick(load.endpoint());
            let failure = match once(load.endpoint(), &mut request, caller).await {
                Ok(response) => {
                    load.answered(Instant::now());
                    return Ok(response.map(|body| body.holding(load)));
                }
                Err(failure) => failure,
            };
            self.judge(&mut load, &failure);
            let safe = failure.is_unprocessed() || (failure.is_lost() && request.is_harmless());
            if !safe || !request.restore() {
                return Err(self.failed(Some(failure)));
            }
            self.pass_by(&load, failure, &mut tried);
        }
    }

    /// Opens a byte stream to an endpoint, for the connection that `Load` then counts.
    pub async fn open(&self, protocol: Option<Protocol>) -> Result<(Stream, Load), Failed> {
        let mut tried = Tried::default();
        loop {
            let mut load = self.pick(&tried, &Wish::default())?;
            match load.endpoint().open(protocol).await {
                Ok(stream) => {
                    load.answered(Instant::now());
                    return Ok((stream, load));
                }
                Err(failure) => {
                    self.judge(&mut load, &failure);
                    self.pass_by(&load, failure, &mut tried);
                }
            }
        }
    }

    /// The endpoint to try next, counted as its load.
    pub fn pick(&self, tried: &Tried, wish: &Wish) -> Result<Load, Failed> {
        if tried.endpoints.len() >= self.reach.settings.tries {
            return Err(self.failed(tried.last.clone()));
        }
        let mut endpoints = self.endpoints();
        let now = Instant::now();
        let list = &*endpoints;
        let in_time = now.saturating_duration_since(tried.since) < FAIL_FAST;
        let well = |i: usize| !list.is_failing(i);
        let untried = |i: usize| !tried.endpoints.iter().any(|endpoint| list.is(i, endpoint));
        if let Some(i) = wish.stick_to.and_then(|addr| list.find(addr)).filter(|i| well(*i) && untried(*i)) {
            return Ok(endpoints.get(i, &self.reach).take(now));
        }
        let load = |i: usize| list.business(i, &self.reach.settings, now).load;
        let mut random = fastrand::Rng::new();
        let mut choose = |eligible: &dyn Fn(usize) -> bool| two_choices(list.len(), eligible, load, &mut random);
        // When all are failing, those not yet tried may have come back; and one that is well but refused a request may
        // take it on a new connection.
        let chosen = choose(&|i| well(i) && untried(i));
        let chosen = chosen.or_else(|| choose(&|i| in_time && untried(i))).or_else(|| choose(&well));
        if let Some(i) = chosen {
            return Ok(endpoints.get(i, &self.reach).take(now));
        }
        drop(endpoints);
        Err(self.failed(tried.last.clone()))
    }

    /// What a failure says of the endpoint.
    fn judge(&self, load: &mut Load, failure: &Failure) {
        if !matches!(failure, Failure::Silent(_)) {
            load.settled(Instant::now());
        }
        if failure.is_connect() {
            load.endpoint().failed();
            self.count();
        }
    }

    fn pass_by(&self, load: &Load, failure: Failure, tried: &mut Tried) {
        tracing::debug!(endpoint = %load.endpoint().model.addr, %failure, "passed by");
        self.metrics.retry(failure.word());
        tried.endpoints.push(Arc::clone(load.endpoint()));
        tried.last = Some(failure);
    }

    fn failed(&self, failure: Option<Failure>) -> Failed {
        let (known, failing) = self.known();
        let last = failure.as_ref().map(|failure| format!("; last error: {failure}")).unwrap_or_default();
        Failed { failure, detail: format!("{}: {known} endpoints known, {failing} failing{last}", self.name) }
    }

    fn count(&self) {
        let (known, failing) = self.known();
        self.metrics.endpoints(known - failing, failing);
    }

    /// How many endpoints there are, and how many of them are failing.
    fn known(&self) -> (usize, usize) {
        let endpoints = self.endpoints();
        (endpoints.len(), endpoints.failing())
    }

    fn endpoints(&self) -> MutexGuard<'_, List> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_of(&self, endpoints: &List, i: usize, now: Instant) -> EndpointState {
        let model = &endpoints.models()[i];
        let Business { latency, in_flight, load } = endpoints.business(i, &self.reach.settings, now);
        EndpointState {
            addr: model.addr,
            name: model.name.clone(),
            identity: model.traits.sidecar.as_ref().map(|sidecar| sidecar.id.to_string()),
            zone: model.traits.zone.clone(),
            weight: model.traits.weight,
            latency_ms: latency * 1e3,
            in_flight,
            load,
            failing: endpoints.is_failing(i),
        }
    }
}

/// One try. A request that was not sent stays in `request`.
async fn once(endpoint: &Endpoint, request: &mut Repeatable, caller: &Caller) -> Result<Response<Body>, Failure> {
    let line = endpoint.line(request.version()).await?;
    let Some(next) = request.take() else { return Err(Failure::Unprocessed) };
    let limit = patience::limit(endpoint.http(), next.headers());
    let sent = pin!(endpoint.send(line, next, caller));
    let response = patience::within(limit, || request.is_out(), sent).await?;
    match undelivered(&response) {
        Some(said) if endpoint.model.is_meshed() => Err(Failure::App(said)),
        _ => Ok(response),
    }
}

/// What the far sidecar says of an application that it could not connect.
fn undelivered(response: &Response<Body>) -> Option<String> {
    if response.status() != StatusCode::SERVICE_UNAVAILABLE && !response.headers().contains_key("grpc-status") {
        return None;
    }
    let said = response.headers().get(ERROR)?.to_str().ok()?;
    said.starts_with(Reason::ConnectFailed.word()).then(|| said.to_owned())
}
