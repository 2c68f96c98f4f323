//! A backend: its endpoints as discovery lists them, and the loop that gets a request to one of them.
//!
//! Invariant: without a policy (`steered`) a request is sent elsewhere only when it surely did not reach an application, and
//! its body can be sent again; and as often as the budget allows. Only going on from an endpoint that could not be connected
//! is free: nobody saw the request, the endpoint is passed by from then on, and the tries of a request are few.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};

use super::bulkhead::{Bulkhead, Place};
use super::choice::{Asked, Choice, Wish, choose};
use super::endpoint::{Endpoint, Load};
use super::key::{self, Key};
use super::list::List;
use super::reach::Reach;
use super::request::Repeatable;
use super::state::State;
use super::sync::atomic::{AtomicBool, Ordering};
use super::sync::{Arc, Mutex, MutexGuard, PoisonError};
use crate::http::answer::Reason;
use crate::http::headers::{ERROR, GRPC_STATUS};
use crate::http::{Body, BoxedRequest, Caller, Failure, patience};
use crate::metrics;
use crate::model::policy::{BackendPolicy, BalancingKind};
use crate::model::{EndpointSet, Protocol};
use crate::net::Stream;
use crate::resilience::breaker::Outcome;
use crate::resilience::budget::{self, Budget};

/// The endpoints behind a target.
pub struct Backend {
    name: Arc<str>,
    reach: Arc<Reach>,
    endpoints: Mutex<List>,
    /// Once a policy has limits.
    bulkhead: OnceLock<std::sync::Arc<Bulkhead>>,
    /// Requests have keys.
    is_keyed: AtomicBool,
    /// There are other backends for when no endpoint is well.
    has_failover: AtomicBool,
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

/// Where a request or connection was tried.
pub struct Tried {
    since: Instant,
    endpoints: Vec<Arc<Endpoint>>,
    last: Option<Failure>,
    /// Whoever tries says when it is enough; else the settings do.
    is_endless: bool,
}

/// Endpoints that are known to fail are tried for so long, then the caller learns of it.
const FAIL_FAST: Duration = Duration::from_secs(2);

impl Default for Tried {
    /// Nowhere yet; the time runs from now on.
    fn default() -> Self {
        Self { since: Instant::now(), endpoints: Vec::new(), last: None, is_endless: false }
    }
}

impl Tried {
    /// Nowhere yet; the time runs from a moment that a simulation names.
    pub fn at(since: Instant) -> Self {
        Self { since, ..Self::default() }
    }

    /// Another endpoint is to be tried next.
    pub fn note(&mut self, load: &Load) {
        self.endpoints.push(Arc::clone(load.endpoint()));
    }

    /// Nowhere yet, and as often as its owner likes.
    pub(super) fn without_end() -> Self {
        Self { is_endless: true, ..Self::default() }
    }

    /// Forgets where it was tried, if it was.
    pub(super) fn start_over(&mut self) -> bool {
        self.since = Instant::now();
        !std::mem::take(&mut self.endpoints).is_empty()
    }
}

impl Backend {
    /// A backend without endpoints; `apply` brings them.
    pub fn new(name: &str, reach: &Arc<Reach>) -> Self {
        let (metrics, now) = (reach.metrics.balancer(name), Instant::now());
        Self {
            name: name.into(),
            reach: Arc::clone(reach),
            endpoints: Mutex::new(List::new(now)),
            bulkhead: OnceLock::new(),
            is_keyed: AtomicBool::new(false),
            has_failover: AtomicBool::new(false),
            budget: Mutex::new(Budget::new(now)),
            metrics,
        }
    }

    /// Makes `set` the endpoints. Those that stay as they were keep their connections and load; those that go finish what
    /// they have.
    pub fn apply(&self, set: EndpointSet) {
        if let Some(policy) = &set.policy
            && (self.bulkhead.get().is_some() || policy.limits != Default::default())
        {
            self.bulkhead.get_or_init(|| self.reach.bulkhead(&self.name)).set(&policy.limits);
        }
        let says = |of: fn(&BackendPolicy) -> bool| set.policy.as_ref().is_some_and(|policy| of(policy));
        let is_keyed = says(|policy| matches!(policy.balancing.kind, BalancingKind::ConsistentHash { .. }));
        self.is_keyed.store(is_keyed, Ordering::Relaxed);
        self.has_failover.store(says(|policy| !policy.failover.is_empty()), Ordering::Relaxed);
        let (zone, moves) = self.reach.zone();
        let mut endpoints = self.endpoints();
        let next = endpoints.next(set, (&zone, moves), Instant::now());
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

    /// Whether there is an endpoint that can be expected to answer.
    pub fn is_well(&self) -> bool {
        self.endpoints().is_well(Instant::now())
    }

    /// How it is used; `None` is the proxy's defaults.
    pub fn policy(&self) -> Option<std::sync::Arc<BackendPolicy>> {
        self.endpoints().policy().cloned()
    }

    /// The backends that stand in while it is not well, in turn.
    pub fn failover(&self) -> Option<std::sync::Arc<BackendPolicy>> {
        if self.has_failover.load(Ordering::Relaxed) { self.policy() } else { None }
    }

    /// Whether who gets a request is decided by its key.
    pub fn is_keyed(&self) -> bool {
        self.is_keyed.load(Ordering::Relaxed)
    }

    /// What a request is known by, where that decides; `source` is the client's address.
    pub fn key<B>(&self, request: &Request<B>, source: impl FnOnce() -> Option<IpAddr>) -> Option<Key> {
        match &self.policy()?.balancing.kind {
            BalancingKind::ConsistentHash { keys, .. } => key::of(keys, request.headers(), request.uri(), source()),
            _ => None,
        }
    }

    /// The same of a connection that is no HTTP.
    pub fn source_key(&self, source: impl FnOnce() -> Option<IpAddr>) -> Option<u64> {
        if !self.is_keyed() {
            return None;
        }
        match &self.policy()?.balancing.kind {
            BalancingKind::ConsistentHash { keys, .. } => key::of_source(keys, source()),
            _ => None,
        }
    }

    /// What is known of it and of each endpoint.
    pub fn state(&self, now: Instant) -> State {
        let bulkhead = self.bulkhead.get().map(|bulkhead| bulkhead.state());
        State::of(&self.endpoints(), bulkhead, &self.reach.settings, now)
    }

    /// Gets `request` to an endpoint, to the one it wishes for if that can be. `on_pick` hears of each choice before it is tried.
    pub async fn send(
        &self,
        request: BoxedRequest,
        caller: &Caller,
        wish: &Wish,
        mut on_pick: impl FnMut(&Endpoint) + Send,
    ) -> Result<Response<Body>, Failed> {
        let place = self.enter().await?;
        let mut request = Repeatable::new(request);
        let mut tried = self.begin();
        loop {
            let mut load = self.pick_next(&tried, wish)?;
            on_pick(load.endpoint());
            let limit = request.patience(load.endpoint().http());
            let failure = match self.once(&load, &mut request, caller, limit).await {
                Ok(response) => {
                    load.keep(place);
                    return Ok(load.carry(response));
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
    pub async fn open(&self, protocol: Option<Protocol>, wish: &Wish) -> Result<(Stream, Load), Failed> {
        let place = self.connect()?;
        let mut tried = self.begin();
        loop {
            let mut load = self.pick_next(&tried, wish)?;
            match load.open(protocol).await {
                Ok(stream) => {
                    load.keep(place);
                    load.opened(Instant::now());
                    return Ok((stream, load));
                }
                Err(failure) => {
                    self.judge(&mut load, &failure);
                    self.pass_by(&load, failure, &mut tried);
                }
            }
        }
    }

    /// One try. A request that was not sent stays in `request`.
    pub(super) async fn once(
        &self,
        load: &Load,
        request: &mut Repeatable,
        caller: &Caller,
        limit: Option<Duration>,
    ) -> Result<Response<Body>, Failure> {
        let line = load.line(request.version(), self.bulkhead.get().map(|bulkhead| &**bulkhead)).await?;
        let endpoint = load.endpoint();
        let Some(mut next) = request.take() else { return Err(Failure::Unprocessed) };
        load.sends(&mut next);
        let sent = pin!(endpoint.send(line, next, caller));
        let response = patience::within(limit, || request.out_for(), sent).await?;
        match undelivered(&response) {
            Some(said) if endpoint.traits.is_meshed() => Err(Failure::App(said)),
            _ => Ok(response),
        }
    }

    /// A place for a request, after its turn; none where there is no limit.
    pub(super) async fn enter(&self) -> Result<Option<Place>, Failed> {
        let Some(bulkhead) = self.bulkhead.get() else { return Ok(None) };
        let Some(policy) = self.policy() else { return Ok(None) };
        // Boxed, as few backends have limits.
        Box::pin(bulkhead.request(&policy.limits)).await.map_err(|full| self.failed(Some(Failure::Busy(full))))
    }

    /// The same for a connection, which does not wait.
    fn connect(&self) -> Result<Option<Place>, Failed> {
        let Some(bulkhead) = self.bulkhead.get() else { return Ok(None) };
        let Some(policy) = self.policy() else { return Ok(None) };
        bulkhead.connection(&policy.limits).map_err(|full| self.failed(Some(Failure::Busy(full))))
    }

    /// Counts a request, or a connection.
    fn begin(&self) -> Tried {
        let tried = Tried::default();
        self.budget().request(budget::DEFAULT, tried.since);
        tried
    }

    fn pick_next(&self, tried: &Tried, wish: &Wish) -> Result<Load, Failed> {
        let Some(last) = &tried.last else {
            // It has just begun.
            return self.pick_at(tried, wish, tried.since);
        };
        let load = self.pick(tried, wish)?;
        if self.may_go_on(last) { Ok(load) } else { Err(self.failed(Some(last.clone()))) }
    }

    /// Whether a request that failed as `last` says may go on to another endpoint. See the module.
    fn may_go_on(&self, last: &Failure) -> bool {
        // Nothing was sent, and tries are few. An endpoint that is failing may be back already, as in a rollout.
        if last.is_connect() {
            return true;
        }
        let may = self.budget().retry(budget::DEFAULT, Instant::now());
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
    pub fn pick(&self, tried: &Tried, wish: &Wish) -> Result<Load, Failed> {
        self.pick_at(tried, wish, Instant::now())
    }

    /// The same at a moment that a simulation names.
    pub fn pick_at(&self, tried: &Tried, wish: &Wish, now: Instant) -> Result<Load, Failed> {
        if !tried.is_endless && tried.endpoints.len() >= self.reach.settings.tries {
            return Err(self.failed(tried.last.clone()));
        }
        let mut endpoints = self.endpoints();
        if endpoints.moves() != self.reach.moves() {
            let (zone, moves) = self.reach.zone();
            *endpoints = endpoints.moved((&zone, moves), now);
        }
        let asked = Asked {
            wish,
            untried: |list: &List, i: usize| !tried.endpoints.iter().any(|endpoint| list.is(i, endpoint)),
            in_time: now.saturating_duration_since(tried.since) < FAIL_FAST,
            is_unsent: tried.last.as_ref().is_some_and(Failure::is_connect),
            now,
            settings: &self.reach.settings,
        };
        let choice = choose(&mut endpoints, &asked);
        if let Choice::Endpoint(i) | Choice::Probe(i) = choice {
            let endpoint = endpoints.get(i, &self.reach);
            let policy = endpoints.policy();
            let is_probe = matches!(choice, Choice::Probe(_));
            let mut load = if is_probe { endpoint.probe(policy, now) } else { endpoint.take(policy, now) };
            if let Some(zone) = endpoints.zone(i) {
                load.goes_to(zone, self.metrics.zones());
            }
            return Ok(load);
        }
        drop(endpoints);
        let failure = tried.last.clone().or((choice == Choice::AllEjected).then_some(Failure::Ejected));
        Err(self.failed(failure))
    }

    /// What a failure says of the endpoint.
    pub(super) fn judge(&self, load: &mut Load, failure: &Failure) {
        let now = Instant::now();
        if !matches!(failure, Failure::Silent(_)) {
            load.settled(now);
        }
        if failure.is_the_endpoints() {
            let unreachable = matches!(failure, Failure::Connect(_) | Failure::Peer(_));
            load.tell(if unreachable { Outcome::Unreachable } else { Outcome::Failure }, now);
        }
        if failure.is_connect() {
            load.endpoint().failed();
            self.count();
        }
    }

    pub(super) fn pass_by(&self, load: &Load, failure: Failure, tried: &mut Tried) {
        tracing::debug!(endpoint = %load.endpoint().addr, %failure, "passed by");
        self.leave(load, failure.word(), Some(failure), tried);
    }

    /// The next try goes elsewhere, if there is another place.
    pub(super) fn leave(&self, load: &Load, reason: &'static str, last: Option<Failure>, tried: &mut Tried) {
        self.metrics.retry(reason);
        tried.endpoints.push(Arc::clone(load.endpoint()));
        tried.last = last;
    }

    pub(super) fn failed(&self, failure: Option<Failure>) -> Failed {
        let (known, failing) = self.known();
        let ejected = match self.endpoints().ejected() {
            0 => String::new(),
            ejected => format!(", {ejected} ejected"),
        };
        let last = failure.as_ref().map(|failure| format!("; last error: {failure}")).unwrap_or_default();
        Failed { failure, detail: format!("{}: {known} endpoints known, {failing} failing{ejected}{last}", self.name) }
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
}

/// What the far sidecar says of an application that it could not connect.
fn undelivered(response: &Response<Body>) -> Option<String> {
    if response.status() != StatusCode::SERVICE_UNAVAILABLE && !response.headers().contains_key(&GRPC_STATUS) {
        return None;
    }
    let said = response.headers().get(ERROR)?.to_str().ok()?;
    said.starts_with(Reason::ConnectFailed.word()).then(|| said.to_owned())
}
