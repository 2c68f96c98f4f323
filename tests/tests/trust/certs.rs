//! Certificates of the mesh's own CA and of strangers, good and bad.
//!
//! Invariant: the root's key is the mesh's, so that what is refused is refused for what is wrong with it and for nothing else.
//! Non-goal: what identity would issue; it issues none of these.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use mesh_identity::init;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose as Usage, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

/// Somebody who signs; the root is left out of what is shown.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    shown: Vec<CertificateDer<'static>>,
}

/// A chain and a key, which need not belong together.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Arc<dyn rustls::sign::SigningKey>,
}

/// A bad chain, and the reason word that is due.
pub(crate) struct Case {
    pub(crate) what: &'static str,
    pub(crate) shown: Shown,
    pub(crate) reason: &'static str,
}

/// Which end of a connection shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

impl Authority {
    /// The root of the mesh whose CA is in this folder.
    pub(crate) fn of(folder: &Path) -> Self {
        let read = |name| fs::read_to_string(folder.join(name)).expect("a CA that is there");
        let key = KeyPair::from_pem(&read(init::ROOT_KEY)).expect("the root's key");
        let issuer = Issuer::from_ca_cert_pem(&read(init::ANCHORS), key).expect("the root");
        Self { issuer, shown: Vec::new() }
    }

    /// A root that nobody trusts.
    fn stranger() -> Self {
        Self { issuer: Issuer::new(ca("stranger"), new_key()), shown: Vec::new() }
    }

    /// A CA under this one.
    pub(crate) fn under(&self, name: &str) -> Self {
        self.authority(ca(name))
    }

    fn authority(&self, params: CertificateParams) -> Self {
        let key = new_key();
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let mut shown = vec![certificate.der().clone()];
        shown.extend(self.shown.iter().cloned());
        Self { issuer: Issuer::new(params, key), shown }
    }

    /// A leaf.
    pub(crate) fn issue(&self, params: &CertificateParams) -> Shown {
        let key = new_key();
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.shown.iter().cloned());
        Shown { chain, key: loaded(&key) }
    }
}

impl Shown {
    /// For rustls, which would look whether key and chain fit together if it were asked the usual way.
    pub(crate) fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(self.chain.clone(), Arc::clone(&self.key))))
    }
}

/// A good leaf for an identity.
pub(crate) fn leaf(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(id)];
    params.extended_key_usages = vec![Usage::ServerAuth, Usage::ClientAuth];
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2024, 1, 1), rcgen::date_time_ymd(2090, 1, 1));
    params
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn loaded(key: &KeyPair) -> Arc<dyn rustls::sign::SigningKey> {
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    any_supported_type(&der).expect("a key of P-256")
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).expect("ASCII"))
}

/// Nothing is wrong with this one.
pub(crate) fn good(folder: &Path, id: &str) -> Case {
    Case { what: "good", shown: Authority::of(folder).under("issuer").issue(&leaf(id)), reason: "ok" }
}

const UNKNOWN: &str = "unknown_issuer";
const BAD: &str = "bad_certificate";

/// Twelve chains that lead nowhere, to nobody, or at the wrong time.
pub(crate) fn bad_chains(folder: &Path, id: &str) -> Vec<Case> {
    let root = Authority::of(folder);
    let issuer = root.under("issuer");
    let good = leaf(id);
    let dated = |from: i32, to: i32| {
        let mut params = leaf(id);
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(to, 1, 1));
        params
    };
    let own_key = new_key();
    let self_signed =
        Shown { chain: vec![good.self_signed(&own_key).expect("a certificate").der().clone()], key: loaded(&own_key) };
    let mut reversed = issuer.issue(&good);
    reversed.chain.reverse();
    let mut cut = issuer.issue(&good);
    cut.chain.truncate(1);
    // The issuer's name, but not its key.
    let mut forged = root.under("issuer").issue(&good);
    forged.chain[1] = issuer.shown[0].clone();
    // Trust from one certificate, key and name from another.
    let mut borrowed = Authority::stranger().issue(&good);
    borrowed.chain.extend(issuer.issue(&good).chain);
    // Somebody replays a chain that was seen on the wire.
    let mut stolen = issuer.issue(&good);
    stolen.key = loaded(&new_key());
    let mut signing = leaf(id);
    signing.distinguished_name.push(DnType::CommonName, "leaf");
    signing.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let mut over = ca("issuer");
    over.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let mut narrow = ca("narrow");
    narrow.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let case = |what, shown, reason| Case { what, shown, reason };
    vec![
        case("expired", issuer.issue(&dated(2020, 2021)), "expired"),
        case("not yet valid", issuer.issue(&dated(2080, 2090)), "not_yet_valid"),
        case("unknown authority", Authority::stranger().issue(&good), UNKNOWN),
        case("self-signed", self_signed, UNKNOWN),
        case("wrong order", reversed, BAD),
        case("issuer left out", cut, UNKNOWN),
        case("leaf not signed by the chain", forged, BAD),
        case("leaf of a stranger before a good chain", borrowed, UNKNOWN),
        case("somebody else's key", stolen, BAD),
        case("issued by a leaf", issuer.authority(signing).issue(&good), BAD),
        case("issued by an authority that has expired", root.authority(over).issue(&good), "expired"),
        case("more authorities than allowed", root.authority(narrow).under("one too many").issue(&good), BAD),
    ]
}

/// Certificates of a good chain that are for something else, or name nobody or somebody else.
pub(crate) fn bad_leaves(folder: &Path, id: &str, role: Role) -> Vec<Case> {
    let issuer = Authority::of(folder).under("issuer");
    let other_role = if role == Role::Server { Usage::ClientAuth } else { Usage::ServerAuth };
    let for_use = |what, usages| {
        let mut params = leaf(id);
        params.extended_key_usages = usages;
        Case { what, shown: issuer.issue(&params), reason: BAD }
    };
    let named = |what, names| {
        let mut params = leaf(id);
        params.subject_alt_names = names;
        Case { what, shown: issuer.issue(&params), reason: BAD }
    };
    let text = |text: &str| Ia5String::try_from(text).expect("ASCII");
    let mut cases = vec![
        for_use("for the other role", vec![other_role]),
        for_use("for no role", vec![]),
        for_use("for e-mail", vec![Usage::EmailProtection]),
        named("the id as a DNS name", vec![SanType::DnsName(text(id))]),
        named("the id as an e-mail address", vec![SanType::Rfc822Name(text(id))]),
        named("a NUL in the id", vec![uri(&format!("{id}\0.evil"))]),
        named("a wildcard", vec![uri("spiffe://cluster.local/ns/default/sa/*")]),
        named("two ids", vec![uri(id), uri("spiffe://cluster.local/ns/default/sa/other")]),
        named("an address", vec![SanType::IpAddress([10, 77, 0, 2].into())]),
    ];
    if role == Role::Server {
        let mismatch = |what, id: &str| Case { reason: "identity_mismatch", ..named(what, vec![uri(id)]) };
        cases.push(mismatch("somebody else's id", "spiffe://cluster.local/ns/default/sa/other"));
        cases.push(mismatch("the id in another trust domain", &id.replace("cluster.local", "other.domain")));
    }
    cases
}
