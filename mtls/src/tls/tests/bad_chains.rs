//! Chains that must be refused, shown by a server to our connector and by a client to our acceptor. The side that
//! shows them is plain rustls, for ours would not start with most of them.

use rcgen::string::Ia5String;
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls_pki_types::PrivatePkcs8KeyDer;

use super::*;
use crate::chain::Role;
use crate::testing::uri;

/// What is wrong, the chain, and the reason that is due.
type Case = (&'static str, Issued, &'static str);

const UNKNOWN: &str = "unknown_issuer";
const BAD: &str = "bad_certificate";

/// What the holder must be for a good certificate.
fn subject(role: Role) -> Id {
    match role {
        Role::Server => id("api"),
        Role::Client => id("web"),
    }
}

fn bad_chains(root: &Ca, role: Role) -> Vec<Case> {
    let issuer = root.intermediate("issuer");
    [validity(&issuer, role), issuers(root, &issuer, role), purposes(&issuer, role), names(&issuer, role)]
        .into_iter()
        .flatten()
        .collect()
}

fn validity(issuer: &Ca, role: Role) -> Vec<Case> {
    let good = || Template::of(&subject(role));
    let (past, future) = (time::Duration::seconds(-2), time::Duration::hours(1));
    vec![
        ("expired", issuer.issue(&Template { not_before: past * 10, not_after: past, ..good() }), "expired"),
        ("not yet valid", issuer.issue(&Template { not_before: future, ..good() }), "not_yet_valid"),
    ]
}

fn issuers(root: &Ca, issuer: &Ca, role: Role) -> Vec<Case> {
    let good = Template::of(&subject(role));
    let key = KeyPair::generate().unwrap();
    let self_signed = Issued {
        chain: vec![good.params().self_signed(&key).unwrap().der().clone()],
        key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
    };
    let mut reversed = issuer.issue(&good);
    reversed.chain.reverse();
    let mut cut = issuer.issue(&good);
    cut.chain.truncate(1);
    // The issuer's name, but not its key.
    let mut forged = root.intermediate("issuer").issue(&good);
    forged.chain[1] = issuer.der();
    // Trust from one certificate, key and name from another (CVE-style "identity from the wrong certificate").
    let mut borrowed = Ca::root("other").issue(&good);
    borrowed.chain.extend(issuer.issue(&good).chain);
    // The key does not belong to the certificate: somebody replays a chain that was seen on the wire.
    let mut stolen = issuer.issue(&good);
    stolen.key = Ca::root("other").issue(&good).key;
    vec![
        ("unknown authority", Ca::root("root").issue(&good), BAD),
        ("unknown authority of another name", Ca::root("other").issue(&good), UNKNOWN),
        ("self-signed", self_signed, UNKNOWN),
        ("wrong order", reversed, BAD),
        ("issuer left out", cut, UNKNOWN),
        ("leaf not signed by the chain", forged, BAD),
        ("leaf before a good chain", borrowed, UNKNOWN),
        ("somebody else's key", stolen, BAD),
        ("issued by a leaf", issuer.leaf_that_issues().issue(&good), BAD),
        ("issued by an expired authority", root.expired_intermediate("issuer").issue(&good), "expired"),
    ]
}

fn purposes(issuer: &Ca, role: Role) -> Vec<Case> {
    let wrong = match role {
        Role::Server => ExtendedKeyUsagePurpose::ClientAuth,
        Role::Client => ExtendedKeyUsagePurpose::ServerAuth,
    };
    let with = |usages| issuer.issue(&Template { usages, ..Template::of(&subject(role)) });
    vec![
        ("for the other role", with(vec![wrong]), BAD),
        ("for no role", with(vec![]), BAD),
        ("for code", with(vec![ExtendedKeyUsagePurpose::CodeSigning]), BAD),
    ]
}

fn names(issuer: &Ca, role: Role) -> Vec<Case> {
    let right = subject(role).to_string();
    let with = |names| issuer.issue(&Template { names, ..Template::of(&subject(role)) });
    let dns = |name: &str| SanType::DnsName(Ia5String::try_from(name).unwrap());
    let mut cases = vec![
        ("a DNS name in place of a URI", with(vec![dns("web.test")]), BAD),
        ("the id as a DNS name", with(vec![dns(&right)]), BAD),
        (
            "the id as an e-mail address",
            with(vec![SanType::Rfc822Name(Ia5String::try_from(right.as_str()).unwrap())]),
            BAD,
        ),
        ("no name", with(vec![]), BAD),
        ("two URIs", with(vec![uri(&right), uri(id("other").as_str())]), BAD),
        ("the same URI twice", with(vec![uri(&right), uri(&right)]), BAD),
        ("a NUL in the URI", with(vec![uri(&format!("{right}\0.evil"))]), BAD),
        ("a wildcard", with(vec![uri("spiffe://cluster.local/ns/test/sa/*")]), BAD),
        ("a URI that is no identity", with(vec![uri("https://cluster.local/ns/test/sa/web")]), BAD),
    ];
    if role == Role::Server {
        cases.push(("somebody else's id", with(vec![uri(id("other").as_str())]), "identity_mismatch"));
        let elsewhere = uri("spiffe://other.domain/ns/test/sa/api");
        cases.push(("the id of another trust domain", with(vec![elsewhere]), "identity_mismatch"));
    }
    cases
}

#[tokio::test]
async fn r29_r30_the_connector_refuses_each_bad_chain_by_its_reason() {
    let root = Ca::root("root");
    let (connector, expected) = (connector(&root.credentials(&id("web"))), id("api"));
    for (what, shown, reason) in bad_chains(&root, Role::Server) {
        let mut config = config::server(&root.credentials(&id("api")), ClientAuth::Required, H2);
        config.cert_resolver = fixed(&shown);
        let (near, far) = duplex(4096);
        let server = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(far);
        let (client, server) = tokio::join!(connector.connect(near, &expected), server);
        let error = client.expect_err(what);
        assert_eq!((error.reason(), error.blame()), (reason, Blame::Peer), "{}: {error}", what);
        let told = Error::from(server.expect_err(what));
        assert!(matches!(told, Error::Alert(_)), "{}: the server got no alert but {told:?}", what);
    }
}

#[tokio::test]
async fn r29_r30_the_acceptor_refuses_each_bad_chain_by_its_reason() {
    let root = Ca::root("root");
    let api = root.credentials(&id("api"));
    for client_auth in [ClientAuth::Required, ClientAuth::Optional] {
        for (what, shown, reason) in bad_chains(&root, Role::Client) {
            let mut config = config::client(&api, Shown::Leaf, &owned(H2), id("api"));
            config.client_auth_cert_resolver = fixed(&shown);
            let (near, far) = duplex(4096);
            let name = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let client = TlsConnector::from(Arc::new(config)).connect(name, near);
            let acceptor = Acceptor::new(api.clone(), client_auth, H2);
            let (client, server) = tokio::join!(client, acceptor.accept(far));
            let error = server.expect_err(what);
            assert_eq!((error.reason(), error.blame()), (reason, Blame::Peer), "{}: {error}", what);
            let told = client.unwrap().read(&mut [0; 16]).await.expect_err(what);
            assert!(reason_in(&told).is_some(), "{}: the client got no alert but {told:?}", what);
        }
    }
}

#[tokio::test]
async fn a_good_chain_passes_both_ways_with_dns_names_and_in_any_order_of_its_issuers() {
    let root = Ca::root("root");
    let issuer = root.intermediate("one").intermediate("two").intermediate("three");
    let cell = |name| {
        let id = id(name);
        let dns = SanType::DnsName(Ia5String::try_from("web.test.svc.cluster.local").unwrap());
        let mut issued = issuer.issue(&Template { names: vec![dns, uri(id.as_str())], ..Template::of(&id) });
        issued.chain[1..].reverse();
        let credentials = Credentials::new(root.anchors());
        credentials.set_leaf(issued.leaf());
        credentials
    };
    let (client, server) = shake(&connector(&cell("web")), &id("api"), &acceptor(&cell("api"))).await;
    client.unwrap();
    assert_eq!(server.unwrap().1.id, Some(id("web")));
}
