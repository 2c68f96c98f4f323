//! CAs for tests.
//!
//! Invariant: only compiled for tests. Non-goal: being like the real ones in more than what is tested.

use std::time::{Duration, SystemTime};

use mesh_mtls::spiffe::Id;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use time::OffsetDateTime;

use crate::authority::Files;

pub(crate) struct Ca {
    pub(crate) signer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn root(name: &str) -> Self {
        Self { signer: CertifiedIssuer::self_signed(params(name), key()).unwrap() }
    }

    pub(crate) fn issuer(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = params("issuer");
        change(&mut params);
        Self { signer: CertifiedIssuer::signed_by(params, key(), &self.signer).unwrap() }
    }

    pub(crate) fn pem(&self) -> Vec<u8> {
        self.signer.pem().into_bytes()
    }

    pub(crate) fn key_pem(&self) -> Vec<u8> {
        self.signer.key().serialize_pem().into_bytes()
    }
}

pub(crate) fn files(root: &Ca, issuer: &Ca) -> Files {
    Files { anchors: Ok(root.pem()), certificate: Ok(issuer.pem()), key: Ok(issuer.key_pem()) }
}

pub(crate) fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

pub(crate) fn id() -> Id {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

pub(crate) fn lives(params: &mut CertificateParams, from: SystemTime, to: SystemTime) {
    params.not_before = OffsetDateTime::from(from);
    params.not_after = OffsetDateTime::from(to);
}

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::now();
    lives(&mut params, now - HOUR, now + 48 * HOUR);
    params
}
