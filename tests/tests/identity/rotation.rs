//! Files that change under a running server: CA, tokens.
//!
//! Invariant: every wait is for a counter or an answer. Non-goal: what proxies make of it.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use mesh_mtls::anchors::Anchors;
use mesh_proto::identity::TrustBundleRequest;
use mesh_proto::identity::identity_client::IdentityClient;
use mesh_tests::yardstick::{Who, record};
use tonic::Streaming;
use tonic::transport::Channel;

use crate::openssl::{self, CA};
use crate::server::{Home, SOON, Server, WEB, certify, plain_csr};

/// `old` and `new` are roots; `under-old` and `under-new` sign under them; the first are in force.
fn home_with_two_roots() -> Home {
    let home = Home::new();
    for name in ["old", "new"] {
        openssl::ca(home.dir(), name, None, CA);
        openssl::ca(home.dir(), &format!("under-{name}"), Some(name), CA);
    }
    install(&home, &["old"], "under-old");
    home
}

fn install(home: &Home, roots: &[&str], issuer: &str) {
    put(home, "anchors.pem", &pems(home, roots));
    put(home, "issuer.pem", &pems(home, &[issuer]));
    put(home, "issuer.key", &fs::read(home.path(&format!("{issuer}.key"))).unwrap());
}

fn pems(home: &Home, names: &[&str]) -> Vec<u8> {
    names.iter().flat_map(|name| fs::read(home.path(&format!("{name}.pem"))).unwrap()).collect()
}

/// As careful writers do it.
fn put(home: &Home, name: &str, bytes: &[u8]) {
    let next = home.path(&format!("{name}.next"));
    fs::write(&next, bytes).unwrap();
    fs::rename(next, home.path(name)).unwrap();
}

async fn next_bundle(bundles: &mut Streaming<mesh_proto::identity::TrustBundleResponse>) -> usize {
    let bundle = tokio::time::timeout(SOON, bundles.message()).await.expect("a bundle in time").unwrap();
    bundle.expect("the stream goes on").anchors_der.len()
}

async fn issuer_of(client: &mut IdentityClient<Channel>, token: &str, csr: &[u8]) -> String {
    let answer = certify(client, token, WEB, csr).await.unwrap();
    openssl::text(&answer.leaf_der, &["-issuer"]).trim().to_owned()
}

fn both(home: &Home) -> Anchors {
    Anchors::from_pem(&pems(home, &["old", "new"])).unwrap()
}

#[tokio::test]
async fn r47_a_rotation_of_root_and_issuer_is_live_within_5_s() {
    let home = home_with_two_roots();
    let (token, csr) = (home.token(WEB), plain_csr(WEB));
    let server = home.start_on_files(&[]);
    let mut client = server.client_that_trusts(both(&home));
    let mut bundles = client.trust_bundle(TrustBundleRequest {}).await.unwrap().into_inner();
    assert_eq!(next_bundle(&mut bundles).await, 1, "at once");
    assert!(server.metric("mesh_identity_bundle_subscribers") == 1.0);

    put(&home, "anchors.pem", &pems(&home, &["old", "new"]));
    assert_eq!(next_bundle(&mut bundles).await, 2);
    assert_eq!(issuer_of(&mut client, &token, &csr).await, "issuer=CN = under-old");

    let swapped = Instant::now();
    put(&home, "issuer.pem", &pems(&home, &["under-new"]));
    put(&home, "issuer.key", &fs::read(home.path("under-new.key")).unwrap());
    while issuer_of(&mut client, &token, &csr).await != "issuer=CN = under-new" {
        assert!(swapped.elapsed() < Duration::from_secs(5), "{}", server.process.output());
    }
    let took = swapped.elapsed();
    assert_eq!(next_bundle(&mut bundles).await, 2, "told again: leaves have another issuer now");
    // A new connection sees that the server's own certificate has moved as well.
    let only_new = Anchors::from_pem(&pems(&home, &["new"])).unwrap();
    certify(&mut server.client_that_trusts(only_new), &token, WEB, &csr).await.unwrap();

    put(&home, "anchors.pem", &pems(&home, &["new"]));
    assert_eq!(next_bundle(&mut bundles).await, 1);
    assert!(server.metric("mesh_identity_anchors") == 1.0);
    record(47, "issuer and root replaced", Who::Mesh, true, &format!("a leaf of the new issuer after {took:.1?}"));
}

/// Waits until the server has refused something since `before`.
fn until_refused(server: &Server, before: f64) {
    server.until_metric("mesh_identity_reload_errors_total{source=\"authority\"}", before + 1.0);
}

#[tokio::test]
async fn r47_unfit_files_are_counted_and_the_last_good_ones_stay() {
    let home = home_with_two_roots();
    openssl::ca(home.dir(), "no-ca", Some("old"), &["basicConstraints=critical,CA:FALSE"]);
    openssl::expired_ca(home.dir(), "expired", "old");
    let (token, csr) = (home.token(WEB), plain_csr(WEB));
    let server = home.start_on_files(&[]);
    let mut client = server.client();
    let good_key = fs::read(home.path("under-old.key")).unwrap();
    let unfit = [
        ("not a CA", pems(&home, &["no-ca"]), fs::read(home.path("no-ca.key")).unwrap()),
        ("expired", pems(&home, &["expired"]), fs::read(home.path("expired.key")).unwrap()),
        ("of another root", pems(&home, &["under-new"]), fs::read(home.path("under-new.key")).unwrap()),
        ("the key of another", pems(&home, &["under-old"]), fs::read(home.path("under-new.key")).unwrap()),
        ("half-written", pems(&home, &["under-old"])[..200].to_vec(), good_key.clone()),
        ("empty", Vec::new(), good_key),
    ];
    for (what, certificate, key) in unfit {
        let before = server.metric("mesh_identity_reload_errors_total{source=\"authority\"}");
        fs::write(home.path("issuer.key"), key).unwrap();
        fs::write(home.path("issuer.pem"), certificate).unwrap();
        until_refused(&server, before);
        assert_eq!(issuer_of(&mut client, &token, &csr).await, "issuer=CN = under-old", "{what}");
        assert_eq!(server.get("/ready").0, 200, "{what}");
    }
    let before = server.metric("mesh_identity_reload_errors_total{source=\"authority\"}");
    fs::remove_file(home.path("anchors.pem")).unwrap();
    until_refused(&server, before);
    install(&home, &["old", "new"], "under-new");
    let fixed = Instant::now();
    while issuer_of(&mut client, &token, &csr).await != "issuer=CN = under-new" {
        assert!(fixed.elapsed() < SOON, "{}", server.process.output());
    }
}

#[tokio::test]
async fn a_broken_tokens_file_keeps_the_last_good_one() {
    let home = home_with_two_roots();
    let (token, csr) = (home.token(WEB), plain_csr(WEB));
    let good = fs::read(home.path("tokens")).unwrap();
    let server = home.start_on_files(&[]);
    let mut client = server.client();
    for (count, broken) in [&good[..good.len() - 3], b"nonsense\n", b"\xff\n"].iter().enumerate() {
        fs::write(home.path("tokens"), broken).unwrap();
        let errors = f64::from(u32::try_from(count).unwrap()) + 1.0;
        server.until_metric("mesh_identity_reload_errors_total{source=\"tokens\"}", errors);
        certify(&mut client, &token, WEB, &csr).await.unwrap();
    }
    fs::remove_file(home.path("tokens")).unwrap();
    server.until_metric("mesh_identity_reload_errors_total{source=\"tokens\"}", 4.0);
    certify(&mut client, &token, WEB, &csr).await.unwrap();
    assert!(server.metric("mesh_identity_tokens") == 1.0);

    // The way of Kubernetes' volumes: a link to a folder is replaced.
    fs::create_dir(home.path("v2")).unwrap();
    let later = home.path("v2/tokens");
    symlink(&later, home.path("tokens")).unwrap();
    fs::write(&later, good).unwrap();
    let second = home.token(WEB);
    server.until_metric("mesh_identity_tokens", 2.0);
    certify(&mut client, &second, WEB, &csr).await.unwrap();
}

#[tokio::test]
async fn the_server_renews_its_own_certificate_while_it_runs() {
    let home = home_with_two_roots();
    home.token(WEB);
    let server = home.start_on_files(&["--leaf-lifetime", "10s"]);
    let first = server_certificate(&server);
    let deadline = Instant::now() + SOON;
    while server_certificate(&server) == first {
        assert!(Instant::now() < deadline, "{}", server.process.output());
    }
}

/// The certificate that a TLS client is shown, as OpenSSL prints it.
fn server_certificate(server: &Server) -> Vec<u8> {
    let addr = server.addr.to_string();
    let shown = openssl::run(&["s_client", "-connect", &addr, "-alpn", "h2", "-tls1_3"], b"");
    openssl::run(&["x509", "-noout", "-serial"], &shown)
}
