//! Chains and leaves that must be refused, shown by a client to a sidecar's tunnel port and by a server to a sidecar that dials.
//!
//! Invariant: each handshake that anybody begins is counted once, under its own reason. Non-goal: every bad certificate there
//! is; the TLS room's own tests have more.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_identity::init;
use mesh_tests::client::http::{Version, fetch};
use mesh_tests::client::{tcp, within};
use mesh_tests::mesh::{INBOUND_PORT, Mesh};
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Bystander, Vitals, Who, record};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use crate::certs::{Case, Role, bad_chains, bad_leaves};
use crate::impostor::{self, Impostor};
use crate::mesh;

pub(crate) const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";
/// For a sidecar to see what was closed.
const SOON: Duration = Duration::from_secs(20);

fn handshakes(mesh: &Mesh, workload: &str, direction: &str) -> BTreeMap<String, f64> {
    let metrics = mesh.get(workload).metrics();
    let results = metrics.values("mesh_tls_handshakes_total", "result");
    let count =
        |result: &str| metrics.sum("mesh_tls_handshakes_total", &[("direction", direction), ("result", result)]);
    results.iter().filter(|result| **result != "ok").map(|result| ((*result).to_owned(), count(result))).collect()
}

/// What each case's reason adds up to, `times` each.
fn expected(cases: &[Case], times: f64) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for case in cases {
        *all.entry(case.reason.to_owned()).or_default() += times;
    }
    all
}

/// A whole HTTP/2 request behind a handshake with a bad chain: what comes back, if anything does.
async fn ask_with(case: &Case, addr: SocketAddr) -> io::Result<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let config = config.map_err(io::Error::other)?.dangerous();
    let config = config.with_custom_certificate_verifier(tcp::anybody(provider));
    let mut config = config.with_client_cert_resolver(case.shown.resolver());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("mesh").map_err(io::Error::other)?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp::connect(addr).await?).await?;
    // Preface, SETTINGS, and a GET of / on stream 1: in TLS 1.3 it leaves before the server has judged us.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x04\x01\x05\0\0\0\x01\x82\x84\x86\x41";
    stream.write_all(preface).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

fn refused_inbound(row: u8, cases: &[Case], mesh: &Mesh, service: SocketAddr) {
    let bystander = Bystander::start(&mesh.get("client").host, service);
    let proxy = mesh.get("web").proxy().expect("a sidecar");
    let vitals = Vitals::of(proxy);
    let requests = || mesh.get("web").metric("mesh_http_requests_total", &[("direction", "inbound"), ("tls", "none")]);
    let (before, addr) = (requests(), mesh.get("web").at(INBOUND_PORT)[0]);
    let outsider = &mesh.get("outsider").host;
    for case in cases {
        let answer = within(outsider, ask_with(case, addr));
        let error = answer.expect_err(case.what);
        assert!(error.to_string().contains("alert"), "{}: no alert but {error}", case.what);
        // Who is refused and tries without TLS is not served on that port either.
        let plain = mesh_tests::raw::send(outsider, addr, b"GET / HTTP/1.1\r\nhost: web\r\n\r\n");
        assert!(plain.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset), "{plain:?}");
    }
    let (seen, due) = (|| handshakes(mesh, "web", "inbound"), expected(cases, 1.0));
    until(SOON, || seen() == due);
    assert_eq!(requests(), before, "a request without a certificate came through");
    let beside = bystander.finish();
    vitals.finish(proxy, &[]);
    let figure = format!("{0} of {0} refused and counted by reason, {beside}", cases.len());
    record(row, "shown by a client", Who::Mesh, true, &figure);
}

fn refused_outbound(row: u8, cases: &[Case], mesh: &Mesh, service: SocketAddr, impostor: &Impostor) {
    let bystander = Bystander::start(&mesh.get("client").host, service);
    let proxy = mesh.get("client").proxy().expect("a sidecar");
    let vitals = Vitals::of(proxy);
    let client = &mesh.get("client").host;
    for (nth, case) in cases.iter().enumerate() {
        for version in [Version::H1, Version::H2] {
            let answer = within(client, fetch(Impostor::addr(nth), version, "/")).expect("an answer");
            let said =
                answer.headers.get("mesh-error").map(|said| String::from_utf8_lossy(said.as_bytes()).into_owned());
            let said = said.unwrap_or_default();
            assert_eq!((answer.status.as_u16(), said.split(';').next()), (503, Some("peer_identity")), "{}", case.what);
        }
        let opaque = mesh_tests::raw::send(client, Impostor::addr(nth), b"\0\0no protocol of ours\r\n");
        assert!(opaque.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset), "{opaque:?}");
    }
    // Discovery forgets them: then nobody tries to reach them again, and all that were begun are counted.
    Impostor::withdraw(mesh, cases.len());
    let counted = || handshakes(mesh, "client", "outbound");
    let all = |seen: &BTreeMap<String, f64>| seen.values().sum::<f64>();
    until(SOON, || (all(&counted()) - to_float(impostor.handshakes())).abs() < 0.5);
    for (reason, least) in expected(cases, 1.0) {
        let seen = counted().get(&reason).copied().unwrap_or_default();
        assert!(seen >= least, "{reason}: {seen} of {least}");
    }
    let (seen, due) = (counted(), expected(cases, 1.0));
    assert!(seen.keys().eq(due.keys()), "{seen:?} where {due:?} are due");
    impostor.was_not_trusted();
    let beside = bystander.finish();
    vitals.finish(proxy, &[]);
    let figure = format!(
        "{0} of {0} refused: {1} handshakes, each counted by reason, 0 bytes told, {beside}",
        cases.len(),
        impostor.handshakes()
    );
    record(row, "shown by a server", Who::Mesh, true, &figure);
}

fn to_float(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("a few"))
}

/// A mesh with an impostor who shows these, and the impostor.
fn stage(cases: impl FnOnce(&std::path::Path) -> Vec<Case>) -> (Mesh, SocketAddr, Vec<Case>, Impostor) {
    let (mut mesh, service) = mesh();
    let folder = mesh.control().issuer_dir();
    init::ensure(&folder, "cluster.local", std::time::SystemTime::now()).expect("a CA");
    let cases = cases(&folder);
    let impostor = Impostor::add(&mesh, cases.iter().map(|case| case.shown.clone()).collect());
    mesh.start();
    (mesh, service, cases, impostor)
}

#[test]
fn r29_twelve_bad_chains_are_refused_both_ways_and_nothing_falls_back_to_plaintext() {
    let (mesh, service, cases, impostor) = stage(|folder| bad_chains(folder, impostor::ID));
    assert_eq!(cases.len(), 12);
    refused_outbound(29, &cases, &mesh, service, &impostor);
    let shown = bad_chains(&mesh.control().issuer_dir(), CLIENT);
    refused_inbound(29, &shown, &mesh, service);
}

#[test]
fn r30_leaves_for_other_uses_and_with_other_names_are_refused_both_ways() {
    let (mesh, service, cases, impostor) = stage(|folder| bad_leaves(folder, impostor::ID, Role::Server));
    assert!(cases.len() >= 6);
    refused_outbound(30, &cases, &mesh, service, &impostor);
    let shown = bad_leaves(&mesh.control().issuer_dir(), CLIENT, Role::Client);
    refused_inbound(30, &shown, &mesh, service);
}

/// The control: with a good chain the same client and the same server are let in, so it is the chain that was refused.
#[test]
fn r29_a_good_chain_of_the_same_ca_is_accepted() {
    let (mesh, _, cases, impostor) = stage(|folder| vec![crate::certs::good(folder, impostor::ID)]);
    let answer = within(&mesh.get("outsider").host, ask_with(&cases[0], mesh.get("web").at(INBOUND_PORT)[0]));
    assert!(answer.as_ref().is_ok_and(|frames| !frames.is_empty()), "{answer:?}");
    let _ = mesh_tests::raw::send(&mesh.get("client").host, Impostor::addr(0), b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    until(SOON, || impostor.was_trusted());
}
