//! Handshakes over pipes in memory; the bad chains are in a file of their own.

mod bad_chains;
mod hellos;
mod records;
mod seam;
mod sessions;
mod stream;
mod talk;

use std::sync::Arc;

use rustls::HandshakeKind;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, NamedGroup, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy_bidirectional_with_sizes, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::credentials::{Anchors, Leaf};
use crate::testing::{Ca, Issued, Template, id};

const H2: &[&[u8]] = &[b"h2"];

type Client = Stream<DuplexStream>;
type Server = Stream<DuplexStream>;

/// Both sides of a handshake.
async fn shake(
    connector: &Connector,
    expected: &Id,
    acceptor: &Acceptor,
) -> (Result<Client, Error>, Result<(Server, Peer), Error>) {
    let (near, far) = duplex(4096);
    tokio::join!(connector.connect(near, expected), acceptor.accept(far))
}

/// Both ends of a session, over a pipe with so much room.
async fn pair(room: usize) -> (Client, Server) {
    let ca = Ca::root("root");
    let (web, api) = (ca.credentials(&id("web")), ca.credentials(&id("api")));
    let ((near, far), expected) = (duplex(room), id("api"));
    let (connector, acceptor) = (connector(&web), acceptor(&api));
    let (client, server) = tokio::join!(connector.connect(near, &expected), acceptor.accept(far));
    (client.unwrap(), server.unwrap().0)
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect()
}

fn stock_server(credentials: &Credentials) -> ServerConfig {
    config::server(credentials, ClientAuth::Required, H2)
}

fn stock_client(credentials: &Credentials) -> ClientConfig {
    config::client(credentials, Shown::Leaf, &owned(H2), id("api"))
}

/// Our connector with rustls as it comes.
async fn with_stock_server(
    connector: &Connector,
    config: &ServerConfig,
) -> (Client, tokio_rustls::server::TlsStream<DuplexStream>) {
    let stock = TlsAcceptor::from(Arc::new(config.clone()));
    let ((near, far), expected) = (duplex(1 << 16), id("api"));
    let (client, server) = tokio::join!(connector.connect(near, &expected), stock.accept(far));
    (client.unwrap(), server.unwrap())
}

/// Our acceptor with rustls as it comes.
async fn with_stock_client(
    config: &ClientConfig,
    acceptor: &Acceptor,
) -> (tokio_rustls::client::TlsStream<DuplexStream>, Server) {
    let stock = TlsConnector::from(Arc::new(config.clone()));
    let name = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let (near, far) = duplex(1 << 16);
    let (client, server) = tokio::join!(stock.connect(name, near), acceptor.accept(far));
    (client.unwrap(), server.unwrap().0)
}

fn connector(credentials: &Credentials) -> Connector {
    Connector::new(credentials.clone(), H2)
}

fn acceptor(credentials: &Credentials) -> Acceptor {
    Acceptor::new(credentials.clone(), ClientAuth::Required, H2)
}

fn fixed(issued: &Issued) -> Arc<SingleCertAndKey> {
    let key = load_key(&issued.key).unwrap();
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(issued.chain.clone(), key)))
}

fn expired(ca: &Ca, id: &Id) -> Leaf {
    let (not_before, not_after) = (time::Duration::seconds(-60), time::Duration::seconds(-2));
    ca.issue(&Template { not_before, not_after, ..Template::of(id) }).leaf()
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is_and_bytes_pass() {
    let ca = Ca::root("root");
    let (web, api) = (ca.credentials(&id("web")), ca.credentials(&id("api")));
    let (client, server) = shake(&connector(&web), &id("api"), &acceptor(&api)).await;
    let (mut client, (mut server, peer)) = (client.unwrap(), server.unwrap());
    assert_eq!(peer, Peer { id: Some(id("web")) });
    client.write_all(b"ping").await.unwrap();
    client.flush().await.unwrap();
    let mut heard = [0; 4];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");
}

#[tokio::test]
async fn a_session_is_tls_1_3_with_post_quantum_keys_and_the_fast_cipher() {
    let ca = Ca::root("root");
    let (web, api) = (ca.credentials(&id("web")), ca.credentials(&id("api")));
    let (_, server) = with_stock_server(&connector(&web), &stock_server(&api)).await;
    let (client, _) = with_stock_client(&stock_client(&web), &acceptor(&api)).await;
    let both: [&rustls::CommonState; 2] = [server.get_ref().1, client.get_ref().1];
    for session in both {
        assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(session.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        assert_eq!(session.negotiated_cipher_suite(), Some(config::preferred_suite()));
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
    }
}

#[tokio::test]
async fn no_name_is_sent_in_the_clear() {
    let ca = Ca::root("root");
    let (web, api) = (ca.credentials(&id("web")), ca.credentials(&id("api")));
    let (_, server) = with_stock_server(&connector(&web), &stock_server(&api)).await;
    assert_eq!(server.get_ref().1.server_name(), None);
}

#[tokio::test]
async fn r33_a_hello_that_comes_byte_by_byte_is_understood() {
    let ca = Ca::root("root");
    let (web, api) = (ca.credentials(&id("web")), ca.credentials(&id("api")));
    let ((near, mut left), (mut right, far)) = (duplex(4096), duplex(4096));
    let pump = tokio::spawn(async move { copy_bidirectional_with_sizes(&mut left, &mut right, 1, 1).await });
    let (connector, acceptor, expected) = (connector(&web), acceptor(&api), id("api"));
    let (client, server) = tokio::join!(connector.connect(near, &expected), acceptor.accept(far));
    assert!(client.is_ok() && server.is_ok(), "{client:?} {server:?}");
    pump.abort();
}

#[tokio::test]
async fn without_a_leaf_neither_side_starts() {
    let ca = Ca::root("root");
    let bare = Credentials::new(ca.anchors());
    let stale = Credentials::new(ca.anchors());
    stale.set_leaf(expired(&ca, &id("web")));
    for credentials in [bare, stale] {
        let (near, mut far) = duplex(4096);
        let error = connector(&credentials).connect(near, &id("api")).await.unwrap_err();
        assert_eq!((error.reason(), error.blame()), ("no_certificate", Blame::Local));
        assert_eq!(far.read(&mut [0; 16]).await.unwrap(), 0, "something was sent");

        let (near, _far) = duplex(4096);
        let error = acceptor(&credentials).accept(near).await.unwrap_err();
        assert_eq!((error.reason(), error.blame()), ("no_certificate", Blame::Local));
    }
}

#[tokio::test]
async fn an_anonymous_client_is_nobody_where_that_is_allowed() {
    let ca = Ca::root("root");
    let api = ca.credentials(&id("api"));
    let nobody = Connector::anonymous(Credentials::new(ca.anchors()), H2);
    let open = Acceptor::new(api.clone(), ClientAuth::Optional, H2);
    let (client, server) = shake(&nobody, &id("api"), &open).await;
    client.unwrap();
    assert_eq!(server.unwrap().1, Peer { id: None });
}

#[tokio::test]
async fn an_anonymous_client_is_refused_where_a_certificate_is_required() {
    let ca = Ca::root("root");
    let nobody = Connector::anonymous(Credentials::new(ca.anchors()), H2);
    let (client, server) = shake(&nobody, &id("api"), &acceptor(&ca.credentials(&id("api")))).await;
    let error = server.unwrap_err();
    assert_eq!((error.reason(), error.blame()), ("no_certificate", Blame::Peer));
    let refused = client.unwrap().read(&mut [0; 16]).await.unwrap_err();
    assert_eq!(reason_in(&refused), Some("no_certificate"), "{refused}");
}

#[tokio::test]
async fn an_anonymous_client_still_verifies_the_server() {
    let ca = Ca::root("root");
    let nobody = Connector::anonymous(Credentials::new(ca.anchors()), H2);
    let open = Acceptor::new(ca.credentials(&id("thief")), ClientAuth::Optional, H2);
    let (client, _) = shake(&nobody, &id("api"), &open).await;
    assert_eq!(client.unwrap_err().reason(), "identity_mismatch");
}

#[tokio::test]
async fn sides_without_a_common_protocol_part() {
    let ca = Ca::root("root");
    let (web, api) = (ca.credentials(&id("web")), ca.credentials(&id("api")));
    let other: &[&[u8]] = &[b"http/1.1"];
    let none: &[&[u8]] = &[];
    let cases = [(other, H2), (none, H2), (H2, none)];
    for (ours, theirs) in cases {
        let connector = Connector::new(web.clone(), ours);
        let acceptor = Acceptor::new(api.clone(), ClientAuth::Required, theirs);
        let (client, server) = shake(&connector, &id("api"), &acceptor).await;
        let reasons = [client.err(), server.err()].map(|error| error.map(|error| error.reason()));
        assert!(reasons.contains(&Some("alpn")), "{ours:?} {theirs:?}: {reasons:?}");
    }
    let (client, server) =
        shake(&Connector::new(web, &[]), &id("api"), &Acceptor::new(api, ClientAuth::Required, &[])).await;
    client.unwrap();
    server.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_ten_seconds() {
    let ca = Ca::root("root");
    let credentials = ca.credentials(&id("web"));
    let started = tokio::time::Instant::now();
    let (near, _far) = duplex(4096);
    assert_eq!(acceptor(&credentials).accept(near).await.unwrap_err().reason(), "timeout");
    assert_eq!(started.elapsed(), Duration::from_secs(10));

    let settings = Settings { handshake_timeout: Duration::from_secs(3) };
    let started = tokio::time::Instant::now();
    let (near, _far) = duplex(4096);
    let error = connector(&credentials).with_settings(settings).connect(near, &id("api")).await.unwrap_err();
    assert_eq!((error.reason(), error.blame()), ("timeout", Blame::Network));
    assert_eq!(started.elapsed(), Duration::from_secs(3));
}

#[tokio::test]
async fn a_peer_that_hangs_up_is_an_io_failure() {
    let ca = Ca::root("root");
    let credentials = ca.credentials(&id("web"));
    let (near, far) = duplex(4096);
    drop(far);
    assert_eq!(connector(&credentials).connect(near, &id("api")).await.unwrap_err().reason(), "io");
    let (near, far) = duplex(4096);
    drop(far);
    assert_eq!(acceptor(&credentials).accept(near).await.unwrap_err().reason(), "io");
}

#[tokio::test]
async fn anchors_rotate_under_an_acceptor_and_a_connector_that_live_on() {
    let (old, new) = (Ca::root("old"), Ca::root("new"));
    let (web, api) = (old.credentials(&id("web")), old.credentials(&id("api")));
    let (connector, acceptor) = (connector(&web), acceptor(&api));
    let both = Anchors::from_der(vec![old.der(), new.der()]).unwrap();
    let good = async |step: &str| {
        let (client, server) = shake(&connector, &id("api"), &acceptor).await;
        assert!(client.is_ok() && server.is_ok(), "{step}: {client:?} {server:?}");
    };
    good("old root").await;
    for credentials in [&web, &api] {
        assert!(credentials.set_anchors(both.clone()));
        assert!(!credentials.set_anchors(both.clone()), "equal anchors are no change");
    }
    good("both roots, old leaves").await;
    api.set_leaf(new.issue(&Template::of(&id("api"))).leaf());
    good("both roots, one new leaf").await;
    web.set_leaf(new.issue(&Template::of(&id("web"))).leaf());
    for credentials in [&web, &api] {
        credentials.set_anchors(new.anchors());
    }
    good("new root").await;

    api.set_leaf(old.issue(&Template::of(&id("api"))).leaf());
    let (client, server) = shake(&connector, &id("api"), &acceptor).await;
    assert_eq!(client.unwrap_err().reason(), "unknown_issuer");
    let told = server.unwrap_err();
    assert_eq!((told.reason(), told.blame()), ("unknown_issuer", Blame::Local));
}

#[tokio::test]
async fn a_new_leaf_is_shown_from_the_next_handshake_on() {
    let ca = Ca::root("root");
    let (web, api) = (ca.credentials(&id("web")), ca.credentials(&id("api")));
    let (connector, acceptor) = (connector(&web), acceptor(&api));
    let (stock_client, stock_server) = (stock_client(&web), stock_server(&api));
    let shown = async || {
        let (_, server) = with_stock_server(&connector, &stock_server).await;
        let (client, _) = with_stock_client(&stock_client, &acceptor).await;
        let both: [&rustls::CommonState; 2] = [server.get_ref().1, client.get_ref().1];
        let [web, api] = both.map(|session| session.peer_certificates().unwrap()[0].clone());
        (web, api)
    };
    let current = || (web.leaf().unwrap().chain()[0].clone(), api.leaf().unwrap().chain()[0].clone());
    assert_eq!(shown().await, current());
    let before = current();
    web.set_leaf(ca.issue(&Template::of(&id("web"))).leaf());
    api.set_leaf(ca.issue(&Template::of(&id("api"))).leaf());
    assert_ne!(before, current());
    assert_eq!(shown().await, current());
}

#[tokio::test]
async fn whoever_waits_for_a_certificate_is_woken_by_the_first() {
    let ca = Ca::root("root");
    let credentials = Credentials::new(ca.anchors());
    let waiter = tokio::spawn({
        let credentials = credentials.clone();
        async move { credentials.certified().await }
    });
    credentials.set_leaf(ca.issue(&Template::of(&id("web"))).leaf());
    assert_eq!(*waiter.await.unwrap().id(), id("web"));
}
