//! Tunnels: mutual TLS from other sidecars, with requests and byte streams to the application on them.
//!
//! Invariant: a connection to the tunnel port that is not mutual TLS with our anchors is refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Response};
use mesh_kit::pressure::{self, Level};
use mesh_mtls::abuse;
use mesh_mtls::credentials::Anchors;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{DIRECTION, Inbound, Peer};
use crate::http::answer::{MEMORY, Reason};
use crate::http::h2_server::{self, Side, Tunnel};
use crate::http::{Abort, Body, BoxedRequest, Caller, Handler, headers};
use crate::model::Protocol;
use crate::net::Drain;
use crate::net::stream::abort_on_close;
use crate::sniff::Seen;

impl Inbound {
    /// A connection to the tunnel port.
    pub(super) async fn serve_tunnel(self: Arc<Self>, tcp: TcpStream, drain: Drain) {
        if let Err(reason) = self.begins_with_tls(&tcp).await {
            self.metrics.refused(DIRECTION, reason.word());
            tracing::info!(reason = reason.word(), "no TLS on the tunnel port");
            abort_on_close(&tcp);
            return;
        }
        // A sidecar always reads, whoever it reads for. Fails only on a socket that is dead already.
        let _ = self.settings.tunnel_liveness.put_on(&SockRef::from(&tcp));
        let addr = tcp.peer_addr().ok();
        let (stream, peer) = match self.tls.accept(tcp).await {
            Ok((stream, peer)) => (stream, peer),
            Err(error) => {
                self.metrics.handshake(DIRECTION, error.reason());
                tracing::warn!(peer = addr.map(tracing::field::display), reason = error.reason(), %error, "tunnel refused");
                return;
            }
        };
        let Some(id) = peer.id else { return };
        self.metrics.handshake(DIRECTION, "ok");
        let _open = self.metrics.tunnels().connection(DIRECTION);
        let (settings, metrics, peer) = (Arc::clone(&self.http), self.metrics.clone(), id.clone());
        let retire = retire(drain.clone(), self.credentials.watch_anchors(), settings.tunnel_age);
        let handler = Arc::new(Connection { inbound: self, peer: Peer::mesh(id), drain });
        if let Err(error) = h2_server::serve(stream, &settings, Side::Tunnel, retire, handler).await {
            match abuse::reason(&error) {
                Some(reason) => {
                    metrics.http2_abuse(DIRECTION, reason);
                    tracing::warn!(reason, %peer, %error, "tunnel ended");
                }
                None => tracing::debug!(%error, "tunnel ended early"),
            }
        }
    }

    /// Whether the first byte is that of a TLS record: who dials the tunnel port in plaintext is cut off at once, not after
    /// the handshake's time limit.
    async fn begins_with_tls(&self, tcp: &TcpStream) -> Result<(), Reason> {
        const HANDSHAKE: u8 = 22;
        let mut first = [0];
        match tokio::time::timeout(self.http.head_timeout, tcp.peek(&mut first)).await {
            Ok(Ok(1)) if first[0] == HANDSHAKE => Ok(()),
            Ok(_) => Err(Reason::NotLocal),
            Err(_) => Err(Reason::TooSlow),
        }
    }
}

/// When a tunnel shall be followed by a new one: at the drain; before its certificates are old; and some time after a change
/// of trust anchors, when everybody has a certificate of the new ones.
async fn retire(mut drain: Drain, mut anchors: watch::Receiver<Anchors>, age: Duration) {
    const RENEWED_WITHIN: Duration = Duration::from_secs(10);
    // Spread, for tunnels that were opened together shall not end together.
    let spread = |time: Duration| time.mul_f64(0.9 + 0.2 * fastrand::f64());
    let untrusted = async {
        if anchors.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(spread(RENEWED_WITHIN)).await;
    };
    tokio::select! {
        () = drain.started() => {}
        () = untrusted => {}
        () = tokio::time::sleep(spread(age)) => {}
    }
}

/// Serves the streams of one tunnel.
struct Connection {
    inbound: Arc<Inbound>,
    peer: Peer,
    drain: Drain,
}

impl Handler for Connection {
    async fn handle(&self, mut request: BoxedRequest, caller: Caller) -> Result<Response<Body>, Abort> {
        let Some(told) = headers::from_tunnel(&mut request) else {
            let detail = "a tunnel request without the fields that say where it goes";
            return Ok(self.inbound.refuse(Reason::BadRequest, request.headers(), detail));
        };
        if caller.asks_too_much() {
            return Ok(self.inbound.refuse(Reason::Overload, request.headers(), MEMORY));
        }
        let to = match self.inbound.may_deliver(told.destination) {
            Ok(to) => to,
            Err(reason) => {
                let detail = format!("{} is not for this proxy to deliver", told.destination);
                return Ok(self.inbound.refuse(reason, request.headers(), &detail));
            }
        };
        if let Err(bad) = headers::settle_authority(&mut request) {
            return Ok(self.inbound.refuse(Reason::BadRequest, request.headers(), &bad.to_string()));
        }
        headers::into_origin_form(&mut request, told.origin);
        let app = self.inbound.app(to);
        let open = self.inbound.metrics.tunnels().stream(DIRECTION);
        let response = self.inbound.deliver(request, &app, &self.peer, &caller, None).await;
        response.map(|response| response.map(|body| body.holding(open)))
    }

    fn refuse(&self, reason: Reason, headers: &HeaderMap, detail: &str) -> Response<Body> {
        self.inbound.refuse(reason, headers, detail)
    }

    fn too_slow(&self) {
        self.inbound.too_slow();
    }

    async fn connect(&self, tunnel: Tunnel) {
        let authority = tunnel.request().uri().authority().and_then(|a| a.as_str().parse::<SocketAddr>().ok());
        let checked = match authority {
            Some(destination) => self.inbound.may_deliver(destination),
            None => Err(Reason::BadRequest),
        };
        let to = match checked {
            Ok(_) if pressure::look() > Level::Calm => {
                let answer = self.inbound.refuse(Reason::Overload, tunnel.request().headers(), MEMORY);
                return Box::pin(tunnel.refuse(answer)).await;
            }
            Ok(to) => to,
            Err(reason) => {
                let answer = self.inbound.refuse(reason, tunnel.request().headers(), "CONNECT authority");
                return Box::pin(tunnel.refuse(answer)).await;
            }
        };
        let told = headers::told_protocol(tunnel.request().headers());
        let app = self.inbound.app(to);
        let (inbound, peer, drain) = (Arc::clone(&self.inbound), self.peer.clone(), self.drain.clone());
        let declared = self.inbound.protocol(to);
        let protocol = if declared == Protocol::Detect { told } else { declared };
        // The application is connected first: the far sidecar learns of a failure while it can still go elsewhere.
        let upstream = match Box::pin(app.connect()).await {
            Ok(upstream) => upstream,
            Err(error) => {
                let detail = format!("application: {error}");
                let reason = if error.is_ours { Reason::Overload } else { Reason::ConnectFailed };
                let answer = inbound.refuse(reason, tunnel.request().headers(), &detail);
                return Box::pin(tunnel.refuse(answer)).await;
            }
        };
        let open = inbound.metrics.tunnels().stream(DIRECTION);
        let Some(stream) = tunnel.accept() else { return };
        if protocol == Protocol::Http1 {
            let upstream = Some(upstream.into());
            Box::pin(inbound.serve_http(stream, &Seen::Http1, (app, upstream), peer, drain)).await;
            return drop(open);
        }
        let seen = (protocol == Protocol::Opaque).then_some(Seen::Opaque);
        Box::pin(inbound.serve_connected(stream, upstream.into(), seen, app, peer, (drain, Some(open)))).await;
    }
}
