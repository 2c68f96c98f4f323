//! Clients and servers that would take a session up again.
//!
//! Invariant: each of our handshakes shows its certificate anew, so that a change of roots is a change for everybody.
//! Non-goal: how a rotation goes for those who follow it; that is `lifecycle`'s.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_identity::init;
use mesh_tests::client::http::{Version, fetch};
use mesh_tests::client::{tcp, within};
use mesh_tests::mesh::{INBOUND_PORT, Pending, Rotation};
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Bystander, Who, count, record};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::AsyncReadExt as _;
use tokio_rustls::TlsConnector;

use crate::certs::{Authority, leaf};
use crate::chains::CLIENT;
use crate::impostor::{self, Impostor};
use crate::mesh;

const SOON: Duration = Duration::from_secs(30);

/// A client that keeps each session it is given.
fn eager(shown: &crate::certs::Shown) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let config = config.expect("TLS 1.3").dangerous().with_custom_certificate_verifier(tcp::anybody(provider));
    let mut config = config.with_client_cert_resolver(shown.resolver());
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::in_memory_sessions(256);
    Arc::new(config)
}

/// How a handshake went, once the server has said something.
async fn handshake(config: &Arc<ClientConfig>, addr: SocketAddr) -> io::Result<Option<HandshakeKind>> {
    let name = ServerName::try_from("mesh").map_err(io::Error::other)?;
    let mut stream = TlsConnector::from(Arc::clone(config)).connect(name, tcp::connect(addr).await?).await?;
    // The server's SETTINGS: it has judged us, and its tickets would have come before.
    stream.read_exact(&mut [0; 9]).await?;
    Ok(stream.get_ref().1.handshake_kind())
}

#[test]
fn r32_no_session_outlives_a_change_of_roots() {
    let (mut mesh, service) = mesh();
    mesh.start();
    let bystander = Bystander::start(&mesh.get("client").host, service);
    let folder = mesh.control().issuer_dir();
    let config = eager(&Authority::of(&folder).under("issuer").issue(&leaf(CLIENT)));
    let (outsider, addr) = (mesh.get("outsider").host.clone(), mesh.get("web").at(INBOUND_PORT)[0]);
    let tries = count(20, 500);
    for _ in 0..tries {
        let kind = within(&outsider, handshake(&config, addr)).expect("a good certificate");
        assert_eq!(kind, Some(HandshakeKind::Full));
    }
    let rotation = Rotation::begin(&folder);
    let mut pending = Pending::of(&mesh);
    rotation.trust_both();
    until(SOON, || pending.have_new_anchors(&mesh));
    rotation.issue_from_next();
    let mut pending = Pending::of(&mesh);
    let onlooker = mesh.host("onlooker");
    until(SOON, || pending.have_issuer(&mesh, &onlooker, &rotation.next_issuer()));
    let mut pending = Pending::of(&mesh);
    rotation.trust_next_only();
    until(SOON, || pending.have_new_anchors(&mesh));
    for _ in 0..tries {
        let refused = within(&outsider, handshake(&config, addr)).expect_err("a root that is gone");
        assert!(refused.to_string().contains("alert"), "{refused}");
    }
    let refused = || mesh.get("web").metric("mesh_tls_handshakes_total", &[("result", "unknown_issuer")]);
    let due = f64::from(tries);
    until(SOON, || refused() >= due);
    assert_eq!(refused(), due);
    let beside = bystander.finish();
    let figure =
        format!("0 of {tries} handshakes resumed; {tries} of {tries} refused once the root was gone, {beside}");
    record(32, "a client that would resume", Who::Mesh, true, &figure);
}

#[test]
fn r32_a_sidecar_resumes_nothing_although_its_server_would() {
    let (mut mesh, _) = mesh();
    let folder = mesh.control().issuer_dir();
    init::ensure(&folder, "cluster.local", std::time::SystemTime::now()).expect("a CA");
    let shown = Authority::of(&folder).under("issuer").issue(&leaf(impostor::ID));
    let impostor = Impostor::add(&mesh, vec![shown]);
    mesh.start();
    let wanted = count(10, 200);
    // It breaks each tunnel off once it has been trusted, so each request is a handshake anew.
    for _ in 0..wanted {
        let answer = within(&mesh.get("client").host, fetch(Impostor::addr(0), Version::H1, "/"));
        assert!(answer.is_ok_and(|answer| answer.status.as_u16() >= 500));
    }
    let kinds = impostor.handshake_kinds();
    assert!(kinds.len() >= wanted, "{} handshakes", kinds.len());
    assert!(kinds.iter().all(|kind| *kind == HandshakeKind::Full), "{kinds:?}");
    record(32, "a server that gives tickets", Who::Mesh, true, &format!("0 of {} handshakes resumed", kinds.len()));
}
