//! One request for a certificate: token and a fresh key's CSR out, a verified [`Leaf`] back.
//!
//! Invariant: the key never leaves the process, and serves one certificate only.

use std::io;
use std::time::SystemTime;

use mesh_proto::identity::identity_client::IdentityClient;
use mesh_proto::identity::{CertifyRequest, CertifyResponse};
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;

use super::token::TokenFile;
use super::{ANSWER_TIMEOUT, Settings};
use crate::anchors::{self, Anchors};
use crate::chain::Refusal;
use crate::clock;
use crate::credentials::{Credentials, Leaf};
use crate::leaf;
use crate::spiffe::Id;
use crate::tls;

/// Between the leaf and a root.
const MAX_INTERMEDIATES: usize = 8;

/// Why `identity` gave us nothing that we can use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token cannot be read.
    #[error("token file: {0}")]
    Token(#[source] io::Error),
    /// No key or CSR could be made.
    #[error("key or CSR: {0}")]
    Key(#[source] rcgen::Error),
    /// `identity` refused, or could not be reached.
    #[error("{}: {}", .0.code(), cause(.0))]
    Status(#[source] Box<tonic::Status>),
    /// `identity` did not answer in time.
    #[error("no answer within {ANSWER_TIMEOUT:?}")]
    Timeout,
    /// `identity` closed the stream of bundles.
    #[error("the stream ended")]
    Ended,
    /// The certificate does not fit the key, or is malformed.
    #[error("the answer: {0}")]
    Leaf(#[from] leaf::Error),
    /// Our peers would refuse the certificate.
    #[error("the certificate issued: {0}")]
    Refused(#[from] Refusal),
    /// The bundle cannot be used.
    #[error("{0}")]
    Bundle(#[from] anchors::Error),
}

impl Error {
    /// The reason word: those of [`tls::Error::reason`], those of gRPC in lower case, or `token`, `key`, `ended`,
    /// `bad_bundle`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Key(_) => "key",
            Self::Status(status) => tls::reason_in(status.as_ref()).unwrap_or_else(|| code_word(status.code())),
            Self::Timeout => "timeout",
            Self::Ended => "ended",
            Self::Leaf(leaf::Error::Refused(refusal)) | Self::Refused(refusal) => refusal.reason(),
            Self::Leaf(_) => "bad_certificate",
            Self::Bundle(_) => "bad_bundle",
        }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// tonic says "transport error"; what happened is at the bottom.
fn cause(status: &tonic::Status) -> String {
    let mut next = std::error::Error::source(status);
    let mut cause = None;
    while let Some(error) = next {
        cause = Some(error);
        next = error.source();
    }
    cause.map_or_else(|| status.message().to_owned(), ToString::to_string)
}

fn code_word(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "invalid_argument",
        Code::Unauthenticated => "unauthenticated",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::DeadlineExceeded => "timeout",
        Code::Unavailable => "unavailable",
        Code::Unimplemented => "unimplemented",
        _ => "internal",
    }
}

pub(super) async fn certify(
    client: &mut IdentityClient<Channel>,
    token: &mut TokenFile,
    settings: &Settings,
    credentials: &Credentials,
) -> Result<Leaf, Error> {
    let token = token.read().await.map_err(Error::Token)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Key)?;
    let request = CertifyRequest {
        token: token.into(),
        identity: settings.id.as_ref().map(Id::to_string).unwrap_or_default(),
        csr_der: csr(&key, settings.id.as_ref()).map_err(Error::Key)?.into(),
    };
    let answer = match timeout(ANSWER_TIMEOUT, client.certify(request)).await {
        Ok(answer) => answer?.into_inner(),
        Err(_) => return Err(Error::Timeout),
    };
    accept(&answer, &key, settings.id.as_ref(), &credentials.anchors())
}

/// No subject; one URI name if we know who we are, else none.
fn csr(key: &KeyPair, id: Option<&Id>) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(id) = id {
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id.as_str())?)];
    }
    Ok(params.serialize_request(key)?.der().to_vec())
}

fn accept(answer: &CertifyResponse, key: &KeyPair, id: Option<&Id>, anchors: &Anchors) -> Result<Leaf, Error> {
    if answer.intermediates_der.len() > MAX_INTERMEDIATES {
        return Err(Refusal::Unfit(format!("more than {MAX_INTERMEDIATES} intermediates")).into());
    }
    let ders = std::iter::once(&answer.leaf_der).chain(&answer.intermediates_der);
    let chain = ders.map(|der| CertificateDer::from(der.to_vec())).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialized_der()));
    let leaf = Leaf::new(chain, &key)?;
    let since = clock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    leaf.verify(anchors, UnixTime::since_unix_epoch(since))?;
    match id {
        Some(expected) if expected != leaf.id() => {
            Err(Refusal::Identity { expected: expected.clone(), presented: leaf.id().clone() }.into())
        }
        _ => Ok(leaf),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ca, Template, id};

    fn answer(chain: &[CertificateDer<'static>]) -> CertifyResponse {
        let mut ders = chain.iter().map(|der| der.to_vec().into());
        CertifyResponse {
            leaf_der: ders.next().unwrap_or_default(),
            intermediates_der: ders.collect(),
            ..CertifyResponse::default()
        }
    }

    #[test]
    fn a_certificate_for_our_key_and_id_from_our_anchors_is_taken() {
        let root = Ca::root("root");
        let key = KeyPair::generate().unwrap();
        let csr = csr(&key, Some(&id("web"))).unwrap();
        let chain = root.intermediate("issuer").sign(&csr, &id("web"), time::Duration::HOUR);
        let leaf = accept(&answer(&chain), &key, Some(&id("web")), &root.anchors()).unwrap();
        assert_eq!((leaf.id(), leaf.chain()), (&id("web"), &chain[..]));
        let secret = key.serialized_der();
        let shown = format!("{leaf:?}");
        assert!(shown.len() < 200 && !shown.contains(&format!("{secret:?}")), "{shown}");
    }

    #[test]
    fn an_answer_that_our_peers_would_refuse_is_refused() {
        let (root, key, want) = (Ca::root("root"), KeyPair::generate().unwrap(), id("web"));
        let request = csr(&key, Some(&want)).unwrap();
        let issuer = root.intermediate("issuer");
        let good = issuer.sign(&request, &want, time::Duration::HOUR);
        let with = |more: &[CertificateDer<'static>]| [&good[..1], more].concat();
        let cases = [
            ("another key", issuer.issue(&Template::of(&want)).chain, "bad_certificate"),
            ("another id", issuer.sign(&request, &id("other"), time::Duration::HOUR), "identity_mismatch"),
            ("another root", Ca::root("other").sign(&request, &want, time::Duration::HOUR), "unknown_issuer"),
            ("expired", issuer.sign(&request, &want, -time::Duration::SECOND), "expired"),
            ("issuer left out", with(&[]), "unknown_issuer"),
            ("nothing", vec![], "bad_certificate"),
            ("garbage", vec![vec![0x30, 0x82, 0xff, 0xff].into()], "bad_certificate"),
            ("too much", with(&vec![good[1].clone(); MAX_INTERMEDIATES + 1]), "bad_certificate"),
        ];
        for (what, chain, reason) in cases {
            let error = accept(&answer(&chain), &key, Some(&want), &root.anchors()).expect_err(what);
            assert_eq!(error.reason(), reason, "{what}: {error}");
        }
    }

    #[test]
    fn a_csr_has_no_subject_and_one_uri_or_none() {
        let key = KeyPair::generate().unwrap();
        for (id, names) in [(None, 0), (Some(id("web")), 1)] {
            let csr = csr(&key, id.as_ref()).unwrap();
            let params = rcgen::CertificateSigningRequestParams::from_der(&csr.as_slice().into()).unwrap().params;
            assert_eq!(params.distinguished_name, DistinguishedName::new());
            assert_eq!(params.subject_alt_names.len(), names);
        }
    }
}
