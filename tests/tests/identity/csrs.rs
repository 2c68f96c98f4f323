//! The table of CSRs: three that are granted, and one for each rule that can be broken.
//!
//! Invariant: OpenSSL makes them, so nothing in them stems from our own code. Non-goal: damage in every bit, which is a
//! unit test.

use mesh_tests::yardstick::{Who, record};
use tonic::Code;

use crate::openssl::{self, P256, Request};
use crate::server::{Home, WEB, certify, code, plain_csr};

const P224: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:secp224r1"];
const P384: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"];
const RSA_1024: &[&str] = &["rsa:1024"];
const NAME: &str = "subjectAltName=URI:spiffe://cluster.local/ns/shop/sa/web";

struct Case {
    what: &'static str,
    csr: Vec<u8>,
    code: Code,
}

fn asked(what: &'static str, code: Code, subject: &str, extensions: &[&str]) -> Case {
    Case { what, code, csr: openssl::csr(&Request { key: P256, subject, extensions }) }
}

fn granted() -> Vec<Case> {
    let template = [
        NAME,
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        "extendedKeyUsage=serverAuth,clientAuth",
    ];
    vec![
        asked("a plain one", Code::Ok, "/", &[NAME]),
        asked("common name equal to the identity", Code::Ok, &common_name(WEB), &[NAME]),
        asked("what the template has", Code::Ok, "/", &template),
    ]
}

fn refused() -> Vec<Case> {
    let other = "spiffe://cluster.local/ns/shop/sa/api";
    let names = [
        ("two URIs", format!("URI:{WEB},URI:{other}")),
        ("the same URI twice", format!("URI:{WEB},URI:{WEB}")),
        ("two DNS names", "DNS:web.shop,DNS:web".to_owned()),
        ("a DNS name beside it", format!("URI:{WEB},DNS:web.shop")),
        ("an IP address beside it", format!("URI:{WEB},IP:10.0.0.1")),
        ("a mail address beside it", format!("URI:{WEB},email:web@shop")),
        ("another name beside it", format!("URI:{WEB},otherName:1.2.3.4;UTF8:web")),
        ("the identity as DNS name", format!("DNS:{WEB}")),
        ("somebody else", format!("URI:{other}")),
    ];
    let plain = Code::InvalidArgument;
    let by_name =
        |(what, names): (&'static str, String)| asked(what, plain, "/", &[&format!("subjectAltName={names}")]);
    let mut cases: Vec<Case> = names.into_iter().map(by_name).collect();
    cases.extend([
        asked("no name", plain, "/", &[]),
        asked("somebody else's common name", plain, &common_name(other), &[NAME]),
        asked("an organization", plain, "/O=shop", &[NAME]),
        asked("to be a CA", plain, "/", &[NAME, "basicConstraints=critical,CA:TRUE"]),
        asked("to sign certificates", plain, "/", &[NAME, "keyUsage=digitalSignature,keyCertSign"]),
        asked("to sign code", plain, "/", &[NAME, "extendedKeyUsage=codeSigning"]),
    ]);
    for (what, key) in [("RSA 1024", RSA_1024), ("P-224", P224), ("P-384", P384)] {
        cases.push(Case { what, code: plain, csr: openssl::csr(&Request { key, subject: "/", extensions: &[NAME] }) });
    }
    let whole = plain_csr(WEB);
    let mut resigned = whole.clone();
    let last = resigned.len() - 1;
    resigned[last] ^= 1;
    cases.extend([
        Case { what: "a wrong signature of its own", code: plain, csr: resigned },
        Case { what: "bytes after it", code: plain, csr: [&whole[..], b"\0"].concat() },
        // Longer than a message may be at all.
        Case { what: "1 MiB", code: Code::OutOfRange, csr: vec![0x30; 1 << 20] },
    ]);
    cases
}

fn common_name(id: &str) -> String {
    format!("/CN={}", id.replace('/', "\\/"))
}

#[tokio::test]
async fn r43_of_24_csrs_3_are_granted_and_21_refused_with_their_code() {
    let home = Home::new();
    let token = home.token(WEB);
    let server = home.start(&[]);
    let mut client = server.client();
    let (granted, refused) = (granted(), refused());
    assert_eq!((granted.len(), refused.len()), (3, 21));
    for case in granted.iter().chain(&refused) {
        let answer = certify(&mut client, &token, WEB, &case.csr).await;
        assert_eq!(code(&answer), case.code, "{}: {answer:?}", case.what);
    }
    assert!(server.metric("mesh_identity_certificates_issued_total") == 3.0, "{}", server.metrics());
    // The one that is too long for a message never reaches the service.
    let counted: f64 = server
        .metrics()
        .lines()
        .filter_map(|line| {
            line.strip_prefix("mesh_identity_requests_refused_total{")?.split(' ').nth(1)?.parse::<f64>().ok()
        })
        .sum();
    assert!(counted == 20.0, "{}", server.metrics());
    record(43, "24 CSRs", Who::Mesh, true, "3 granted, 21 refused with their code, each counted");
}

#[tokio::test]
async fn r43_a_csr_over_5_kib_is_refused_by_its_size() {
    let home = Home::new();
    let token = home.token(WEB);
    let server = home.start(&[]);
    let answer = certify(&mut server.client(), &token, WEB, &vec![0x30; 5 * 1024 + 1]).await;
    assert_eq!(code(&answer), Code::InvalidArgument);
    assert!(server.metric("mesh_identity_requests_refused_total{reason=\"csr_size\"}") == 1.0, "{}", server.metrics());
}
