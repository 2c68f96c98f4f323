//! One address of the application behind the proxy: connections to it, and its metrics.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Response, Version};
use http_body::Body as _;
use serde::Serialize;
use tokio::net::TcpStream;

use super::{DIRECTION, Deliverable, Peer};
use crate::http::{Body, BoxedRequest, Caller, Failure, Settings, h1_pool, h2_client, h2_pool, headers, patience};
use crate::metrics::{self, Metrics, Tls};
use crate::net::Connector;
use crate::net::connect::ConnectError;
use crate::resilience::idle_cache::Keyed;
use crate::sniff::Seen;

/// The application at one address.
pub(super) struct App {
    addr: SocketAddr,
    connector: Connector,
    settings: Arc<Settings>,
    metrics: Metrics,
    h1: Arc<h1_pool::Pool>,
    h2: Arc<h2_pool::Pool>,
    server_first: AtomicBool,
    http: [OnceLock<Arc<metrics::Http>>; 2],
    tcp: [OnceLock<Arc<metrics::Tcp>>; 3],
}

/// A port as `/state` shows it.
#[derive(Debug, Serialize)]
pub(super) struct AppState {
    address: SocketAddr,
}

impl Keyed for App {
    type Key = SocketAddr;

    fn key(&self) -> &SocketAddr {
        &self.addr
    }
}

impl App {
    pub(super) fn new(to: Deliverable, connector: &Connector, settings: &Arc<Settings>, metrics: &Metrics) -> Self {
        let addr = to.0;
        let dial = h2_pool::Dial::App(addr);
        Self {
            addr,
            connector: connector.clone(),
            settings: Arc::clone(settings),
            metrics: metrics.clone(),
            h1: h1_pool::Pool::new(addr, connector.clone(), Arc::clone(settings)),
            h2: h2_pool::Pool::new(dial, connector.clone(), Arc::clone(settings), metrics.clone()),
            server_first: AtomicBool::new(false),
            http: Default::default(),
            tcp: Default::default(),
        }
    }

    /// Its port.
    pub(super) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// A connection of its own.
    pub(super) async fn connect(&self) -> Result<TcpStream, ConnectError> {
        self.connector.connect(self.addr).await
    }

    /// One exchange, in the version that `request` says. The sidecar of a client in the mesh watches over the time itself.
    pub(super) async fn send(
        &self,
        mut request: BoxedRequest,
        peer: &Peer,
        caller: &Caller,
    ) -> Result<Response<Body>, Failure> {
        if let Peer::Mesh(_) = peer {
            return self.exchange(request, caller).await;
        }
        let limit = patience::limit(&self.settings, request.headers());
        let sending = (!request.body().is_end_stream()).then(|| {
            let sending = Arc::new(());
            let body = std::mem::take(request.body_mut());
            *request.body_mut() = body.holding(Arc::clone(&sending));
            Arc::downgrade(&sending)
        });
        let out_for = || sending.as_ref().is_none_or(|sending| sending.strong_count() == 0).then_some(Duration::MAX);
        let exchange = pin!(self.exchange(request, caller));
        patience::within(limit, out_for, exchange).await
    }

    async fn exchange(&self, mut request: BoxedRequest, caller: &Caller) -> Result<Response<Body>, Failure> {
        let response = if request.version() < Version::HTTP_2 {
            headers::into_h1_hop(&mut request);
            self.h1.lease(None, None).await?.send(request, caller).await
        } else {
            headers::strip_hop_by_hop(request.headers_mut());
            headers::into_h2_form(&mut request, self.addr);
            h2_client::send(self.h2.ready(None).await?, request, caller, &self.settings).await
        };
        response.map(headers::from_stranger)
    }

    /// Whether it has spoken first before.
    pub(super) fn is_server_first(&self) -> bool {
        self.server_first.load(Ordering::Relaxed)
    }

    /// Remembers the verdict for the connections to come.
    pub(super) fn remember(&self, seen: &Seen) {
        if *seen == Seen::Nothing {
            return;
        }
        self.server_first.store(*seen == Seen::ServerFirst, Ordering::Relaxed);
    }

    pub(super) fn http(&self, tls: Tls) -> &Arc<metrics::Http> {
        self.http[usize::from(tls == Tls::Mutual)].get_or_init(|| self.metrics.http(DIRECTION, &self.name(), tls))
    }

    pub(super) fn tcp(&self, tls: Tls) -> &Arc<metrics::Tcp> {
        let slot = match tls {
            Tls::None => 0,
            Tls::Mutual => 1,
            Tls::Foreign => 2,
        };
        self.tcp[slot].get_or_init(|| self.metrics.tcp(DIRECTION, &self.name(), tls))
    }

    pub(super) fn state(&self) -> AppState {
        AppState { address: self.addr }
    }

    fn name(&self) -> String {
        format!(":{}", self.addr.port())
    }
}
