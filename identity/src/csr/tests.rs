//! CSRs made with rcgen, some of them damaged afterwards.

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData as _, SanType,
};

use super::*;
use crate::testing::{id, key};

fn plain() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(id().as_str())];
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

fn der(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    signed(change, &key())
}

fn signed(change: impl FnOnce(&mut CertificateParams), key: &KeyPair) -> Vec<u8> {
    let mut params = plain();
    change(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

fn verdict(der: &[u8]) -> Result<(), Refusal> {
    check(der, Claim::Named(&id())).map(drop)
}

#[test]
fn a_plain_request_is_granted_for_its_key() {
    let key = key();
    let csr = check(&signed(|_| (), &key), Claim::Named(&id())).unwrap();
    assert_eq!(csr.key.der_bytes(), key.der_bytes());
}

#[test]
fn what_our_template_gives_may_be_asked_for() {
    let asked = der(|params| {
        params.distinguished_name.push(DnType::CommonName, id().as_str());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert_eq!(verdict(&asked), Ok(()));
    assert_eq!(verdict(&der(|params| params.distinguished_name.push(DnType::CommonName, ""))), Ok(()));
}

#[test]
fn no_name_is_enough_only_for_who_leaves_it_to_the_token() {
    let nameless = der(|params| params.subject_alt_names.clear());
    assert_eq!(verdict(&nameless), Err(Refusal::Name));
    assert!(check(&nameless, Claim::Unnamed(&id())).is_ok());
    let foreign = der(|params| params.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/api")]);
    assert_eq!(check(&foreign, Claim::Unnamed(&id())).unwrap_err(), Refusal::Name);
}

#[test]
fn names_beside_the_identity_are_refused() {
    let ip = SanType::IpAddress("10.0.0.1".parse().unwrap());
    let dns = SanType::DnsName(Ia5String::try_from("web.shop").unwrap());
    let mail = SanType::Rfc822Name(Ia5String::try_from("web@shop").unwrap());
    for other in [ip, dns, mail, uri(id().as_str()), uri("spiffe://cluster.local/ns/shop/sa/api")] {
        let beside = der(|params| params.subject_alt_names.push(other.clone()));
        assert_eq!(verdict(&beside), Err(Refusal::Name), "{other:?}");
        let instead = der(|params| params.subject_alt_names = vec![other.clone()]);
        let expected = if other == uri(id().as_str()) { Ok(()) } else { Err(Refusal::Name) };
        assert_eq!(verdict(&instead), expected, "{other:?}");
    }
    for wrong in ["spiffe://cluster.local/ns/shop/sa/WEB", "spiffe://cluster.local/ns/shop/sa/web/", "", "https://a/"] {
        assert_eq!(verdict(&der(|params| params.subject_alt_names = vec![uri(wrong)])), Err(Refusal::Name), "{wrong}");
    }
}

#[test]
fn subjects_that_say_something_else_are_refused() {
    let cases: [&[(DnType, &str)]; 4] = [
        &[(DnType::CommonName, "spiffe://cluster.local/ns/shop/sa/api")],
        &[(DnType::CommonName, "web")],
        &[(DnType::OrganizationName, "shop")],
        &[(DnType::CommonName, ""), (DnType::OrganizationName, "shop")],
    ];
    for case in cases {
        let csr = der(|params| {
            for (kind, value) in case {
                params.distinguished_name.push(kind.clone(), *value);
            }
        });
        assert_eq!(verdict(&csr), Err(Refusal::Subject), "{case:?}");
    }
}

#[test]
fn authority_and_other_purposes_are_not_given() {
    let ca = der(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(verdict(&ca), Err(Refusal::Authority));
    for usage in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
        assert_eq!(verdict(&der(|params| params.key_usages = vec![usage])), Err(Refusal::Authority));
    }
    for purpose in [ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::CodeSigning] {
        let csr = der(|params| params.extended_key_usages = vec![purpose.clone()]);
        assert_eq!(verdict(&csr), Err(Refusal::Purpose));
    }
    let unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    assert_eq!(verdict(&der(|params| params.custom_extensions = vec![unknown.clone()])), Err(Refusal::Extension));
    // rcgen writes the name from its own field and once more from here.
    let name = [0x30, 2, 0x86, 0].to_vec();
    let twice = CustomExtension::from_oid_content(&[2, 5, 29, 17], name);
    assert_eq!(verdict(&der(|params| params.custom_extensions = vec![twice])), Err(Refusal::Extension));
}

#[test]
fn other_keys_are_refused() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        assert_eq!(verdict(&signed(|_| (), &key)), Err(Refusal::Key));
    }
}

#[test]
fn a_request_that_its_key_has_not_signed_is_refused() {
    let (mine, theirs) = (key(), key());
    let mut csr = signed(|_| (), &mine);
    // Somebody else's public key in a request that I have signed.
    let at = csr.windows(65).position(|window| window == mine.der_bytes()).unwrap();
    csr[at..at + 65].copy_from_slice(theirs.der_bytes());
    assert_eq!(verdict(&csr), Err(Refusal::Signature));
    // A point that is not on the curve.
    csr[at + 1..at + 65].fill(1);
    assert_eq!(verdict(&csr), Err(Refusal::Signature));
}

#[test]
fn damage_never_panics_and_never_changes_what_was_signed() {
    let key = key();
    let whole = signed(|_| (), &key);
    assert_eq!(verdict(&[]), Err(Refusal::Malformed));
    assert_eq!(verdict(&[whole.as_slice(), b"x"].concat()), Err(Refusal::Malformed));
    assert_eq!(verdict(&vec![0x30; SIZE_LIMIT + 1]), Err(Refusal::Size));
    for length in 0..whole.len() {
        assert!(verdict(&whole[..length]).is_err(), "cut at {length}");
    }
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            // What lies around the signed part may be written in more ways than one.
            if let Ok(csr) = check(&damaged, Claim::Named(&id())) {
                assert_eq!(csr.key.der_bytes(), key.der_bytes(), "bit {bit} of byte {at}");
            }
        }
    }
}

/// A CSR with `extra` at the end of one of the elements in what is signed, and a new signature. `path` leads there: the place
/// of each element in the one around it.
fn stuffed(path: &[usize], extra: &[u8], key: &KeyPair) -> Vec<u8> {
    let der = signed(|params| params.distinguished_name.push(DnType::CommonName, id().as_str()), key);
    let info = element(&der, &[0]);
    let info = insert(info, path, extra);
    let signature = rcgen::SigningKey::sign(key, &info).unwrap();
    let algorithm = element(&der, &[1]).to_vec();
    let bits = wrapped(3, &[&[0], signature.as_slice()].concat());
    wrapped(0x30, &[info, algorithm, bits].concat())
}

/// The elements inside of `der`, with their heads.
fn inside(der: &[u8]) -> Vec<&[u8]> {
    let mut rest = &der[head(der)..];
    let mut elements = Vec::new();
    while !rest.is_empty() {
        let (element, after) = rest.split_at(head(rest) + length(rest));
        elements.push(element);
        rest = after;
    }
    elements
}

fn element<'a>(der: &'a [u8], path: &[usize]) -> &'a [u8] {
    path.iter().fold(der, |der, at| inside(der)[*at])
}

fn insert(der: &[u8], path: &[usize], extra: &[u8]) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = inside(der).into_iter().map(<[u8]>::to_vec).collect();
    match path {
        [] => parts.push(extra.to_vec()),
        [at, path @ ..] => parts[*at] = insert(&parts[*at], path, extra),
    }
    wrapped(der[0], &parts.concat())
}

fn head(der: &[u8]) -> usize {
    2 + usize::from(der[1].saturating_sub(0x80))
}

fn length(der: &[u8]) -> usize {
    match der[1] {
        short @ 0..=0x7f => usize::from(short),
        _ => der[2..head(der)].iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
    }
}

fn wrapped(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head = match content.len() {
        0..=0x7f => vec![tag, length[1]],
        0x80..=0xff => vec![tag, 0x81, length[1]],
        _ => vec![tag, 0x82, length[0], length[1]],
    };
    [head.as_slice(), content].concat()
}

#[test]
fn no_element_has_room_for_bytes_that_nobody_looks_at() {
    let key = key();
    // Nothing put in: the way of making them is right.
    assert_eq!(verdict(&stuffed(&[], &[], &key)), Ok(()));
    // In the request's body, the subject, its part, its attribute; the key; the attributes, one, its values, an extension.
    let places: [&[usize]; 9] = [&[], &[1], &[1, 0], &[1, 0, 0], &[2], &[3], &[3, 0], &[3, 0, 1], &[3, 0, 1, 0, 0]];
    for place in places {
        for extra in [&[0x05, 0x00][..], &[0x31, 0x2e, 0x30]] {
            let refused = verdict(&stuffed(place, extra, &key));
            assert!(refused.is_err(), "{extra:x?} in {place:?}");
        }
    }
}

#[test]
fn a_broken_subject_is_not_taken_for_an_empty_one() {
    let key = key();
    let nameless = signed(|_| (), &key);
    let info = insert(element(&nameless, &[0]), &[1], &[0x31, 0x2e, 0x30, 0x2c]);
    let signature = rcgen::SigningKey::sign(&key, &info).unwrap();
    let bits = wrapped(3, &[&[0], signature.as_slice()].concat());
    let broken = wrapped(0x30, &[info.as_slice(), element(&nameless, &[1]), &bits].concat());
    assert_eq!(verdict(&broken), Err(Refusal::Malformed));
}
