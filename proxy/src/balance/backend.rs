//! A backend: its endpoints as discovery lists them, and the loop that gets a request to one of them.
//!
//! Invariant: without a policy (`steered`) a request is sent elsewhere only when it surely did not reach an application, and
//! its body can be sent again; and as often as the budget allows. Only going on from an endpoint that could not be connected
//! to one that is well is free: nobody saw the request, and the endpoint is passed by from then on, so that it ends by itself.
//! When all are failing, it draws from the budget too: an outage does not multiply attempts.

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
use crate::model::{EndpointSet, Protocol, policy};
use crate::net::Stream;
use crate::resilience::budget::{self, Budget};

/// The endpoints behind a target.
pub struct Backend {
    name: Arc<str>,
    reach: Arc<Reach>,
    endpoints: Mutex<List>,
    budget: Mutex<Budget>,
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
    /// How many there may be; `None`: as the settings say.
    most: Option<usize>,
}

/// Endpoints that are known to fail are tried for so long, then the caller learns of it.
const FAIL_FAST: Duration = Duration::from_secs(2);

impl Default for Tried {
    /// Nowhere yet; the time runs from now on.
    fn default() -> Self {
        Self { since: Instant::now(), endpoints: Vec::new(), last: None, most: None }
    }
}

impl Tried {
    /// Nowhere yet, and as often as its owner likes.
    pub(super) fn without_end() -> Self {
        Self { most: Some(usize::MAX), ..Self::default() }
    }

    /// Whether it was tried anywhere.
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }
}

impl Backend {
    /// A backend without endpoints; `apply` brings them.
    pub fn new(name: &str, reach: &Arc<Reach>) -> Self {
        let metrics = reach.metrics.balancer(name);
        let budget = Mutex::new(Budget::new(Instant::now()));
        Self { name: name.into(), reach: Arc::clone(reach), endpoints: Mutex::default(), budget, metrics }
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

    /// Gets `request` to an endpoint. `on_pick` hears of each choice before it is tried.
    pub async fn send(
        &self,
        request: BoxedRequest,
        caller: &Caller,
        mut on_pick: impl FnMut(&Endpoint) + Send,
    ) -> Result<Response<Body>, Failed> {
        let mut request = Repeatable::new(request);
        let mut tried = self.begin();
        loop {
            let mut load = self.pick_next(&tried)?;
            on_pick(load.endpoint());
            let limit = request.patience(load.endpoint().http());
            let failure = match once(load.endpoint(), &mut request, caller, limit).await {
                Ok(response) => {
                    load.answered(Instant::now());
                    return Ok(response.map(|body| body.holding(load)));
                }
                Err(failure) => failure,
            };
            self.judge(&mut load, &failure);
            if matches!(failure, Failure::Silent(_)) {
                self.metrics.timeouts().count("response_headers");
            }
            if !request.is_safe_after(&failure) || !request.restore() {
                return Err(self.failed(Some(failure)));
            }
            self.pass_by(&load, failure, &mut tried);
        }
    }

    /// Opens a byte stream to an endpoint, for the connection that `Load` then counts.
    pub async fn open(&self, protocol: Option<Protocol>) -> Result<(Stream, Load), Failed> {
        let mut tried = self.begin();
        loop {
            let mut load = self.pick_next(&tried)?;
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

    /// Counts a request, or a connection.
    fn begin(&self) -> Tried {
        let tried = Tried::default();
        self.budget().request(budget::DEFAULT, tried.since);
        tried
    }

    fn pick_next(&self, tried: &Tried) -> Result<Load, Failed> {
        let load = self.pick(tried)?;
        if let Some(last) = &tried.last
            && !self.may_go_on(last, &load, budget::DEFAULT)
        {
            return Err(self.failed(Some(last.clone())));
        }
        Ok(load)
    }

    /// Whether a request that failed as `last` says may go on to the endpoint of `load`. See the module.
    pub(super) fn may_go_on(&self, last: &Failure, load: &Load, of: policy::Budget) -> bool {
        if last.is_connect() && !load.endpoint().is_failing() {
            return true;
        }
        let may = self.budget().retry(of, Instant::now());
        if !may {
            self.metrics.retry_result("budget_exceeded");
        }
        may
    }

    /// Of its retries.
    pub(super) fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Most tries of one request that nobody has said anything of.
    pub(super) fn tries(&self) -> usize {
        self.reach.settings.tries
    }

    /// What counts it.
    pub(super) fn metrics(&self) -> &metrics::Balancer {
        &self.metrics
    }

    /// A connection to it was silent for too long.
    pub fn timed_out(&self, kind: &'static str) {
        self.metrics.timeouts().count(kind);
    }

    /// Its retries of the last while, and how many there may have been.
    pub fn budget_state(&self, now: Instant) -> budget::State {
        self.budget().state(now)
    }

    /// The endpoint to try next, counted as its load.
    pub fn pick(&self, tried: &Tried) -> Result<Load, Failed> {
        if tried.endpoints.len() >= tried.most.unwrap_or(self.reach.settings.tries) {
            return Err(self.failed(tried.last.clone()));
        }
        let mut endpoints = self.endpoints();
        let now = Instant::now();
        let list = &*endpoints;
        let in_time = now.saturating_duration_since(tried.since) < FAIL_FAST;
        let well = |i: usize| !list.is_failing(i);
        let untried = |i: usize| !tried.endpoints.iter().any(|endpoint| list.is(i, endpoint));
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
    pub(super) fn judge(&self, load: &mut Load, failure: &Failure) {
        if !matches!(failure, Failure::Silent(_)) {
            load.settled(Instant::now());
        }
        if failure.is_connect() {
            load.endpoint().failed();
            self.count();
        }
    }

    pub(super) fn pass_by(&self, load: &Load, failure: Failure, tried: &mut Tried) {
        tracing::debug!(endpoint = %load.endpoint().model.addr, %failure, "passed by");
        self.leave(load, failure.word(), tried);
        tried.last = Some(failure);
    }

    /// The next try goes elsewhere, if there is another place.
    pub(super) fn leave(&self, load: &Load, reason: &'static str, tried: &mut Tried) {
        self.metrics.retry(reason);
        tried.endpoints.push(Arc::clone(load.endpoint()));
        tried.last = None;
    }

    pub(super) fn failed(&self, failure: Option<Failure>) -> Failed {
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
pub(super) async fn once(
    endpoint: &Endpoint,
    request: &mut Repeatable,
    caller: &Caller,
    limit: Option<Duration>,
) -> Result<Response<Body>, Failure> {
    let line = endpoint.line(request.version()).await?;
    let Some(next) = request.take() else { return Err(Failure::Unprocessed) };
    let sent = pin!(endpoint.send(line, next, caller));
    let response = patience::within(limit, || request.out_for(), sent).await?;
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
