//! The gRPC service: one story for Certify, one for TrustBundle.
//!
//! Invariant: the order is rate, token, identity, CSR, issuer, so what costs little refuses first and nobody without a
//! token makes us verify a signature. Wire types die here. Non-goal: transport limits, which `app` sets.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use mesh_kit::shutdown::Shutdown;
use mesh_mtls::clock;
use mesh_mtls::grpc::Peer;
use mesh_mtls::spiffe::Id;
use mesh_proto::identity::identity_server::Identity;
use mesh_proto::identity::{CertifyRequest, CertifyResponse, TrustBundleRequest, TrustBundleResponse};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Code, Request, Response, Status};

use crate::authority::Authority;
use crate::csr::{self, Claim};
use crate::issuer::{Issued, Unfit};
use crate::limiter::Limiter;
use crate::metrics::Metrics;
use crate::tokens::Table;

/// Bytes of a token; those of Kubernetes have about a thousand.
pub const TOKEN_LIMIT: usize = 16 * 1024;

/// Answers requests out of what is in force at the moment.
pub struct Service {
    /// Who signs, and what is trusted.
    pub authority: watch::Receiver<Authority>,
    /// Who holds which token.
    pub tokens: watch::Receiver<Arc<Table>>,
    /// How often each source may ask.
    pub limiter: Mutex<Limiter>,
    /// How long leaves live.
    pub leaf_lifetime: Duration,
    /// Counters.
    pub metrics: Metrics,
    /// Ends the streams.
    pub shutdown: Shutdown,
}

/// Why a request gets no certificate.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("too many requests from this source")]
    Rate,
    #[error("the token is not known")]
    Token,
    #[error("the token is for another identity")]
    Identity,
    #[error(transparent)]
    Csr(#[from] csr::Refusal),
    #[error("the issuer cannot sign now")]
    Issuer(#[source] Unfit),
}

impl Refused {
    fn code(&self) -> Code {
        match self {
            Self::Rate => Code::ResourceExhausted,
            Self::Token => Code::Unauthenticated,
            Self::Identity => Code::PermissionDenied,
            Self::Csr(_) => Code::InvalidArgument,
            Self::Issuer(_) => Code::FailedPrecondition,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Token => "token",
            Self::Identity => "identity",
            Self::Csr(refusal) => refusal.reason(),
            Self::Issuer(_) => "issuer",
        }
    }
}

impl Service {
    fn grant(&self, request: &CertifyRequest, source: IpAddr) -> Result<CertifyResponse, Refused> {
        self.check_rate(source)?;
        let tokens = Arc::clone(&self.tokens.borrow());
        let id = authenticate(&tokens, &request.token)?;
        let claim = match request.identity.as_str() {
            "" => Claim::Unnamed(id),
            named if named == id.as_str() => Claim::Named(id),
            _ => return Err(Refused::Identity),
        };
        let csr = csr::check(&request.csr_der, claim)?;
        let authority = self.authority.borrow().clone();
        let issued = authority.issuer.issue(&csr.key, id, clock::wall(), self.leaf_lifetime);
        let issued = issued.map_err(Refused::Issuer)?;
        tracing::info!(%id, serial = issued.serial, %source, "issued");
        Ok(response(&issued, &authority))
    }

    fn check_rate(&self, source: IpAddr) -> Result<(), Refused> {
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        if limiter.admit(source.into(), clock::steady()) { Ok(()) } else { Err(Refused::Rate) }
    }
}

fn authenticate<'a>(tokens: &'a Table, token: &[u8]) -> Result<&'a Id, Refused> {
    if token.len() > TOKEN_LIMIT {
        return Err(Refused::Token);
    }
    tokens.find(token).ok_or(Refused::Token)
}

fn response(issued: &Issued, authority: &Authority) -> CertifyResponse {
    let der = |certificate: &[u8]| Bytes::copy_from_slice(certificate);
    CertifyResponse {
        leaf_der: der(&issued.leaf),
        intermediates_der: authority.issuer.intermediates(&authority.anchors).map(|ca| der(&ca)).collect(),
        not_before_unix: unix(issued.not_before),
        not_after_unix: unix(issued.not_after),
    }
}

fn unix(time: SystemTime) -> i64 {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn bundle(authority: &Authority) -> TrustBundleResponse {
    let anchors_der = authority.anchors.der().iter().map(|anchor| Bytes::copy_from_slice(anchor)).collect();
    TrustBundleResponse { anchors_der, issuer_der: Bytes::copy_from_slice(authority.issuer.certificate()) }
}

#[tonic::async_trait]
impl Identity for Service {
    type TrustBundleStream = Pin<Box<dyn Stream<Item = Result<TrustBundleResponse, Status>> + Send>>;

    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let started = Instant::now();
        let source = source(&request)?;
        let granted = self.grant(request.get_ref(), source);
        self.metrics.answered(started.elapsed());
        match granted {
            Ok(response) => {
                self.metrics.issued();
                Ok(Response::new(response))
            }
            Err(refused) => {
                let detail = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
                tracing::info!(reason = refused.reason(), detail, %source, "refused");
                self.metrics.refused(refused.reason());
                Err(Status::new(refused.code(), refused.to_string()))
            }
        }
    }

    async fn trust_bundle(&self, _: Request<TrustBundleRequest>) -> Result<Response<Self::TrustBundleStream>, Status> {
        let subscriber = self.metrics.subscriber();
        let shutdown = self.shutdown.clone();
        let bundles = WatchStream::new(self.authority.clone()).map(move |authority| {
            let _counted = &subscriber;
            Ok(bundle(&authority))
        });
        let ended = async move { shutdown.requested().await };
        Ok(Response::new(Box::pin(bundles.take_until(Box::pin(ended)))))
    }
}

/// The other end of the connection. tonic puts it there; its absence would be our own fault.
fn source<T>(request: &Request<T>) -> Result<IpAddr, Status> {
    let peer = request.extensions().get::<Peer>().ok_or_else(|| Status::internal("no peer address"))?;
    Ok(peer.addr.ip().to_canonical())
}
