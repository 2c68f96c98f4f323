//! An `identity` service for tests, over real sockets and real TLS, with faults to order.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_proto::identity::identity_server::{Identity, IdentityServer};
use mesh_proto::identity::{CertifyRequest, CertifyResponse, TrustBundleRequest, TrustBundleResponse};
use rustls_pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::{Ca, Template, id};
use crate::credentials::Credentials;
use crate::grpc::{self, Peer};
use crate::spiffe::Id;
use crate::tls::{Acceptor, ClientAuth};

/// What it does with the next requests.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Sign,
    SignFor(&'static str),
    Refuse(tonic::Code),
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) token: Vec<u8>,
    pub(crate) identity: String,
    pub(crate) csr_names: Vec<rcgen::SanType>,
    pub(crate) peer: Peer,
}

struct State {
    ca: Arc<Ca>,
    life: Duration,
    answer: Answer,
}

struct Shared {
    state: Mutex<State>,
    bundle: watch::Sender<Vec<CertificateDer<'static>>>,
    seen: watch::Sender<Vec<Seen>>,
    refused: watch::Sender<Vec<&'static str>>,
    credentials: Credentials,
}

/// Lives in a runtime of its own, so that stopping it cuts its connections like the end of a process does.
pub(crate) struct Authority {
    shared: Arc<Shared>,
    addr: SocketAddr,
    listener: Option<std::net::TcpListener>,
    runtime: Option<Runtime>,
}

impl Authority {
    /// Listens on 127.0.0.1.
    pub(crate) async fn start(ca: Ca) -> Self {
        let mut authority = Self::at(Ipv4Addr::LOCALHOST, ca).await;
        authority.restart().await;
        authority
    }

    /// Has an address where nobody listens yet: one of its own, so that no other test's connection takes its port
    /// meanwhile.
    pub(crate) async fn stopped(ca: Ca) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, NEXT.fetch_add(1, Ordering::Relaxed), high, low.max(1));
        let mut authority = Self::at(ip, ca).await;
        authority.listener = None;
        authority
    }

    async fn at(ip: Ipv4Addr, ca: Ca) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let credentials = ca.credentials(&id("identity"));
        let state = State { life: Duration::from_secs(3600), answer: Answer::Sign, ca: Arc::new(ca) };
        let shared = Arc::new(Shared {
            bundle: watch::Sender::new(vec![state.ca.der()]),
            seen: watch::Sender::new(vec![]),
            refused: watch::Sender::new(vec![]),
            state: Mutex::new(state),
            credentials,
        });
        Self { shared, addr, listener: Some(listener.into_std().unwrap()), runtime: None }
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (shared, addr, listener) = (Arc::clone(&self.shared), self.addr, self.listener.take());
        let (listening, wait) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            let listener = match listener {
                Some(listener) => TcpListener::from_std(listener).unwrap(),
                None => TcpListener::bind(addr).await.unwrap(),
            };
            listening.send(()).unwrap();
            let acceptor = Acceptor::new(shared.credentials.clone(), ClientAuth::Optional, grpc::ALPN);
            let counted = Arc::clone(&shared);
            let incoming = grpc::incoming(listener, acceptor)
                .on_refused(move |reason| counted.refused.send_modify(|all| all.push(reason)));
            let service = IdentityServer::new(Service(shared));
            grpc::server().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        wait.await.unwrap();
        self.runtime = Some(runtime);
    }

    /// Returns when all its sockets are closed.
    pub(crate) async fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            let wait = Duration::from_secs(30);
            tokio::task::spawn_blocking(move || runtime.shutdown_timeout(wait)).await.unwrap();
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn answer(&self, answer: Answer) {
        self.shared.state.lock().unwrap().answer = answer;
    }

    pub(crate) fn life(&self, life: Duration) {
        self.shared.state.lock().unwrap().life = life;
    }

    /// Signs by `ca` from now on.
    pub(crate) fn issuer(&self, ca: Arc<Ca>) {
        self.shared.state.lock().unwrap().ca = ca;
    }

    /// Shows a certificate of `ca` from now on.
    pub(crate) fn serve_as(&self, ca: &Ca, id: &Id) {
        self.shared.credentials.set_leaf(ca.issue(&Template::of(id)).leaf());
    }

    pub(crate) fn publish(&self, bundle: Vec<CertificateDer<'static>>) {
        self.shared.bundle.send_replace(bundle);
    }

    pub(crate) fn seen(&self) -> watch::Receiver<Vec<Seen>> {
        self.shared.seen.subscribe()
    }

    pub(crate) fn refused(&self) -> watch::Receiver<Vec<&'static str>> {
        self.shared.refused.subscribe()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Service(Arc<Shared>);

#[tonic::async_trait]
impl Identity for Service {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let peer = request.extensions().get::<Peer>().unwrap().clone();
        let request = request.into_inner();
        let csr = rcgen::CertificateSigningRequestParams::from_der(&request.csr_der.as_ref().into()).unwrap();
        let (token, identity) = (request.token.to_vec(), request.identity.clone());
        let seen = Seen { token, identity, csr_names: csr.params.subject_alt_names, peer };
        self.0.seen.send_modify(|all| all.push(seen));

        let state = self.0.state.lock().unwrap();
        let asked = || {
            if request.identity.is_empty() { id("of-the-token") } else { request.identity.parse().unwrap() }
        };
        let sign = |id| state.ca.sign(&request.csr_der, &id, time::Duration::try_from(state.life).unwrap());
        let chain = match state.answer {
            Answer::Sign => sign(asked()),
            Answer::SignFor(name) => sign(id(name)),
            Answer::Refuse(code) => return Err(Status::new(code, "as ordered")),
        };
        let mut ders = chain.into_iter().map(|der| der.to_vec().into());
        Ok(Response::new(CertifyResponse {
            leaf_der: ders.next().unwrap(),
            intermediates_der: ders.collect(),
            ..CertifyResponse::default()
        }))
    }

    type TrustBundleStream = std::pin::Pin<Box<dyn Stream<Item = Result<TrustBundleResponse, Status>> + Send>>;

    async fn trust_bundle(
        &self,
        _request: Request<TrustBundleRequest>,
    ) -> Result<Response<Self::TrustBundleStream>, Status> {
        let bundles = WatchStream::new(self.0.bundle.subscribe()).map(|bundle| {
            let anchors_der = bundle.iter().map(|der| der.to_vec().into()).collect();
            Ok(TrustBundleResponse { anchors_der, ..TrustBundleResponse::default() })
        });
        Ok(Response::new(Box::pin(bundles)))
    }
}
