//! Verification of a peer's certificates: chain, validity, purpose, and the one SPIFFE id in the leaf.
//!
//! Invariant: the id comes from the same certificate whose key signs the handshake and whose chain was built. URI
//! names count, nothing else does: DNS names, IP addresses and the common name are not looked at. Non-goal:
//! revocation; leaves live for hours and anchors can be replaced live.

use std::cell::Cell;
use std::sync::Arc;

use rustls::{CertificateError, OtherError};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage};

use crate::anchors::Anchors;
use crate::spiffe::{self, Id};

/// What the holder of a certificate does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It opens connections.
    Client,
    /// It accepts them.
    Server,
}

/// Why a certificate is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A certificate of the chain has expired.
    #[error("expired")]
    Expired,
    /// A certificate of the chain is not valid yet.
    #[error("not valid yet")]
    NotYetValid,
    /// No chain leads to a trust anchor.
    #[error("issued by nobody we trust")]
    UnknownIssuer,
    /// A signature is wrong.
    #[error("signature is wrong")]
    Signature,
    /// The extended key usage does not name the role.
    #[error("not for this purpose")]
    Purpose,
    /// Malformed, or against a constraint of its issuers.
    #[error("unfit: {0}")]
    Unfit(String),
    /// Not exactly one URI in the subject alternative name.
    #[error("has {0} URI names where one is due")]
    UriNames(usize),
    /// The URI is not an identity of the mesh.
    #[error("its URI name is no identity: {0}")]
    NotSpiffe(#[from] spiffe::Error),
    /// A good certificate of somebody else.
    #[error("is {presented} where {expected} is due")]
    Identity {
        /// Who should be there.
        expected: Id,
        /// Who is.
        presented: Id,
    },
}

impl Refusal {
    /// The reason word, for metrics and answers.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Identity { .. } => "identity_mismatch",
            Self::Signature | Self::Purpose | Self::Unfit(_) | Self::UriNames(_) | Self::NotSpiffe(_) => {
                "bad_certificate"
            }
        }
    }
}

/// Checks that `leaf` leads to `anchors` through `intermediates` (in any order), is valid `now` and may act as `role`.
/// Returns who it is.
///
/// # Errors
/// The first rule that it breaks.
pub fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    anchors: &Anchors,
    now: UnixTime,
    role: Role,
) -> Result<Id, Refusal> {
    let certificate = EndEntityCert::try_from(leaf).map_err(refusal)?;
    let purpose = Purpose::of(role);
    certificate
        .verify_for_usage(algorithms(), anchors.parsed(), intermediates, now, &purpose, None, None)
        .map_err(refusal)?;
    identity_of(&certificate)
}

/// Reads the identity out of a certificate without trusting it.
///
/// # Errors
/// It cannot be read, or has not exactly one URI name, or that is no identity.
pub fn identity(leaf: &CertificateDer<'_>) -> Result<Id, Refusal> {
    identity_of(&EndEntityCert::try_from(leaf).map_err(refusal)?)
}

fn identity_of(certificate: &EndEntityCert<'_>) -> Result<Id, Refusal> {
    let mut names = certificate.valid_uri_names();
    match (names.next(), names.count()) {
        (Some(name), 0) => Ok(name.parse()?),
        (None, _) => Err(Refusal::UriNames(0)),
        (Some(_), others) => Err(Refusal::UriNames(1 + others)),
    }
}

fn algorithms() -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    webpki::ALL_VERIFICATION_ALGS
}

/// The extended key usage must be there in the leaf, and may be absent in its issuers. webpki asks for the leaf first,
/// for it builds the path upwards.
struct Purpose {
    oid: &'static [u8],
    asked: Cell<bool>,
}

impl Purpose {
    fn of(role: Role) -> Self {
        // id-kp-serverAuth and id-kp-clientAuth, RFC 5280 4.2.1.12.
        let oid: &[u8] = match role {
            Role::Server => &[0x2b, 6, 1, 5, 5, 7, 3, 1],
            Role::Client => &[0x2b, 6, 1, 5, 5, 7, 3, 2],
        };
        Self { oid, asked: Cell::new(false) }
    }
}

impl ExtendedKeyUsageValidator for Purpose {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let usage = match self.asked.replace(true) {
            false => KeyUsage::required(self.oid),
            true => KeyUsage::required_if_present(self.oid),
        };
        usage.validate(purposes)
    }
}

fn refusal(error: webpki::Error) -> Refusal {
    match error {
        webpki::Error::CertExpired { .. } => Refusal::Expired,
        webpki::Error::CertNotValidYet { .. } => Refusal::NotYetValid,
        webpki::Error::UnknownIssuer => Refusal::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => Refusal::Signature,
        webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension => Refusal::Purpose,
        other => Refusal::Unfit(other.to_string()),
    }
}

/// For rustls, so that the peer is told by the right alert. The rest travels inside and comes back out.
impl From<Refusal> for CertificateError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Expired => Self::Expired,
            Refusal::NotYetValid => Self::NotValidYet,
            Refusal::UnknownIssuer => Self::UnknownIssuer,
            Refusal::Signature => Self::BadSignature,
            Refusal::Purpose => Self::InvalidPurpose,
            other => Self::Other(OtherError(Arc::new(other))),
        }
    }
}

impl From<CertificateError> for Refusal {
    fn from(error: CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::BadSignature => Self::Signature,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Self::Purpose,
            CertificateError::Other(other) => match other.0.downcast_ref::<Self>() {
                Some(refusal) => refusal.clone(),
                None => Self::Unfit(other.to_string()),
            },
            other => Self::Unfit(other.to_string()),
        }
    }
}
