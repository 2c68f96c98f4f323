//! What is trusted: the root certificates of the mesh.
//!
//! Invariant: [`Anchors`] are never empty, each is a CA certificate that webpki can use, and equal sets are equal in
//! any order. Non-goal: an anchor's own validity period; anchors leave by being taken out of the bundle (RFC 5280 6.1
//! does not look at it either).

use std::fmt;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The most anchors that a bundle may have.
pub const MAX_ANCHORS: usize = 64;

/// Why a bundle is refused; the last good one stays in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No certificate in it.
    #[error("the bundle has no certificate")]
    Empty,
    /// More than [`MAX_ANCHORS`].
    #[error("the bundle has more than {MAX_ANCHORS} certificates")]
    TooMany,
    /// Not PEM.
    #[error("not PEM: {0}")]
    Pem(String),
    /// Certificate number `0`, counted from 1, cannot be read.
    #[error("certificate {0} cannot be read")]
    Unreadable(usize),
    /// Certificate number `0`, counted from 1, is not a CA.
    #[error("certificate {0} is not a CA")]
    NotCa(usize),
}

/// A set of root certificates. Cheap to clone.
#[derive(Clone)]
pub struct Anchors {
    der: Arc<[CertificateDer<'static>]>,
    parsed: Arc<[TrustAnchor<'static>]>,
}

impl Anchors {
    /// Reads all certificates of a PEM file; other PEM blocks are passed over.
    ///
    /// # Errors
    /// Any certificate is unfit, or there is none.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        Self::from_der(certificates.map_err(|error| Error::Pem(error.to_string()))?)
    }

    /// Takes DER certificates.
    ///
    /// # Errors
    /// Any certificate is unfit, or there is none.
    pub fn from_der(mut der: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        if der.is_empty() {
            return Err(Error::Empty);
        }
        if der.len() > MAX_ANCHORS {
            return Err(Error::TooMany);
        }
        for (index, certificate) in der.iter().enumerate() {
            check(certificate, index + 1)?;
        }
        der.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        der.dedup();
        let parsed = der.iter().enumerate().map(|(index, certificate)| {
            let anchor = webpki::anchor_from_trusted_cert(certificate).map_err(|_| Error::Unreadable(index + 1))?;
            Ok(anchor.to_owned())
        });
        Ok(Self { parsed: parsed.collect::<Result<_, Error>>()?, der: der.into() })
    }

    /// The certificates, in an order of their own.
    pub fn der(&self) -> &[CertificateDer<'static>] {
        &self.der
    }

    pub(crate) fn parsed(&self) -> &[TrustAnchor<'static>] {
        &self.parsed
    }
}

fn check(certificate: &CertificateDer<'_>, number: usize) -> Result<(), Error> {
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| Error::Unreadable(number))?;
    if !rest.is_empty() {
        return Err(Error::Unreadable(number));
    }
    if parsed.is_ca() { Ok(()) } else { Err(Error::NotCa(number)) }
}

impl PartialEq for Anchors {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Anchors {}

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Anchors({})", self.der.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ca, Template};

    #[test]
    fn equal_sets_are_equal_in_any_order_and_without_doubles() {
        let (one, two) = (Ca::root("one").der(), Ca::root("two").der());
        let forward = Anchors::from_der(vec![one.clone(), two.clone()]).unwrap();
        let backward = Anchors::from_der(vec![two, one.clone(), one.clone()]).unwrap();
        assert_eq!(forward, backward);
        assert_ne!(forward, Anchors::from_der(vec![one]).unwrap());
    }

    #[test]
    fn pem_is_read_with_other_blocks_passed_over() {
        let ca = Ca::root("one");
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let anchors = Anchors::from_pem(format!("# comment\n{key}{}", ca.pem()).as_bytes()).unwrap();
        assert_eq!(anchors.der(), [ca.der()]);
    }

    #[test]
    fn a_bundle_with_any_unfit_certificate_is_refused() {
        let ca = Ca::root("one");
        let leaf = ca.issue(&Template::default()).chain.remove(0);
        let trailing = CertificateDer::from([ca.der().as_ref(), b"x"].concat());
        assert_eq!(Anchors::from_der(vec![]), Err(Error::Empty));
        assert_eq!(Anchors::from_pem(b"nothing here"), Err(Error::Empty));
        assert_eq!(Anchors::from_der(vec![ca.der(), leaf]), Err(Error::NotCa(2)));
        assert_eq!(Anchors::from_der(vec![CertificateDer::from(vec![1, 2, 3])]), Err(Error::Unreadable(1)));
        assert_eq!(Anchors::from_der(vec![trailing]), Err(Error::Unreadable(1)));
        assert_eq!(Anchors::from_der(vec![ca.der(); MAX_ANCHORS + 1]), Err(Error::TooMany));
        let cut = ca.pem().replace("-----END CERTIFICATE-----", "");
        assert!(matches!(Anchors::from_pem(cut.as_bytes()), Err(Error::Pem(_))), "{cut}");
    }
}
