//! HTTP requests to the application, from a client without a sidecar or through a tunnel's byte stream.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, Response, Version};

use super::app::App;
use super::{DIRECTION, Inbound, Peer, rates};
use crate::http::answer::{AskedAs, MEMORY, Reason};
use crate::http::deadline::{Deadline, has_trailers};
use crate::http::h2_server::Tunnel;
use crate::http::timed::Limits;
use crate::http::{self as web, Abort, Body, BoxedRequest, Caller, Failure, Handler, Late, headers, upgrade};
use crate::net::{Drain, Stream};
use crate::resilience::gcra::Refusal;

/// Serves the requests of one connection to one port of the application.
pub(super) struct Connection {
    inbound: Arc<Inbound>,
    app: Arc<App>,
    peer: Peer,
    drain: Drain,
    connected: Mutex<Option<Stream>>,
}

/// What a request needs that leaves HTTP.
pub(super) struct Leaving {
    drain: Drain,
    connected: Option<Stream>,
}

impl Connection {
    pub(super) fn new(
        inbound: Arc<Inbound>,
        app: Arc<App>,
        peer: Peer,
        drain: Drain,
        connected: Option<Stream>,
    ) -> Self {
        Self { inbound, app, peer, drain, connected: Mutex::new(connected) }
    }

    fn leaving(&self) -> Leaving {
        let connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner).take();
        Leaving { drain: self.drain.clone(), connected }
    }
}

impl Handler for Connection {
    async fn handle(&self, mut request: BoxedRequest, caller: Caller) -> Result<Response<Body>, Abort> {
        headers::strip_ours(request.headers_mut());
        if self.peer == Peer::Stranger {
            headers::strip_identities(request.headers_mut());
        }
        if let Err(bad) = headers::settle_authority(&mut request) {
            let answer = self.inbound.refuse(Reason::BadRequest, request.headers(), &bad.to_string());
            return Ok(web::body::measure(answer, self.app.http(self.peer.tls()).request(Instant::now())));
        }
        if caller.asks_too_much() {
            let answer = self.inbound.refuse(Reason::Overload, request.headers(), MEMORY);
            return Ok(web::body::measure(answer, self.app.http(self.peer.tls()).request(Instant::now())));
        }
        let leaving = headers::leaves_http(&request).then(|| self.leaving());
        self.inbound.deliver(request, &self.app, &self.peer, &caller, leaving).await
    }

    fn refuse(&self, reason: Reason, headers: &HeaderMap, detail: &str) -> Response<Body> {
        self.inbound.refuse(reason, headers, detail)
    }

    fn too_slow(&self) {
        self.inbound.too_slow();
    }

    async fn connect(&self, tunnel: Tunnel) {
        let answer =
            self.inbound.refuse(Reason::BadRequest, tunnel.request().headers(), "CONNECT over HTTP/2 is not forwarded");
        tunnel.refuse(answer).await;
    }
}

impl Inbound {
    /// One request to the application; what only the mesh may say has been taken off it.
    pub(super) async fn deliver(
        self: &Arc<Self>,
        mut request: BoxedRequest,
        app: &Arc<App>,
        peer: &Peer,
        caller: &Caller,
        leaving: Option<Leaving>,
    ) -> Result<Response<Body>, Abort> {
        let measured = app.http(peer.tls()).request(Instant::now());
        let asked_as = AskedAs::of(request.headers());
        if let Err(refusal) = self.rules.rates.admit(app.port(), peer, request.headers()) {
            return Ok(web::body::measure(self.limited(&refusal, asked_as), measured));
        }
        if let Peer::Mesh(proven) = peer {
            request.headers_mut().insert(headers::CLIENT_ID, proven.value.clone());
        }
        let version = request.version();
        let result = match leaving {
            // Boxed: it is rare, and larger than what other requests need.
            Some(leaving) => Box::pin(self.leave_http(request, app, peer, caller, leaving)).await,
            None => match Deadline::of(request.headers(), Instant::now) {
                None => app.send(request, peer, caller).await,
                // Boxed, as few requests have one.
                Some(deadline) => Box::pin(self.deliver_by(deadline, request, app, peer, caller)).await,
            },
        };
        match result {
            Ok(response) => Ok(web::body::measure(response, measured)),
            Err(failure) => {
                if let (Version::HTTP_2, Some(reason)) = (version, failure.reset()) {
                    return Err(Abort(reason));
                }
                let (reason, detail) = match (caller.blame(), &failure) {
                    (Some(bad), _) => (Reason::BadRequest, bad.to_string()),
                    (None, Failure::Silent(_) | Failure::Late(_)) => {
                        (failure.reason(), format!("application: {failure}"))
                    }
                    (None, Failure::Busy(_)) => (Reason::Overload, format!("application: {failure}")),
                    (None, _) if failure.is_connect() => (Reason::ConnectFailed, format!("application: {failure}")),
                    (None, _) => (Reason::UpstreamReset, format!("application: {failure}")),
                };
                self.metrics.error(DIRECTION, reason.word());
                tracing::info!(reason = reason.word(), %detail, "answered by the mesh");
                let answer = asked_as.answer(reason, &detail);
                Ok(web::body::measure(answer, measured))
            }
        }
    }

    /// A call whose caller waits until `deadline` only.
    async fn deliver_by(
        self: &Arc<Self>,
        deadline: Deadline,
        mut request: BoxedRequest,
        app: &App,
        peer: &Peer,
        caller: &Caller,
    ) -> Result<Response<Body>, Failure> {
        let has_trailers = has_trailers(&request);
        request.extensions_mut().insert(deadline);
        let answer = tokio::time::timeout_at(deadline.0.into(), app.send(request, peer, caller)).await;
        let response = answer.unwrap_or(Err(Failure::Late(Late::Deadline)))?;
        let metrics = self.metrics.clone();
        let broken = move |late: Late| {
            metrics.error(DIRECTION, late.reason().word());
            tracing::info!(reason = late.reason().word(), detail = %late, "exchange ended");
        };
        let end = Some((deadline.0.into(), Late::Deadline));
        Ok(response.map(|body| body.timed(Limits { end, has_trailers, idle: None, broken: Box::new(broken) })))
    }

    async fn leave_http(
        self: &Arc<Self>,
        request: BoxedRequest,
        app: &Arc<App>,
        peer: &Peer,
        caller: &Caller,
        Leaving { drain, connected }: Leaving,
    ) -> Result<Response<Body>, Failure> {
        let upstream = match connected {
            Some(upstream) => upstream,
            None => app.connect().await?.into(),
        };
        let (inbound, app, tls) = (Arc::clone(self), Arc::clone(app), peer.tls());
        let joined = move |client: Stream, upstream: Stream| {
            let connection = app.tcp(tls).open();
            web::bytes::spawn_copy(client, upstream, inbound.settings.copy, connection, move |_| drop((app, drain)));
        };
        let limit = Some(self.http.response_timeout);
        let exchanged = pin!(upgrade::exchange(request, upstream, caller, &self.http, joined));
        // What asks to leave HTTP has no body to wait for.
        let response = web::patience::within(limit, || Some(Duration::MAX), exchanged).await;
        response.map(headers::from_stranger)
    }

    fn limited(&self, refusal: &Refusal, asked_as: AskedAs) -> Response<Body> {
        let (reason, detail) = (Reason::RateLimited.word(), rates::detail(refusal));
        self.metrics.error(DIRECTION, reason);
        tracing::info!(reason, %detail, "answered by the mesh");
        rates::answer(refusal, asked_as, &detail)
    }

    pub(super) fn too_slow(&self) {
        let reason = Reason::TooSlow.word();
        self.metrics.error(DIRECTION, reason);
        tracing::info!(reason, "exchange ended");
    }

    pub(super) fn refuse(&self, reason: Reason, headers: &HeaderMap, detail: &str) -> Response<Body> {
        self.metrics.error(DIRECTION, reason.word());
        tracing::info!(reason = reason.word(), %detail, "answered by the mesh");
        reason.answer(headers, detail)
    }
}
