//! Certificates for tests, made in memory. Also compiled into the test binaries in `tests/`.

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

use crate::anchors::Anchors;
use crate::credentials::{Credentials, Leaf};
use crate::spiffe::Id;

pub(crate) fn id(service_account: &str) -> Id {
    Id::new("cluster.local", "test", service_account).unwrap()
}

/// An authority; the root is left out of `chain`.
pub(crate) struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    chain: Vec<CertificateDer<'static>>,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::hours(48);
    params
}

impl Ca {
    pub(crate) fn root(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::self_signed(ca_params(name), key).unwrap(), chain: vec![] }
    }

    pub(crate) fn intermediate(&self, name: &str) -> Self {
        self.authority(ca_params(name))
    }

    /// An authority that expired a while ago.
    pub(crate) fn expired_intermediate(&self, name: &str) -> Self {
        let mut params = ca_params(name);
        params.not_after = OffsetDateTime::now_utc() - Duration::minutes(1);
        self.authority(params)
    }

    /// A leaf whose holder signs certificates all the same.
    pub(crate) fn leaf_that_issues(&self) -> Self {
        let mut params = Template::default().params();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        self.authority(params)
    }

    fn authority(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::signed_by(params, key, &self.issuer).unwrap();
        let mut chain = vec![issuer.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Self { issuer, chain }
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn anchors(&self) -> Anchors {
        Anchors::from_der(vec![self.der()]).unwrap()
    }

    pub(crate) fn issue(&self, template: &Template) -> Issued {
        let key = KeyPair::generate().unwrap();
        let leaf = template.params().signed_by(&key, &self.issuer).unwrap();
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Issued { chain, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
    }

    /// Signs a CSR's key for `id`, valid for `life`.
    pub(crate) fn sign(&self, csr: &[u8], id: &Id, life: Duration) -> Vec<CertificateDer<'static>> {
        let csr = rcgen::CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        let template = Template { not_after: life, ..Template::of(id) };
        let leaf = template.params().signed_by(&csr.public_key, &self.issuer).unwrap();
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.chain.iter().cloned());
        chain
    }

    /// A cell that trusts this authority and has a leaf of it.
    pub(crate) fn credentials(&self, id: &Id) -> Credentials {
        let credentials = Credentials::new(self.anchors());
        credentials.set_leaf(self.issue(&Template::of(id)).leaf());
        credentials
    }
}

/// What a leaf says; times count from now.
pub(crate) struct Template {
    pub(crate) names: Vec<SanType>,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) not_before: Duration,
    pub(crate) not_after: Duration,
}

impl Default for Template {
    fn default() -> Self {
        Self::of(&id("web"))
    }
}

impl Template {
    pub(crate) fn of(id: &Id) -> Self {
        Self {
            names: vec![uri(id.as_str())],
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            not_before: -Duration::seconds(20),
            not_after: Duration::hours(24),
        }
    }

    pub(crate) fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names.clone_from(&self.names);
        params.extended_key_usages.clone_from(&self.usages);
        params.not_before = OffsetDateTime::now_utc() + self.not_before;
        params.not_after = OffsetDateTime::now_utc() + self.not_after;
        params
    }
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

pub(crate) struct Issued {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Issued {
    pub(crate) fn leaf(self) -> Leaf {
        Leaf::new(self.chain, &self.key).unwrap()
    }
}
