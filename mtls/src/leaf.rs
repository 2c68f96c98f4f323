//! Who we are: a certificate, the chain that leads to an anchor, and the private key.
//!
//! Invariant: key and certificate belong together, and the certificate carries exactly one identity. The key is never
//! shown, neither by `Debug` nor by an accessor. Non-goal: whether anybody trusts it; [`Leaf::verify`] answers that
//! for given anchors.

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
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'_>) -> Result<Self, Error> {
        let first = chain.first().ok_or(Error::Empty)?;
        let id = chain::identity(first)?;
        let (not_before, not_after) = validity(first)?;
        let key = tls::load_key(key).map_err(|_| Error::Key)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| Error::KeyMismatch)?;
        Ok(Self { id, not_before, not_after, certified: Arc::new(certified) })
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
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| Refusal::Unfit(error.to_string()))?;
    let validity = parsed.validity();
    Ok((time(validity.not_before.timestamp()), time(validity.not_after.timestamp())))
}

/// A time before 1970 is as good as 1970 for us.
fn time(unix: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(unix).unwrap_or_default())
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("id", &self.id).field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ca, Template, id, uri};

    #[test]
    fn a_leaf_knows_its_id_and_its_validity() {
        let before = SystemTime::now();
        let leaf = Ca::root("root").issue(&Template::of(&id("web"))).leaf();
        assert_eq!(*leaf.id(), id("web"));
        let (begun, left) = (before.duration_since(leaf.not_before()), leaf.not_after().duration_since(before));
        assert!((19..=22).contains(&begun.unwrap().as_secs()), "{leaf:?}");
        assert!((86_398..=86_401).contains(&left.unwrap().as_secs()), "{leaf:?}");
    }

    #[test]
    fn a_leaf_is_refused_when_its_parts_do_not_belong_together() {
        let ca = Ca::root("root");
        let (one, two) = (ca.issue(&Template::default()), ca.issue(&Template::default()));
        assert!(matches!(Leaf::new(one.chain.clone(), &two.key), Err(Error::KeyMismatch)));
        assert!(matches!(Leaf::new(vec![], &one.key), Err(Error::Empty)));
        let garbage = PrivateKeyDer::Pkcs8(vec![1, 2, 3].into());
        assert!(matches!(Leaf::new(one.chain, &garbage), Err(Error::Key)));
        let twice = Template { names: vec![uri(id("a").as_str()), uri(id("b").as_str())], ..Template::default() };
        let named = ca.issue(&twice);
        assert!(matches!(Leaf::new(named.chain, &named.key), Err(Error::Refused(Refusal::UriNames(2)))));
    }

    #[test]
    fn a_leaf_for_one_role_only_does_not_verify() {
        let ca = Ca::root("root");
        for usage in [rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth] {
            let leaf = ca.issue(&Template { usages: vec![usage], ..Template::default() }).leaf();
            assert_eq!(leaf.verify(&ca.anchors(), UnixTime::now()), Err(Refusal::Purpose));
        }
    }
}
