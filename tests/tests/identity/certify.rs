//! What is issued, and to whom.
//!
//! Invariant: certificates are judged by OpenSSL. Non-goal: which CSRs are good, see `csrs`; how often, see `flood`.

use std::collections::HashSet;
use std::fs;

use mesh_tests::yardstick::{Who, count, log_is_safe, record};
use tonic::Code;

use crate::openssl::{self, P256, Request};
use crate::server::{Home, OWN, Server, WEB, certify, code, plain_csr};

/// Rates that no test of something else meets.
const UNLIMITED: &[&str] = &["--source-rate", "1000000", "--source-burst", "1000000"];

#[tokio::test]
async fn r43_a_leaf_is_exactly_our_template() {
    let home = Home::new();
    let token = home.token(WEB);
    let server = home.start(&[]);
    let asked = openssl::csr(&Request {
        key: P256,
        subject: "/",
        // A usage that may be asked for and is not given.
        extensions: &[&format!("subjectAltName=URI:{WEB}"), "keyUsage=keyAgreement", "extendedKeyUsage=serverAuth"],
    });
    let answer = certify(&mut server.client(), &token, WEB, &asked).await.unwrap();
    let text = openssl::text(
        &answer.leaf_der,
        &["-text", "-certopt", "no_header,no_version,no_serial,no_signame,no_validity,no_pubkey,no_sigdump,no_aux"],
    );
    let text: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let is_key_id = |line: &&&str| line.len() == 59 && line.split(':').all(|byte| byte.len() == 2);
    assert_eq!(text.iter().filter(is_key_id).count(), 2, "{text:#?}");
    let text: Vec<&str> = text.into_iter().filter(|line| !is_key_id(&line)).collect();
    let (issuer, text) = text.split_first().unwrap();
    assert!(issuer.starts_with("Issuer: CN = cluster.local mesh issuer "), "{issuer}");
    let expected = [
        "Subject:",
        "X509v3 extensions:",
        "X509v3 Authority Key Identifier:",
        "X509v3 Subject Alternative Name: critical",
        &format!("URI:{WEB}"),
        "X509v3 Key Usage: critical",
        "Digital Signature",
        "X509v3 Extended Key Usage:",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "X509v3 Subject Key Identifier:",
        "X509v3 Basic Constraints: critical",
        "CA:FALSE",
    ];
    assert_eq!(text, expected);
    let life = answer.not_after_unix - answer.not_before_unix;
    assert_eq!(life, 24 * 3600 + 20);
    assert_trusted(&home, &answer.leaf_der, &answer.intermediates_der[0]);
    assert_eq!(answer.intermediates_der.len(), 1, "the root is left out");
}

fn assert_trusted(home: &Home, leaf: &[u8], intermediate: &[u8]) {
    let (leaf_file, issuer_file) = (home.path("leaf.pem"), home.path("intermediate.pem"));
    fs::write(&leaf_file, openssl::pem(leaf)).unwrap();
    fs::write(&issuer_file, openssl::pem(intermediate)).unwrap();
    let root = home.path("ca/anchors.pem");
    let [root, issuer, leaf] = [&root, &issuer_file, &leaf_file].map(|path| path.to_str().unwrap());
    for purpose in ["sslserver", "sslclient"] {
        let args = ["verify", "-x509_strict", "-purpose", purpose, "-CAfile", root, "-untrusted", issuer, leaf];
        openssl::run(&args, b"");
    }
}

#[tokio::test]
async fn a_requester_that_leaves_its_name_to_its_token_gets_it() {
    let home = Home::new();
    let token = home.token(WEB);
    let server = home.start(&[]);
    let nameless = openssl::csr(&Request { key: P256, subject: "/", extensions: &[] });
    let answer = certify(&mut server.client(), &token, "", &nameless).await.unwrap();
    let text = openssl::text(&answer.leaf_der, &["-ext", "subjectAltName"]);
    assert!(text.contains(&format!("URI:{WEB}\n")), "{text}");
}

#[tokio::test]
async fn r44_of_12_tokens_one_is_accepted() {
    let home = Home::new();
    let (good, withdrawn) = (home.token(WEB), home.token(WEB));
    let file = fs::read_to_string(home.path("tokens")).unwrap();
    let server = home.start(&[]);
    let kept = file.lines().next().unwrap();
    fs::write(home.path("tokens"), format!("{kept}\n")).unwrap();
    server.until_metric("mesh_identity_reloads_total{source=\"tokens\"}", 1.0);
    let hash = kept.split([':', ' ']).nth(1).unwrap().to_owned();
    let mut similar = good.clone().into_bytes();
    similar[20] ^= 1;
    let tokens = [
        good.clone().into_bytes(),
        withdrawn.into_bytes(),
        Vec::new(),
        similar,
        good[..good.len() - 1].into(),
        format!("{good}A").into(),
        format!("{good}\n").into(),
        format!("{good}\0").into(),
        good.to_uppercase().into(),
        good.trim_start_matches("mesh_").into(),
        hash.into(),
        vec![b'x'; 16 * 1024 + 1],
    ];
    let mut client = server.client();
    let csr = plain_csr(WEB);
    let mut accepted = Vec::new();
    for token in &tokens {
        let answer = certify(&mut client, token, WEB, &csr).await;
        assert!(matches!(code(&answer), Code::Ok | Code::Unauthenticated), "{answer:?}");
        accepted.extend(answer.is_ok().then_some(token));
    }
    assert_eq!(accepted, [good.as_bytes()]);
    assert!(server.metric("mesh_identity_requests_refused_total{reason=\"token\"}") == 11.0);
    log_is_safe("identity", &server.process.output(), &[&good, good.trim_start_matches("mesh_")]);
    record(44, "12 tokens", Who::Mesh, true, "1 accepted, 11 refused and counted, no token in the log");
}

#[tokio::test]
async fn r44_a_good_token_is_good_for_its_own_identity_only() {
    let home = Home::new();
    let (web, api) = (home.token(WEB), "spiffe://cluster.local/ns/shop/sa/api");
    let server = home.start(&[]);
    let mut client = server.client();
    for identity in [api, OWN, "spiffe://cluster.local/ns/shop/sa/web/", "web", "*"] {
        let answer = certify(&mut client, &web, identity, &plain_csr(identity)).await;
        assert_eq!(code(&answer), Code::PermissionDenied, "{identity}");
    }
    let answer = certify(&mut client, &web, "", &plain_csr(api)).await;
    assert_eq!(code(&answer), Code::InvalidArgument);
}

#[tokio::test]
async fn r45_serials_are_random_and_never_repeat_over_replicas_and_restarts() {
    let issues: usize = count(2_000, 10_000);
    let home = Home::new();
    let (token, csr) = (home.token(WEB), plain_csr(WEB));
    let mut serials = HashSet::new();
    for _restart in 0..4 {
        let replicas = [home.start(UNLIMITED), home.start(UNLIMITED)];
        let [left, right] = replicas.each_ref().map(|replica| issue(replica, &token, &csr, issues / 8));
        let (left, right) = tokio::join!(left, right);
        serials.extend(left.into_iter().chain(right));
    }
    assert_eq!(serials.len(), issues);
    assert!(serials.iter().all(|serial| serial.len() == 16 && serial[0] < 0x80), "128 bits, positive");
    // Of 126 random bits each is set in about half of the serials; ten sigma are five times the root of their number.
    let (half, allowed) = (issues / 2, 5 * issues.isqrt());
    for bit in 2..128 {
        let set = serials.iter().filter(|serial| serial[bit / 8] & (0x80 >> (bit % 8)) != 0).count();
        assert!(set.abs_diff(half) <= allowed, "bit {bit} is set in {set} of {issues}");
    }
    let figure = format!("{issues} of {issues} distinct over 4 starts of 2 replicas, 126 random bits");
    record(45, "serial numbers", Who::Mesh, true, &figure);
}

/// Serial numbers of many certificates, several asked for at a time.
async fn issue(server: &Server, token: &str, csr: &[u8], count: usize) -> Vec<Vec<u8>> {
    const AT_A_TIME: usize = 10;
    let one_by_one = (0..AT_A_TIME).map(|_| {
        let mut client = server.client(); // each on a connection of its own, for one carries four requests at a time
        async move {
            let mut serials = Vec::new();
            for _ in 0..count / AT_A_TIME {
                let answer = certify(&mut client, token, WEB, csr).await.unwrap();
                serials.push(serial(&answer.leaf_der));
            }
            serials
        }
    });
    futures_util::future::join_all(one_by_one).await.concat()
}

/// RFC 5280 4.1: the serial number follows the version, which is `a0 03 02 01 02`.
fn serial(certificate: &[u8]) -> Vec<u8> {
    let version = [0xa0, 3, 2, 1, 2, 2];
    let at =
        certificate.windows(version.len()).position(|window| window == version).expect("a version") + version.len();
    let length = usize::from(certificate[at]);
    certificate[at + 1..at + 1 + length].to_vec()
}
