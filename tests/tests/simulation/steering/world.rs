//! A client and its endpoints in virtual time: requests arrive, are sent where the proxy's real balancer and breakers say, wait
//! at an endpoint for one of its workers, and end.
//!
//! Invariant: time is what the events say; a seed decides everything. Non-goal: connections; what is lost is an answer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_proxy::balance::{Backend, Load, Tried, Wish};
use mesh_proxy::model::policy::{BackendPolicy, Budget as Share};
use mesh_proxy::model::{Endpoint, EndpointSet, Traits};
use mesh_proxy::resilience::breaker::Outcome;
use mesh_proxy::resilience::budget::{self, Budget};

use crate::registry::STAGE;

/// How an endpoint is at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It answers in its usual time.
    Well,
    /// In so many times that.
    Slow(u32),
    /// With 503, in half a millisecond.
    Failing,
    /// Not at all.
    Gone,
}

/// A story: the endpoints, what becomes of them, and the requests.
#[derive(Clone)]
pub(crate) struct Story {
    pub(crate) name: &'static str,
    pub(crate) endpoints: usize,
    /// The mood of an endpoint at a time in milliseconds.
    pub(crate) mood: fn(usize, u64) -> Mood,
    /// Requests a second.
    pub(crate) rate: u32,
    pub(crate) lasts: Duration,
    /// Attempts beyond the first.
    pub(crate) retries: u32,
}

/// What came of a story.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) latencies: Vec<Duration>,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) retried: u64,
    /// Retries that failed as well.
    pub(crate) wasted: u64,
    /// Attempts by quarter of a second and endpoint.
    pub(crate) attempts: BTreeMap<(u64, usize), u64>,
}

/// Mean time of an answer, workers of an endpoint, patience of the client.
const SERVICE: Duration = Duration::from_millis(5);
const WORKERS: usize = 16;
const TIMEOUT: Duration = Duration::from_secs(1);
pub(crate) const SLICE: Duration = Duration::from_millis(250);

struct Request {
    began: Duration,
    tries: u32,
    tried: Tried,
}

#[expect(clippy::large_enum_variant, reason = "few are waited for at a time")]
enum Event {
    Arrives,
    Ends { request: Request, load: Load, endpoint: usize, mood: Mood },
}

/// A story being told.
pub(crate) struct World<'a> {
    story: &'a Story,
    start: Instant,
    backend: Backend,
    random: fastrand::Rng,
    events: BinaryHeap<Reverse<(Duration, u64)>>,
    what: BTreeMap<u64, Event>,
    next: u64,
    /// When each worker of each endpoint is free.
    workers: Vec<Vec<Duration>>,
    budget: Budget,
    report: Report,
}

/// Tells `story` with the real balancer under `policy`.
pub(crate) fn tell(story: &Story, policy: &BackendPolicy, seed: u64) -> Report {
    fastrand::seed(seed);
    let start = Instant::now();
    let backend = Backend::new("simulated", &STAGE.reach);
    let endpoint = |i: usize| Endpoint { addr: addr(i), name: "web".into(), traits: Arc::new(Traits::default()) };
    let list = (0..story.endpoints).map(endpoint).collect();
    backend.apply(EndpointSet { list, policy: Some(Arc::new(policy.clone())) });
    let workers = vec![vec![Duration::ZERO; WORKERS]; story.endpoints];
    let (random, budget) = (fastrand::Rng::with_seed(seed), Budget::new(start));
    let (events, what, report) = Default::default();
    let mut world = World { story, start, backend, random, events, what, next: 0, workers, budget, report };
    world.at(Duration::ZERO, Event::Arrives);
    while let Some(Reverse((now, id))) = world.events.pop() {
        match world.what.remove(&id) {
            Some(Event::Arrives) => world.arrives(now),
            Some(Event::Ends { request, load, endpoint, mood }) => world.ends(now, request, load, (endpoint, mood)),
            None => {}
        }
    }
    world.report
}

fn addr(i: usize) -> std::net::SocketAddr {
    let i = u16::try_from(i).expect("few endpoints");
    (std::net::Ipv4Addr::new(10, 0, 0, 1), 1000 + i).into()
}

impl World<'_> {
    fn at(&mut self, when: Duration, event: Event) {
        self.what.insert(self.next, event);
        self.events.push(Reverse((when, self.next)));
        self.next += 1;
    }

    fn arrives(&mut self, now: Duration) {
        if now < self.story.lasts {
            let pause = self.exponential(Duration::from_secs(1) / self.story.rate);
            self.at(now + pause, Event::Arrives);
        }
        self.report.requests += 1;
        self.budget.request(budget::DEFAULT, self.start + now);
        self.attempt(now, Request { began: now, tries: 0, tried: Tried::at(self.start + now) });
    }

    fn attempt(&mut self, now: Duration, request: Request) {
        let Ok(load) = self.backend.pick_at(&request.tried, &Wish::default(), self.start + now) else {
            self.report.failed += 1;
            return;
        };
        let endpoint = usize::from(load.endpoint().addr.port() - 1000);
        *self.report.attempts.entry((slice(now), endpoint)).or_default() += 1;
        let mood = (self.story.mood)(endpoint, u64::try_from(now.as_millis()).expect("a short story"));
        let ends = match mood {
            Mood::Well => self.served(now, endpoint, 1),
            Mood::Slow(times) => self.served(now, endpoint, times),
            Mood::Failing => now + Duration::from_micros(500),
            Mood::Gone => now + TIMEOUT,
        };
        let (ends, mood) = if ends > now + TIMEOUT { (now + TIMEOUT, Mood::Gone) } else { (ends, mood) };
        self.at(ends, Event::Ends { request, load, endpoint, mood });
    }

    /// When a worker of the endpoint is done with it.
    fn served(&mut self, now: Duration, endpoint: usize, times: u32) -> Duration {
        let takes = (SERVICE / 2 + self.exponential(SERVICE / 2)) * times;
        let worker = self.workers[endpoint].iter_mut().min().expect("workers");
        *worker = now.max(*worker) + takes;
        *worker
    }

    fn ends(&mut self, now: Duration, mut request: Request, mut load: Load, (_, mood): (usize, Mood)) {
        let at = self.start + now;
        let status = if mood == Mood::Failing { 503 } else { 200 };
        if mood == Mood::Gone {
            load.give_up(at);
            load.tell(Outcome::Failure, at);
        } else {
            let response = http::Response::builder().status(status).body(()).expect("a response");
            load.heard(&response, at);
        }
        let is_good = matches!(mood, Mood::Well | Mood::Slow(_));
        self.report.wasted += u64::from(!is_good && request.tries > 0);
        request.tried.note(&load);
        drop(load);
        if is_good {
            self.report.latencies.push(now - request.began);
        } else if request.tries < self.story.retries && self.budget.retry(budget::DEFAULT, at) {
            self.report.retried += 1;
            request.tries += 1;
            self.attempt(now, request);
        } else {
            self.report.failed += 1;
        }
    }

    fn exponential(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.random.f64()).ln())
    }
}

pub(crate) fn slice(at: Duration) -> u64 {
    u64::try_from(at.as_nanos() / SLICE.as_nanos()).expect("a short story")
}

impl Report {
    /// The latency that so many of 1,000 good answers do not exceed.
    pub(crate) fn permille(&self, permille: usize) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted.get((sorted.len() * permille / 1000).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// The share of requests that failed, in percent.
    pub(crate) fn failed_percent(&self) -> f64 {
        self.failed as f64 * 100.0 / self.requests.max(1) as f64
    }

    /// How long after `healed` an endpoint has again three quarters of its share of a second's attempts, and keeps half of it
    /// for that second.
    pub(crate) fn back_after(&self, endpoint: usize, endpoints: usize, healed: Duration) -> Option<Duration> {
        const WINDOW: u64 = 4;
        let share = |from: u64| {
            let of = |i: usize| (from..from + WINDOW).filter_map(|at| self.attempts.get(&(at, i))).sum::<u64>();
            let all: u64 = (0..endpoints).map(of).sum();
            of(endpoint) as f64 * endpoints as f64 / all.max(1) as f64
        };
        let last = self.attempts.keys().map(|(at, _)| *at).max()?;
        let back = (slice(healed)..last.saturating_sub(WINDOW)).find(|at| share(*at) >= 0.75)?;
        Some(SLICE * u32::try_from(back).ok()? - healed.min(SLICE * u32::try_from(back).ok()?))
    }

    /// Attempts beyond the first, as the budget counts them.
    pub(crate) fn is_within(&self, of: Share, lasts: Duration) -> bool {
        let floor = f64::from(of.min_per_second) * (lasts + of.ttl).as_secs_f64();
        self.retried as f64 <= self.requests as f64 * f64::from(of.percent) / 100.0 + floor
    }
}
