//! The life of an outbound connection: accept, original destination, discovery, protocol, then per request or per
//! connection an endpoint.
//!
//! Read `Outbound::serve` top to bottom. Invariant: nothing is sent to an endpoint that discovery calls meshed other than
//! through mutual TLS; what discovery does not know is passed through as it is.

mod cors;
mod faults;
mod http;
mod leg;
mod mirror;
mod routed;
mod session;
mod target;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mesh_mtls::abuse;
use serde::Serialize;
use tokio::net::TcpStream;

use mirror::Mirrors;
use session::Sealer;
pub use target::{Route, Target, TargetState};

use leg::Leg;

use crate::balance::{Load, Reach, Wish};
use crate::control::Discovery;
use crate::http::answer::Reason;
use crate::http::h2_server::Side;
use crate::http::{self as web, Failure, h1, h2_server};
use crate::metrics::{Direction, Metrics};
use crate::model::Protocol;
use crate::model::policy::RequestPolicy;
use crate::net::local::LocalAddresses;
use crate::net::{Drain, Stream, copy, listen};
use crate::resilience::idle_cache::{self, IdleCache};
use crate::sniff::{self, Seen};

/// What this direction does by itself.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a connection to a new destination waits for discovery before it is passed through.
    pub discovery_wait: Duration,
    /// Known destinations.
    pub targets: idle_cache::Settings,
    /// The proxy's own ports: never a destination on one of the workload's own addresses.
    pub own_ports: Vec<u16>,
    /// Detection.
    pub sniff: sniff::Settings,
    /// Copying of opaque connections.
    pub copy: copy::Settings,
}

/// One worker's outbound side.
pub struct Outbound {
    settings: Settings,
    http: Arc<web::Settings>,
    discovery: Discovery,
    local: Arc<LocalAddresses>,
    reach: Arc<Reach>,
    metrics: Metrics,
    targets: Mutex<IdleCache<Target>>,
    mirrors: Mirrors,
    sessions: Sealer,
}

/// What `/state` shows of one worker's outbound side.
#[derive(Debug, Serialize)]
pub struct State {
    targets: Vec<TargetState>,
}

/// Most copies of requests that one worker has on their way to mirrors.
const MOST_COPIES: usize = 128;
const DIRECTION: Direction = Direction::Outbound;

impl Outbound {
    /// One worker's outbound side.
    pub fn new(
        settings: Settings,
        http: Arc<web::Settings>,
        discovery: Discovery,
        local: Arc<LocalAddresses>,
        reach: Arc<Reach>,
        metrics: Metrics,
    ) -> Arc<Self> {
        let targets = Mutex::new(IdleCache::new(settings.targets));
        let (mirrors, sessions) = (Mirrors::new(MOST_COPIES, &metrics), Sealer::default());
        Arc::new(Self { settings, http, discovery, local, reach, metrics, targets, mirrors, sessions })
    }

    /// Serves one accepted connection to its end.
    pub async fn serve(self: Arc<Self>, tcp: TcpStream, drain: Drain) {
        let Some(dialed) = self.destination(&tcp) else {
            return Box::pin(self.refuse(tcp.into(), Reason::Loop, "dialed the proxy's own port")).await;
        };
        let target = self.target(dialed);
        if target.is_over_limit() {
            // Nothing is known of it, and it may be meshed: passing it through could be the wrong thing.
            let detail = "more destinations at a time than MESH_MAX_TARGETS";
            return Box::pin(self.refuse(tcp.into(), Reason::Overload, detail)).await;
        }
        target.known(self.settings.discovery_wait).await;
        let route = target.route(&self.discovery, &self.reach, &self.metrics);
        let mut stream = Stream::from(tcp);
        let seen = match route.protocol {
            Protocol::Http1 => Seen::Http1,
            Protocol::Http2 | Protocol::Grpc => Seen::Http2,
            Protocol::Opaque => Seen::Opaque,
            Protocol::Detect => match self.detect(&mut stream, &target).await {
                Some(seen) => seen,
                None => return Box::pin(self.let_the_first_speaker_decide(stream, target, route, drain)).await,
            },
        };
        // Boxed, as above, is what an idle HTTP/1 connection shall not have room for.
        match seen {
            Seen::Http1 | Seen::Http2 => {
                drop(route);
                self.serve_http(stream, &seen, target, drain).await;
            }
            Seen::Nothing => {}
            _ => Box::pin(self.forward(stream, &seen, (target, route), drain)).await,
        }
    }

    /// Where the application dialed; `None` for what would come back to this proxy.
    fn destination(&self, tcp: &TcpStream) -> Option<SocketAddr> {
        let dialed = listen::original_destination(tcp)?;
        let own_ip = dialed.ip().is_loopback() || self.local.contains(dialed.ip());
        let own_port = self.settings.own_ports.contains(&dialed.port());
        let direct = tcp.local_addr().is_ok_and(|local| listen::canonical(local) == dialed);
        let would_loop = direct || (own_ip && own_port);
        (!would_loop).then_some(dialed)
    }

    async fn refuse(&self, stream: Stream, reason: Reason, detail: &str) {
        self.metrics.refused(DIRECTION, reason.word());
        self.metrics.error(DIRECTION, reason.word());
        tracing::warn!(reason = reason.word(), detail, "connection refused");
        sniff::refuse(stream, &self.settings.sniff, reason, detail).await;
    }

    /// What is known of a destination.
    pub fn target(&self, dialed: SocketAddr) -> Arc<Target> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets.get_or_insert(&dialed, Instant::now(), || Target::new(dialed, self.discovery.outbound(dialed)))
    }

    /// Decides by the client's bytes; `None` when it is silent, or is known to be.
    async fn detect(&self, stream: &mut Stream, target: &Target) -> Option<Seen> {
        if target.is_server_first() {
            return None;
        }
        let seen = sniff::client(stream, &self.settings.sniff).await.unwrap_or(Some(Seen::Nothing))?;
        self.metrics.detected(DIRECTION, seen.word());
        Some(seen)
    }

    /// The client is silent: connects meanwhile, and goes by the first byte of either side.
    async fn let_the_first_speaker_decide(
        self: Arc<Self>,
        mut stream: Stream,
        target: Arc<Target>,
        route: Arc<Route>,
        drain: Drain,
    ) {
        let opened = Box::pin(self.open(route.leg(), None)).await;
        let (mut upstream, load, leg) = match opened {
            Ok(opened) => opened,
            Err(failed) => return Box::pin(self.unreached(stream, target, &failed, drain)).await,
        };
        let seen = sniff::either(&mut stream, &mut upstream, &self.settings.sniff).await;
        let Ok(seen) = seen else { return stream.abort() };
        self.metrics.detected(DIRECTION, seen.word());
        target.remember(&seen);
        match seen {
            Seen::Http1 | Seen::Http2 => {
                drop((upstream, load, leg));
                Box::pin(self.serve_http(stream, &seen, target, drain)).await;
            }
            _ => self.copy(stream, (upstream, load, leg), &seen, (target, route), drain),
        }
    }

    /// Nobody could be reached for a client that was silent. No server will speak first, so the client gets more time to speak
    /// HTTP, and is told so in HTTP: it may have been late by a busy machine's fault.
    async fn unreached(
        self: Arc<Self>,
        mut stream: Stream,
        target: Arc<Target>,
        failed: &crate::balance::Failed,
        drain: Drain,
    ) {
        const MORE: u32 = 10;
        let patient = sniff::Settings { silence: MORE * self.settings.sniff.silence, ..self.settings.sniff };
        match sniff::client(&mut stream, &patient).await {
            Ok(Some(seen @ (Seen::Http1 | Seen::Http2))) => {
                self.metrics.detected(DIRECTION, seen.word());
                self.serve_http(stream, &seen, target, drain).await;
            }
            _ => self.reset(stream, failed),
        }
    }

    /// See [`Leg::stand_in`].
    async fn stand_in(&self, leg: &Leg) -> Option<Arc<Leg>> {
        leg.stand_in(&self.discovery, &self.reach, &self.metrics).await
    }

    /// A byte stream to an endpoint of `leg`, or of the one that stands in for it, which counts it.
    async fn open(
        &self,
        leg: &Arc<Leg>,
        protocol: Option<Protocol>,
    ) -> Result<(Stream, Load, Arc<Leg>), crate::balance::Failed> {
        let leg = self.stand_in(leg).await.unwrap_or_else(|| Arc::clone(leg));
        let hash = leg.now().source_key(|| self.local.all().first().copied());
        let (stream, load) = leg.open(protocol, &Wish { hash, ..Wish::default() }).await?;
        Ok((stream, load, leg))
    }

    /// Who answers the requests of a connection to `target`.
    pub fn handler(self: Arc<Self>, target: Arc<Target>, drain: Drain) -> Arc<impl web::Handler> {
        Arc::new(http::Connection::new(self, target, drain))
    }

    async fn serve_http(self: Arc<Self>, stream: Stream, seen: &Seen, target: Arc<Target>, mut drain: Drain) {
        let (settings, metrics) = (Arc::clone(&self.http), self.metrics.clone());
        let handler = self.handler(target, drain.clone());
        if *seen == Seen::Http1 {
            match h1::serve(stream, &settings, drain, handler).await {
                h1::Ended::BadRequest => told(&metrics, Reason::BadRequest),
                h1::Ended::TooSlow => told(&metrics, Reason::TooSlow),
                h1::Ended::Cleanly | h1::Ended::Cut => {}
            }
            return;
        }
        let served = h2_server::serve(stream, &settings, Side::Application, drain.started(), handler);
        if let Err(error) = Box::pin(served).await {
            match abuse::reason(&error) {
                Some(reason) => {
                    metrics.http2_abuse(DIRECTION, reason);
                    tracing::warn!(reason, %error, "HTTP/2 connection of the application ended");
                }
                None => tracing::debug!(%error, "HTTP/2 connection of the application ended early"),
            }
        }
    }

    /// Opaque bytes: one endpoint for the whole connection.
    async fn forward(&self, stream: Stream, seen: &Seen, way: (Arc<Target>, Arc<Route>), drain: Drain) {
        match self.open(way.1.leg(), Some(Protocol::Opaque)).await {
            Ok(opened) => self.copy(stream, opened, seen, way, drain),
            Err(failed) => self.reset(stream, &failed),
        }
    }

    /// The target is in use, and known, for as long as this lasts.
    fn copy(
        &self,
        stream: Stream,
        (upstream, load, leg): (Stream, Load, Arc<Leg>),
        seen: &Seen,
        (target, route): (Arc<Target>, Arc<Route>),
        drain: Drain,
    ) {
        if let Seen::Tls(sni) = seen {
            self.metrics.foreign_sni(DIRECTION, sni.as_deref());
        }
        let connection = leg.tcp(load.endpoint().tls(), seen).open().to_zone(load.zone());
        let settings = copy_under(self.settings.copy, route.policy());
        web::bytes::spawn_copy(stream, upstream, settings, connection, move |end| {
            timed_out(&leg, end);
            drop((load, target, route, drain));
        });
    }

    /// No endpoint for opaque bytes: the application sees a connection that breaks, as without a mesh.
    fn reset(&self, stream: Stream, failed: &crate::balance::Failed) {
        let reason = reason_of(failed);
        self.metrics.error(DIRECTION, reason.word());
        tracing::warn!(reason = reason.word(), detail = %failed.detail, "connection reset");
        stream.abort();
    }

    /// Lets go of destinations that nobody dials any more; to be called now and then.
    pub fn sweep(&self, now: Instant) {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).sweep(now);
    }

    /// What is known, for people.
    pub fn state(&self, now: Instant) -> State {
        let targets: Vec<_> = {
            let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
            targets.values().cloned().collect()
        };
        let mut targets: Vec<_> = targets.iter().map(|target| target.state(now)).collect();
        targets.sort_by_key(TargetState::address);
        State { targets }
    }
}

/// A client has been told that its request was not understood, or did not come in time.
fn told(metrics: &Metrics, reason: Reason) {
    metrics.error(DIRECTION, reason.word());
    tracing::info!(reason = reason.word(), "a request was refused by the mesh");
}

/// How bytes are copied under a policy.
fn copy_under(mut settings: copy::Settings, policy: Option<&Arc<RequestPolicy>>) -> copy::Settings {
    /// As good as none: a half-closed connection always has an end.
    const NONE: Duration = Duration::from_secs(366 * 24 * 3600);
    let Some(policy) = policy else { return settings };
    settings.idle = policy.timeouts.tcp_idle.flatten();
    settings.half_closed = policy.timeouts.half_close.map_or(settings.half_closed, |limit| limit.unwrap_or(NONE));
    settings
}

/// Counts a connection that took too long.
fn timed_out(leg: &leg::Leg, end: copy::End) {
    if let Some(kind) = end.timeout() {
        leg.now().timed_out(kind);
        tracing::info!(reason = end.reason(), target = %leg.now().name(), "connection ended");
    }
}

/// The reason word for an upstream that could not be used.
fn reason_of(failed: &crate::balance::Failed) -> Reason {
    failed.failure.as_ref().map_or(Reason::NoEndpoints, Failure::reason)
}
