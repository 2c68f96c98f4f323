//! The life of an inbound connection: accept, original destination, our TLS (a tunnel) or not, port policy, protocol, then
//! to the application.
//!
//! Read `Inbound::serve` top to bottom. Invariant: bytes go to the workload's own addresses only, never to the proxy's own
//! ports, whatever a peer says (`Inbound::may_deliver`). Only a verified tunnel speaks for an identity.

mod app;
mod http;
mod rates;
mod tunnel;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ::http::HeaderValue;
use mesh_mtls::abuse;
use mesh_mtls::credentials::Credentials;
use mesh_mtls::spiffe;
use mesh_mtls::tls;
use serde::Serialize;
use tokio::net::TcpStream;

use app::{App, AppState};
use rates::{PortState, Rates};

use crate::control::Subscription;
use crate::http::answer::Reason;
use crate::http::h2_server::Side;
use crate::http::{self as web, h1, h2_server};
use crate::metrics::{self, Direction, Metrics, Tls};
use crate::model::{InboundPolicy, Protocol};
use crate::net::connect::{ConnectError, LivenessSettings};
use crate::net::local::LocalAddresses;
use crate::net::{Connector, Drain, Stream, copy, listen};
use crate::resilience::idle_cache::{self, IdleCache};
use crate::sniff::{self, Seen};

/// What this direction does by itself.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The port that other sidecars dial for tunnels.
    pub tunnel_port: u16,
    /// When a sidecar that says nothing is given up.
    pub tunnel_liveness: LivenessSettings,
    /// The proxy's own ports: nothing is delivered to them.
    pub own_ports: Vec<u16>,
    /// Known ports of the application.
    pub apps: idle_cache::Settings,
    /// Detection.
    pub sniff: sniff::Settings,
    /// Copying of opaque connections.
    pub copy: copy::Settings,
}

/// One worker's inbound side.
pub struct Inbound {
    settings: Settings,
    http: Arc<web::Settings>,
    rules: Arc<Rules>,
    local: Arc<LocalAddresses>,
    credentials: Credentials,
    tls: tls::Acceptor,
    connector: Connector,
    metrics: Metrics,
    apps: Mutex<IdleCache<App>>,
}

/// What holds for connections to the workload; all workers share it.
#[derive(Debug)]
pub struct Rules {
    policy: Subscription<InboundPolicy>,
    rates: Rates,
}

impl Rules {
    /// What `policy` says, now and later.
    pub fn new(policy: Subscription<InboundPolicy>) -> Arc<Self> {
        let rules = Arc::new(Self { policy, rates: Rates::default() });
        let apply = |rules: &Self, policy: &InboundPolicy| rules.rates.apply(policy, Instant::now());
        rules.policy.follow(&rules, apply);
        rules
    }
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Peer {
    /// A sidecar that has proved an identity.
    Mesh(Proven),
    /// Somebody without a sidecar.
    Stranger,
}

/// An identity, and the same as the value of a field: made once for a connection, not for each of its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Proven {
    id: spiffe::Id,
    value: HeaderValue,
}

impl Peer {
    fn mesh(id: spiffe::Id) -> Self {
        let value = HeaderValue::from_str(id.as_str()).expect("an identity is made of visible ASCII");
        Self::Mesh(Proven { id, value })
    }

    fn tls(&self) -> Tls {
        match self {
            Peer::Mesh(_) => Tls::Mutual,
            Peer::Stranger => Tls::None,
        }
    }
}

/// An address of the application to which delivery is allowed; `Inbound::may_deliver` is the only place that makes one.
#[derive(Clone, Copy, Debug)]
struct Deliverable(SocketAddr);

/// What `/state` shows of one worker's inbound side.
#[derive(Debug, Serialize)]
pub struct State {
    declared: Vec<(u16, Protocol)>,
    rates: Vec<PortState>,
    apps: Vec<AppState>,
}

const DIRECTION: Direction = Direction::Inbound;

impl Inbound {
    /// One worker's inbound side.
    pub fn new(
        settings: Settings,
        http: Arc<web::Settings>,
        rules: Arc<Rules>,
        local: Arc<LocalAddresses>,
        credentials: Credentials,
        connector: Connector,
        metrics: Metrics,
    ) -> Arc<Self> {
        let tls = tls::Acceptor::new(credentials.clone(), tls::ClientAuth::Required, web::TUNNEL_ALPN);
        let apps = Mutex::new(IdleCache::new(settings.apps));
        Arc::new(Self { settings, http, rules, local, credentials, tls, connector, metrics, apps })
    }

    /// Serves one accepted connection to its end.
    pub async fn serve(self: Arc<Self>, tcp: TcpStream, drain: Drain) {
        let Some(dialed) = listen::original_destination(&tcp).or_else(|| tcp.local_addr().ok()) else { return };
        if dialed.port() == self.settings.tunnel_port {
            return Box::pin(self.serve_tunnel(tcp, drain)).await;
        }
        match self.may_deliver(dialed) {
            Ok(to) => self.serve_captured(tcp, to, drain).await,
            Err(reason) => {
                self.metrics.refused(DIRECTION, reason.word());
                self.metrics.error(DIRECTION, reason.word());
                let detail = format!("{dialed} is not for this proxy to deliver");
                tracing::warn!(reason = reason.word(), detail, "connection refused");
                sniff::refuse(tcp.into(), &self.settings.sniff, reason, &detail).await;
            }
        }
    }

    /// The guard that all deliveries pass.
    fn may_deliver(&self, to: SocketAddr) -> Result<Deliverable, Reason> {
        let to = listen::canonical(to);
        if !self.local.contains(to.ip()) || to.port() == 0 {
            return Err(Reason::NotLocal);
        }
        if self.settings.own_ports.contains(&to.port()) {
            return Err(Reason::Loop);
        }
        Ok(Deliverable(to))
    }

    /// A connection from somebody without a sidecar.
    async fn serve_captured(self: Arc<Self>, tcp: TcpStream, to: Deliverable, drain: Drain) {
        let app = self.app(to);
        let mut stream = Stream::from(tcp);
        let seen = match self.protocol(to) {
            Protocol::Http1 => Some(Seen::Http1),
            Protocol::Http2 | Protocol::Grpc => Some(Seen::Http2),
            Protocol::Opaque => Some(Seen::Opaque),
            Protocol::Detect if app.is_server_first() => None,
            Protocol::Detect => {
                let seen = sniff::client(&mut stream, &self.settings.sniff).await;
                let seen = seen.unwrap_or(Some(Seen::Nothing));
                if let Some(seen) = &seen {
                    self.metrics.detected(DIRECTION, seen.word());
                }
                seen
            }
        };
        match seen {
            Some(Seen::Nothing) => {}
            Some(seen @ (Seen::Http1 | Seen::Http2)) => {
                self.serve_http(stream, &seen, (app, None), Peer::Stranger, drain).await;
            }
            seen => match app.connect().await {
                Ok(upstream) => {
                    let upstream = Stream::from(upstream);
                    Box::pin(self.serve_connected(stream, upstream, seen, app, Peer::Stranger, (drain, None))).await;
                }
                Err(error) => self.reset(stream, &error),
            },
        }
    }

    /// Both sides are connected, and the protocol is known or up to the first speaker.
    async fn serve_connected(
        self: Arc<Self>,
        mut stream: Stream,
        mut upstream: Stream,
        seen: Option<Seen>,
        app: Arc<App>,
        peer: Peer,
        (drain, open): (Drain, Option<metrics::Open>),
    ) {
        let seen = match seen {
            Some(seen) => seen,
            None => {
                let seen = sniff::either(&mut stream, &mut upstream, &self.settings.sniff).await;
                let Ok(seen) = seen else { return stream.abort() };
                self.metrics.detected(DIRECTION, seen.word());
                app.remember(&seen);
                seen
            }
        };
        match seen {
            Seen::Http1 | Seen::Http2 => {
                drop(upstream);
                Box::pin(self.serve_http(stream, &seen, (app, None), peer, drain)).await;
            }
            seen => self.copy(stream, upstream, &seen, app, &peer, (drain, open)),
        }
    }

    /// `connected` is a connection to the application for the first request that leaves HTTP, where there is one already.
    async fn serve_http(
        self: Arc<Self>,
        stream: Stream,
        seen: &Seen,
        (app, connected): (Arc<App>, Option<Stream>),
        peer: Peer,
        mut drain: Drain,
    ) {
        let (settings, metrics) = (Arc::clone(&self.http), self.metrics.clone());
        let handler = Arc::new(http::Connection::new(self, app, peer, drain.clone(), connected));
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
                    tracing::warn!(reason, %error, "HTTP/2 connection of a client ended");
                }
                None => tracing::debug!(%error, "HTTP/2 connection of a client ended early"),
            }
        }
    }

    fn copy(
        &self,
        stream: Stream,
        upstream: Stream,
        seen: &Seen,
        app: Arc<App>,
        peer: &Peer,
        guards: (Drain, Option<metrics::Open>),
    ) {
        let tls = match (peer, seen) {
            (Peer::Stranger, Seen::Tls(_)) => Tls::Foreign,
            (peer, _) => peer.tls(),
        };
        if let Seen::Tls(sni) = seen {
            self.metrics.foreign_sni(DIRECTION, sni.as_deref());
        }
        let connection = app.tcp(tls).open();
        web::bytes::spawn_copy(stream, upstream, self.settings.copy, connection, move |_| drop((app, guards)));
    }

    fn reset(&self, stream: Stream, error: &ConnectError) {
        let reason = if error.is_ours { Reason::Overload } else { Reason::ConnectFailed }.word();
        self.metrics.error(DIRECTION, reason);
        tracing::warn!(reason, %error, "connection reset");
        stream.abort();
    }

    fn protocol(&self, to: Deliverable) -> Protocol {
        self.rules.policy.current().map(|policy| policy.protocol(to.0.port())).unwrap_or_default()
    }

    fn app(&self, to: Deliverable) -> Arc<App> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        apps.get_or_insert(&to.0, Instant::now(), || App::new(to, &self.connector, &self.http, &self.metrics))
    }

    /// Lets go of ports that nobody dials any more; to be called now and then.
    pub fn sweep(&self, now: Instant) {
        self.rules.rates.sweep(now);
        self.apps.lock().unwrap_or_else(PoisonError::into_inner).sweep(now);
    }

    /// What is known, for people.
    pub fn state(&self, now: Instant) -> State {
        let policy = self.rules.policy.current();
        let declared = policy.map(|policy| policy.ports.iter().map(|(port, p)| (*port, p.protocol)).collect());
        let rates = self.rules.rates.state(now);
        let apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        State { declared: declared.unwrap_or_default(), rates, apps: apps.values().map(|app| app.state()).collect() }
    }
}

/// A client has been told that its request was not understood, or did not come in time.
fn told(metrics: &Metrics, reason: Reason) {
    metrics.error(DIRECTION, reason.word());
    tracing::info!(reason = reason.word(), "a request was refused by the mesh");
}
