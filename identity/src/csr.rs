//! Which certificate signing requests (PKCS#10, RFC 2986) are good enough.
//!
//! Invariant: a [`Csr`] exists only for a request that its own key has signed, that names nobody but the identity it is
//! for, and that asks for nothing our template does not give. Its key is all that goes on.
//! Non-goal: keys other than ECDSA P-256.

mod shape;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use mesh_mtls::spiffe::Id;
use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::{X509CertificationRequest, X509CertificationRequestInfo};
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256, OID_X509_COMMON_NAME,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{SubjectPublicKeyInfo as ParsedKey, X509Name, X509Version};

/// Bytes of a CSR; a plain one has about 300, and the longest identity as name and as common name takes 4 KiB.
pub const SIZE_LIMIT: usize = 5 * 1024;
/// An uncompressed point: its mark and two coordinates.
const POINT_LENGTH: usize = 65;

/// A request that may be granted.
#[derive(Debug)]
pub struct Csr {
    /// The key that it asks a certificate for, and has signed with.
    pub key: SubjectPublicKeyInfo,
}

/// What a CSR has to say about names.
#[derive(Clone, Copy, Debug)]
pub enum Claim<'a> {
    /// Exactly this one.
    Named(&'a Id),
    /// This one or none: the requester did not say who it wants to be and leaves it to its token.
    Unnamed(&'a Id),
}

/// Why a CSR is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More than [`SIZE_LIMIT`].
    #[error("the CSR is longer than {SIZE_LIMIT} bytes")]
    Size,
    /// Not a PKCS#10 request, or it has bytes that nobody looks at, in it or behind it.
    #[error("the CSR is malformed")]
    Malformed,
    /// The key is not ECDSA P-256.
    #[error("the key is not ECDSA P-256")]
    Key,
    /// Not signed by its own key, with SHA-256.
    #[error("the CSR is not signed by its own key with ecdsa-with-SHA256")]
    Signature,
    /// The subject is neither empty nor a common name that equals the identity.
    #[error("the subject is neither empty nor the identity as common name")]
    Subject,
    /// The subject alternative name is not the identity as URI, and nothing else.
    #[error("the subject alternative name is not exactly the identity as URI")]
    Name,
    /// It asks to be a CA or to sign certificates.
    #[error("the CSR asks for a CA certificate")]
    Authority,
    /// It asks for an extended key usage other than server and client authentication.
    #[error("the CSR asks for another extended key usage than server and client authentication")]
    Purpose,
    /// It has an attribute or an extension that we do not know, cannot read, or see twice.
    #[error("the CSR has an unknown, unreadable or repeated attribute or extension")]
    Extension,
}

impl Refusal {
    /// The reason word for metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Size => "csr_size",
            Self::Malformed => "csr_malformed",
            Self::Key => "csr_key",
            Self::Signature => "csr_signature",
            Self::Subject => "csr_subject",
            Self::Name => "csr_name",
            Self::Authority => "csr_authority",
            Self::Purpose => "csr_purpose",
            Self::Extension => "csr_extension",
        }
    }
}

/// Checks a request in DER. Cheap checks come first, the signature last.
///
/// # Errors
/// The first rule that it breaks.
pub fn check(der: &[u8], claim: Claim<'_>) -> Result<Csr, Refusal> {
    if der.len() > SIZE_LIMIT {
        return Err(Refusal::Size);
    }
    if !shape::is_whole(der) {
        return Err(Refusal::Malformed);
    }
    let (rest, csr) = X509CertificationRequest::from_der(der).map_err(|_| Refusal::Malformed)?;
    let info = &csr.certification_request_info;
    if !rest.is_empty() || info.version != X509Version::V1 {
        return Err(Refusal::Malformed);
    }
    check_key(&info.subject_pki)?;
    check_subject(&info.subject, claim)?;
    check_extensions(requested_extensions(info)?, claim)?;
    check_signature(&csr)?;
    let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| Refusal::Key)?;
    Ok(Csr { key })
}

fn check_key(key: &ParsedKey<'_>) -> Result<(), Refusal> {
    let is_ec = key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY;
    let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
    let point = &key.subject_public_key;
    // RFC 5480 2.2: 04 marks an uncompressed point. Whether it lies on the curve shows when the signature is verified.
    let is_point = point.unused_bits == 0 && point.data.len() == POINT_LENGTH && point.data[0] == 4;
    if is_ec && curve == Some(OID_EC_P256) && is_point { Ok(()) } else { Err(Refusal::Key) }
}

fn check_subject(subject: &X509Name<'_>, claim: Claim<'_>) -> Result<(), Refusal> {
    let (Claim::Named(id) | Claim::Unnamed(id)) = claim;
    let mut attributes = subject.iter_attributes();
    let Some(first) = attributes.next() else { return Ok(()) };
    if attributes.next().is_some() || *first.attr_type() != OID_X509_COMMON_NAME {
        return Err(Refusal::Subject);
    }
    match first.as_str() {
        Ok(name) if name.is_empty() || name == id.as_str() => Ok(()),
        _ => Err(Refusal::Subject),
    }
}

/// The extensions of the one attribute that may be there.
fn requested_extensions<'a>(info: &'a X509CertificationRequestInfo<'_>) -> Result<&'a [X509Extension<'a>], Refusal> {
    match info.attributes() {
        [] => Ok(&[]),
        [only] => match only.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(requested) => Ok(&requested.extensions),
            _ => Err(Refusal::Extension),
        },
        _ => Err(Refusal::Extension),
    }
}

fn check_extensions(extensions: &[X509Extension<'_>], claim: Claim<'_>) -> Result<(), Refusal> {
    let mut is_named = false;
    for (index, extension) in extensions.iter().enumerate() {
        if extensions[..index].iter().any(|earlier| earlier.oid == extension.oid) {
            return Err(Refusal::Extension);
        }
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                check_names(&names.general_names, claim)?;
                is_named = true;
            }
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => return Err(Refusal::Authority),
            ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
                return Err(Refusal::Authority);
            }
            ParsedExtension::ExtendedKeyUsage(usage) => check_purpose(usage)?,
            ParsedExtension::BasicConstraints(_)
            | ParsedExtension::KeyUsage(_)
            | ParsedExtension::SubjectKeyIdentifier(_) => {}
            _ => return Err(Refusal::Extension),
        }
    }
    if is_named || matches!(claim, Claim::Unnamed(_)) { Ok(()) } else { Err(Refusal::Name) }
}

fn check_names(names: &[GeneralName<'_>], claim: Claim<'_>) -> Result<(), Refusal> {
    let (Claim::Named(id) | Claim::Unnamed(id)) = claim;
    match names {
        [GeneralName::URI(name)] if *name == id.as_str() => Ok(()),
        _ => Err(Refusal::Name),
    }
}

fn check_purpose(usage: &ExtendedKeyUsage<'_>) -> Result<(), Refusal> {
    let ExtendedKeyUsage {
        any,
        server_auth: _,
        client_auth: _,
        code_signing,
        email_protection,
        time_stamping,
        ocsp_signing,
        other,
    } = usage;
    let asks_more = *any || *code_signing || *email_protection || *time_stamping || *ocsp_signing || !other.is_empty();
    if asks_more { Err(Refusal::Purpose) } else { Ok(()) }
}

/// Proof of possession, RFC 2986 4.2: without it a key of somebody else could be certified for us.
fn check_signature(csr: &X509CertificationRequest<'_>) -> Result<(), Refusal> {
    if csr.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 || csr.signature_value.unused_bits != 0 {
        return Err(Refusal::Signature);
    }
    let info = &csr.certification_request_info;
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &info.subject_pki.subject_public_key.data);
    key.verify(info.raw, &csr.signature_value.data).map_err(|_| Refusal::Signature)
}

#[cfg(test)]
mod tests;
