//! Who we are: a certificate, the chain that leads to an anchor, and the private key.
//!
//! Invariant: key and certificate belong together, and the certificate carries exactly one identity. The key is never
//! shown, neither by `Debug` nor by an accessor. Non-goal: whether anybody trusts it; [`Leaf::verify`] answers that for
//! given anchors.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::anchors::Anchors;
use crate::chain::{self, Refusal, Role};
use crate::spiffe::Id;
use crate::tls;

/// Why a key and a chain make no [`Leaf`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No certificate.
    #[error("the chain is empty")]
    Empty,
    /// The private key is of no known form.
    #[error("the private key cannot be used")]
    Key,
    /// The certificate is for another key.
    #[error("the certificate is not for this key")]
    KeyMismatch,
    /// The certificate cannot be read, or names no identity.
    #[error("the certificate {0}")]
    Refused(#[from] Refusal),
}

/// Our own certificate with its key.
pub struct Leaf {
    id: Id,
    not_before: SystemTime,
    not_after: SystemTime,
    certified: Arc<CertifiedKey>,
}

impl Leaf {
    /// Takes a chain, leaf first and towards the root, which is left out; and the leaf's key.
    ///
    /// # Errors
    /// The two do not belong together, or the leaf has not exactly one identity.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'_>,
    ) -> Result<Self, Error> {
        let first = chain.first().ok_or(Error::Empty)?;
        let id = chain::identity(first)?;
        let (not_before, not_after) = validity(first)?;
        let key = tls::load_key(key).map_err(|_| Error::Key)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| Error::KeyMismatch)?;
        Ok(Self {
            id,
            not_before,
            not_after,
            certified: Arc::new(certified),
        })
    }

    /// Whom it names.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// The first moment of its validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The last moment of its validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The certificates, our own first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Checks what our peers will check, in both roles.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn verify(&self, anchors: &Anchors, now: UnixTime) -> Result<(), Refusal> {
        let Some((leaf, intermediates)) = self.chain().split_first() else {
            return Err(Refusal::UnknownIssuer);
        };
        for role in [Role::Client, Role::Server] {
            chain::verify(leaf, intermediates, anchors, now, role)?;
        }
        Ok(())
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

fn validity(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), Refusal> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| Refusal::Unfit(error.to_string()))?;
    let validity = parsed.validity();
    Ok((
        time(validity.not_before.timestamp()),
        time(validity.not_after.timestamp()),
    ))
}

/// A time before 1970 is as good as 1970 for us.
fn time(unix: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(unix).unwrap_or_default())
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf")
            .field("id", &self.id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}
