//! Fit and unfit issuers, and the template.

use mesh_mtls::chain::{self, Role};
use rcgen::{BasicConstraints, CertificateParams, PKCS_ECDSA_P384_SHA384};
use rustls_pki_types::UnixTime;

use super::*;
use crate::testing::{Ca, HOUR, id, key, lives};

fn load(issuer: &Ca) -> Result<Issuer, Unfit> {
    Issuer::from_pem(&issuer.pem(), &issuer.key_pem(), SystemTime::now())
}

fn anchors(root: &Ca) -> Anchors {
    Anchors::from_pem(&root.pem()).unwrap()
}

#[test]
fn a_leaf_has_our_shape_and_is_trusted_by_who_trusts_the_root() {
    let root = Ca::root("root");
    let issuer = load(&root.issuer(|_| ())).unwrap();
    let now = SystemTime::now();
    let issued = issuer.issue(&key(), &id(), now, 24 * HOUR).unwrap();
    assert_eq!(now.duration_since(issued.not_before).unwrap().as_secs(), BACKDATE.as_secs());
    assert_eq!(issued.not_after, whole_seconds(now + 24 * HOUR));
    let intermediates: Vec<_> = issuer.intermediates(&anchors(&root)).collect();
    for role in [Role::Client, Role::Server] {
        let who = chain::verify(&issued.leaf, &intermediates, &anchors(&root), UnixTime::now(), role);
        assert_eq!(who, Ok(id()));
    }
    let (_, parsed) = X509Certificate::from_der(&issued.leaf).unwrap();
    assert!(!parsed.is_ca() && parsed.subject().iter().next().is_none());
    assert_eq!(parsed.extensions().len(), 6, "AKI, SAN, KU, EKU, SKI, basic constraints");
    assert!(parsed.subject_alternative_name().unwrap().unwrap().critical);
}

#[test]
fn leaves_stay_within_the_life_of_their_issuer() {
    let now = SystemTime::now();
    let root = Ca::root("root");
    let short = root.issuer(|params| lives(params, now - Duration::from_secs(5), now + HOUR));
    let issuer = load(&short).unwrap();
    let issued = issuer.issue(&key(), &id(), now, 24 * HOUR).unwrap();
    assert_eq!((issued.not_before, issued.not_after), (issuer.not_before, issuer.not_after));
    assert!(matches!(issuer.issue(&key(), &id(), now + 2 * HOUR, HOUR), Err(Unfit::Expired)));
}

#[test]
fn serial_numbers_are_positive_random_and_of_one_length() {
    let mut serials: Vec<_> = (0..1000).map(|_| serial().unwrap()).collect();
    assert!(serials.iter().all(|serial| (0x40..0x80).contains(&serial[0])));
    serials.sort_unstable();
    serials.dedup();
    assert_eq!(serials.len(), 1000);
}

#[test]
fn unfit_issuers_are_refused_with_the_reason() {
    let now = SystemTime::now();
    let (root, other) = (Ca::root("root"), Ca::root("other"));
    let expired = root.issuer(|params| lives(params, now - 2 * HOUR, now - HOUR));
    let future = root.issuer(|params| lives(params, now + HOUR, now + 2 * HOUR));
    let leaf = root.issuer(|params| params.is_ca = IsCa::NoCa);
    let mute = root.issuer(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    let good = root.issuer(|_| ());
    assert!(matches!(load(&expired), Err(Unfit::Expired)));
    assert!(matches!(load(&future), Err(Unfit::NotYetValid)));
    assert!(matches!(load(&leaf), Err(Unfit::NotCa)));
    assert!(matches!(load(&mute), Err(Unfit::NotCa)));
    assert!(matches!(Issuer::from_pem(&good.pem(), &other.key_pem(), now), Err(Unfit::KeyMismatch)));
    assert!(matches!(Issuer::from_pem(&good.pem(), &good.pem(), now), Err(Unfit::Key)));
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
    assert!(matches!(Issuer::from_pem(&good.pem(), p384.as_bytes(), now), Err(Unfit::Key)));
    for broken in [b"".to_vec(), b"nothing".to_vec(), good.pem()[..100].to_vec(), good.pem().repeat(9)] {
        assert!(matches!(Issuer::from_pem(&broken, &good.key_pem(), now), Err(Unfit::Pem)), "{broken:?}");
    }
    let mixed_up = load(&good).unwrap();
    assert!(matches!(mixed_up.verify(&anchors(&other), &id(), now), Err(Unfit::Refused(Refusal::UnknownIssuer))));
    assert!(mixed_up.verify(&anchors(&root), &id(), now).is_ok());
}

#[test]
fn chains_of_issuers_and_roots_that_sign_themselves_work() {
    let root = Ca::root("root");
    let middle = root.issuer(|_| ());
    let below =
        middle.issuer(|params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let pem = [below.pem(), middle.pem(), root.pem()].concat();
    let issuer = Issuer::from_pem(&pem, &below.key_pem(), SystemTime::now()).unwrap();
    issuer.verify(&anchors(&root), &id(), SystemTime::now()).unwrap();
    assert_eq!(issuer.intermediates(&anchors(&root)).count(), 2, "without the root");
    let own = load(&root).unwrap();
    own.verify(&anchors(&root), &id(), SystemTime::now()).unwrap();
    assert_eq!(own.intermediates(&anchors(&root)).count(), 0);
}
