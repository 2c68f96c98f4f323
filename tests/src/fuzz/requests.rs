//! Certificate signing requests: as anybody may send them, and rightly signed ones with any content.
//!
//! Oracle: whatever is granted names nobody but the identity that it is for, and is signed by the key that it brings.

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::UnparsedPublicKey;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use mesh_identity::csr::{Claim, SIZE_LIMIT, check};
use mesh_mtls::spiffe::Id;
use rcgen::PublicKeyData as _;

/// AlgorithmIdentifier of a P-256 key, and of ECDSA with SHA-256.
const P256: &[u8] =
    &[0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

/// Fixed, so that the same bytes are the same request.
static KEY: LazyLock<EcdsaKeyPair> = LazyLock::new(|| {
    let (mut private, mut public) = ([0; 32], vec![4]);
    private[31] = 1;
    // One times the curve's base point, SEC 2 2.4.2.
    public.extend(hex("6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"));
    public.extend(hex("4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"));
    EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P256_SHA256_ASN1_SIGNING, &private, &public)
        .expect("a pair of keys")
});

static ID: LazyLock<Id> = LazyLock::new(|| "spiffe://cluster.local/ns/shop/sa/web".parse().expect("a SPIFFE id"));

/// A CSR: the bytes themselves, or one that has them as subject and attributes.
pub(super) fn csr(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    if mode.is_multiple_of(2) {
        return judge(rest);
    }
    let at = rest.first().map_or(0, |at| usize::from(*at)).min(rest.len().saturating_sub(1));
    let (subject, attributes) = rest.get(1..).unwrap_or_default().split_at(at);
    judge(&signed(subject, attributes));
}

fn judge(der: &[u8]) {
    let named = check(der, Claim::Named(&ID));
    let unnamed = check(der, Claim::Unnamed(&ID));
    let Ok(granted) = &unnamed else {
        assert!(named.is_err(), "what is refused without a name is granted with one");
        return;
    };
    assert!(der.len() <= SIZE_LIMIT);
    let contains = |part: &[u8]| der.windows(part.len()).any(|window| window == part);
    assert!(contains(granted.key.der_bytes()), "a key that is not in the request");
    // Any other name would have to be in it, and so would what makes a CA.
    assert!(!contains(b"/ns/shop/sa/evil") && !contains(&[0x30, 3, 1, 1, 0xff]));
    assert!(named.is_err() || contains(ID.as_str().as_bytes()), "granted for a name that is not in it");
    let (body, signature) = halves(der).expect("what was granted can be read");
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, granted.key.der_bytes());
    key.verify(body, signature).expect("signed by its own key");
}

/// What is signed, and the signature, by a reader of our own.
fn halves(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, request, _) = element(der)?;
    let (info, _, rest) = element(request)?;
    let (_, _, rest) = element(rest)?;
    let (_, bits, _) = element(rest)?;
    Some((info, bits.get(1..)?))
}

/// The first element of `der`: with its head, without it, and what follows.
fn element(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let first = usize::from(*der.get(1)?);
    let (head, length) = match first {
        0..=0x7f => (2, first),
        0x81 => (3, usize::from(*der.get(2)?)),
        0x82 => (4, usize::from(*der.get(2)?) << 8 | usize::from(*der.get(3)?)),
        _ => return None,
    };
    Some((der.get(..head + length)?, &der[head..head + length], &der[head + length..]))
}

fn signed(subject: &[u8], attributes: &[u8]) -> Vec<u8> {
    let point = [&[0][..], KEY.public_key().as_ref()].concat();
    let key = wrap(0x30, &[P256, &wrap(3, &point)].concat());
    let version = [2, 1, 0];
    let info = wrap(0x30, &[&version[..], &wrap(0x30, subject), &key, &wrap(0xa0, attributes)].concat());
    let signature = KEY.sign(&SystemRandom::new(), &info).expect("a key that signs");
    let bits = [&[0], signature.as_ref()].concat();
    wrap(0x30, &[&info, ECDSA_SHA256, &wrap(3, &bits)].concat())
}

fn wrap(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
    let head = match body.len() {
        short @ 0..0x80 => vec![tag, short as u8],
        0x80..0x100 => vec![tag, 0x81, length[1]],
        _ => vec![tag, 0x82, length[0], length[1]],
    };
    [&head, body].concat()
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(digit).collect()
}
