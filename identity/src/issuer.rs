//! The certificate that signs, and the template of what it signs.
//!
//! Invariant: an [`Issuer`] has been checked: it is a CA, its key is its own, and a leaf of it verifies as our peers
//! will do it. Every leaf has the same shape: one URI name, both TLS roles, no authority over others, a random serial
//! number.
//! Non-goal: issuers with keys other than ECDSA P-256.

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use mesh_mtls::anchors::Anchors;
use mesh_mtls::chain::Refusal;
use mesh_mtls::leaf::{self, Leaf};
use mesh_mtls::spiffe::Id;
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How far the clocks of our peers may be behind ours.
pub const BACKDATE: Duration = Duration::from_secs(20);
/// Certificates in the issuer's file: the issuer, and what leads from it to the root.
const CHAIN_LIMIT: usize = 8;

/// Why an issuer is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// The certificate's file is not PEM, or has no certificate, or more than eight.
    #[error("the issuer's file has no readable PEM certificates, or too many")]
    Pem,
    /// The key's file has no private key that we can use.
    #[error("the issuer's key is not a PEM private key of ECDSA P-256")]
    Key,
    /// The first certificate cannot be read.
    #[error("the issuer's certificate is malformed")]
    Malformed,
    /// The first certificate may not sign others.
    #[error("the issuer's certificate is not a CA certificate")]
    NotCa,
    /// The key belongs to another certificate.
    #[error("the issuer's key is not the key of its certificate")]
    KeyMismatch,
    /// Its time is over.
    #[error("the issuer's certificate has expired")]
    Expired,
    /// Its time has not come.
    #[error("the issuer's certificate is not valid yet")]
    NotYetValid,
    /// A leaf of it would be refused by our peers.
    #[error("the issuer's leaves would be refused: {0}")]
    Refused(#[from] Refusal),
    /// Making a leaf failed.
    #[error("the issuer cannot sign: {0}")]
    Sign(#[from] rcgen::Error),
    /// A leaf of it is no certificate.
    #[error("the issuer's leaves are malformed: {0}")]
    Leaf(#[from] leaf::Error),
}

/// Signs leaves.
pub struct Issuer {
    signer: rcgen::Issuer<'static, KeyPair>,
    chain: Vec<CertificateDer<'static>>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// A leaf just signed.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate in DER.
    pub leaf: CertificateDer<'static>,
    /// The first second of its validity.
    pub not_before: SystemTime,
    /// The last second of its validity.
    pub not_after: SystemTime,
    /// Its serial number in hexadecimal.
    pub serial: String,
}

impl Issuer {
    /// Reads an issuer and checks all that can be checked without anchors.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn from_pem(certificates: &[u8], key: &[u8], now: SystemTime) -> Result<Self, Unfit> {
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(certificates).collect::<Result<_, _>>().map_err(|_| Unfit::Pem)?;
        let first = chain.first().filter(|_| chain.len() <= CHAIN_LIMIT).ok_or(Unfit::Pem)?;
        let key = read_key(key)?;
        let (not_before, not_after) = check(first, &key)?;
        if now > not_after {
            return Err(Unfit::Expired);
        }
        if now < not_before {
            return Err(Unfit::NotYetValid);
        }
        let signer = rcgen::Issuer::from_ca_cert_der(first, key)?;
        Ok(Self { signer, chain, not_before, not_after })
    }

    /// Its own certificate, in DER.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        // `from_pem` has refused an empty chain.
        &self.chain[0]
    }

    /// Checks that a leaf of ours is trusted by who trusts `anchors`.
    ///
    /// # Errors
    /// Why it is not.
    pub fn verify(&self, anchors: &Anchors, probe: &Id, now: SystemTime) -> Result<(), Unfit> {
        let leaf = self.own_leaf(anchors, probe, now, Duration::from_secs(60))?;
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(leaf.verify(anchors, UnixTime::since_unix_epoch(since_epoch))?)
    }

    /// A leaf with a fresh key for this process itself.
    ///
    /// # Errors
    /// When signing fails.
    pub fn own_leaf(&self, anchors: &Anchors, id: &Id, now: SystemTime, lifetime: Duration) -> Result<Leaf, Unfit> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let issued = self.issue(&key, id, now, lifetime)?;
        let chain = std::iter::once(issued.leaf).chain(self.intermediates(anchors)).collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialized_der()));
        Ok(Leaf::new(chain, &key)?)
    }

    /// Signs the certificate of `id` for `key`: valid from [`BACKDATE`] before `now` for `lifetime` after, within our
    /// own.
    ///
    /// # Errors
    /// When our own time is over, or signing fails.
    pub fn issue(
        &self,
        key: &impl PublicKeyData,
        id: &Id,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Issued, Unfit> {
        if now >= self.not_after {
            return Err(Unfit::Expired);
        }
        let serial = serial()?;
        let not_before = whole_seconds((now - BACKDATE).max(self.not_before));
        let not_after = whole_seconds((now + lifetime).min(self.not_after));
        let mut template = CertificateParams::default();
        template.serial_number = Some(SerialNumber::from_slice(&serial));
        template.not_before = OffsetDateTime::from(not_before);
        template.not_after = OffsetDateTime::from(not_after);
        template.distinguished_name = DistinguishedName::new();
        template.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id.as_str())?)];
        template.is_ca = IsCa::ExplicitNoCa;
        template.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        template.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        template.use_authority_key_identifier_extension = true;
        let leaf = template.signed_by(key, &self.signer)?.der().clone();
        Ok(Issued { leaf, not_before, not_after, serial: hex(&serial) })
    }

    /// What a peer needs beside the leaf and the anchors: us and those above us, without the roots.
    pub fn intermediates<'a>(&'a self, anchors: &'a Anchors) -> impl Iterator<Item = CertificateDer<'static>> + 'a {
        self.chain.iter().filter(|certificate| !anchors.der().contains(certificate)).cloned()
    }

    /// Whether what it signs now holds now.
    #[must_use]
    pub fn is_valid(&self, now: SystemTime) -> bool {
        (self.not_before..self.not_after).contains(&now)
    }

    /// The last second in which it can sign.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

/// Bytes of a number in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// When a certificate begins and ends.
///
/// # Errors
/// It cannot be read.
pub fn validity(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), Unfit> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| Unfit::Malformed)?;
    Ok((unix(parsed.validity().not_before.timestamp()), unix(parsed.validity().not_after.timestamp())))
}

fn read_key(pem: &[u8]) -> Result<KeyPair, Unfit> {
    let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| Unfit::Key)?;
    KeyPair::from_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256).map_err(|_| Unfit::Key)
}

fn check(certificate: &CertificateDer<'_>, key: &KeyPair) -> Result<(SystemTime, SystemTime), Unfit> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| Unfit::Malformed)?;
    let usage = parsed.key_usage().map_err(|_| Unfit::Malformed)?;
    if !parsed.is_ca() || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(Unfit::NotCa);
    }
    if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
        return Err(Unfit::KeyMismatch);
    }
    validity(certificate)
}

/// 126 random bits, and a first byte that keeps the number positive and of one length (RFC 5280 4.1.2.2: 20 at most).
fn serial() -> Result<[u8; 16], Unfit> {
    let mut serial = [0; 16];
    rand::fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial)
}

/// A certificate's times have no fractions.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since_epoch.as_secs())
}

fn unix(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests;
