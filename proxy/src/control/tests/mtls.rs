//! Over real mutual TLS, on loopback.

use futures_util::StreamExt as _;
use mesh_mtls::credentials::{Anchors, Credentials, Leaf};
use mesh_mtls::tls::{Acceptor, ClientAuth, Connector};
use mesh_mtls::{grpc, messages, spiffe};
use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rcgen::{KeyUsagePurpose, SanType};
use tokio::net::TcpListener;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::destination::{self, Session};
use super::*;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    fn credentials(&self) -> Credentials {
        Credentials::new(Anchors::from_der(vec![self.0.der().clone()]).expect("an anchor"))
    }

    fn leaf(&self, id: &spiffe::Id) -> Leaf {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id.as_str()).expect("ASCII"))];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.0).expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8");
        Leaf::new(vec![leaf.der().clone()], &key).expect("a leaf")
    }
}

/// A destination that proves to be `id`: its port, the streams opened to it, its task.
async fn serve(
    authority: &Authority,
    id: &spiffe::Id,
) -> (u16, tokio::sync::mpsc::Receiver<Session>, tokio::task::JoinHandle<()>) {
    let credentials = authority.credentials();
    credentials.set_leaf(authority.leaf(id));
    let acceptor = Acceptor::new(credentials, ClientAuth::Required, messages::ALPN);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (sessions, streams) = tokio::sync::mpsc::channel(8);
    let accepted = grpc::incoming(listener, acceptor).map(|accepted| {
        let (tls, peer) = accepted.expect("an endless stream").into_parts();
        (tls, peer.id)
    });
    (port, streams, tokio::spawn(destination::serve(accepted, sessions)))
}

fn client(port: u16, credentials: &Credentials) -> Client {
    let metrics = Metrics::new(crate::metrics::Settings::default());
    let settings = Settings::new(format!("127.0.0.1:{port}"), id("destination"));
    let connector = Connector::new(credentials.clone(), messages::ALPN);
    let (discovery, task) = Discovery::new(settings, hello(), connector, credentials.clone(), metrics.discovery());
    Client { discovery, metrics, driver: tokio::spawn(task) }
}

#[tokio::test]
async fn the_stream_opens_with_the_certificate_and_carries_our_identity() {
    let authority = Authority::new();
    let (port, mut streams, server) = serve(&authority, &id("destination")).await;
    let credentials = authority.credentials();
    let client = client(port, &credentials);
    let web = client.discovery.outbound(addr(1));
    assert_eq!(web.first(Duration::from_millis(50)).await, None, "no certificate, no stream");
    assert!(streams.try_recv().is_err());
    assert_eq!(client.discovery.status().last_error, None, "it waits, it does not fail");

    credentials.set_leaf(authority.leaf(&id("web")));
    let mut session = streams.recv().await.expect("a stream");
    assert_eq!(session.peer, Some(id("web")));
    assert!(matches!(session.request().await, wire::watch_request::Kind::Hello(_)));
    let (id, _) = session.subscribed().await;
    session.send(id, 1, service(wire::Protocol::Http2)).await;
    assert_eq!(web.first(SOON).await.as_deref(), Some(&target(Protocol::Http2)));
    assert_eq!(session.ack().await, (id, 1, String::new()));
    server.abort();
}

#[tokio::test]
async fn a_destination_that_proves_another_identity_is_told_nothing() {
    let authority = Authority::new();
    let (port, mut streams, server) = serve(&authority, &id("impostor")).await;
    let credentials = authority.credentials();
    credentials.set_leaf(authority.leaf(&id("web")));
    let client = client(port, &credentials);
    let error = client.error().await;
    assert!(error.matches("impostor").count() == 1, "{error}");
    assert!(!client.discovery.status().connected);
    assert!(streams.try_recv().is_err());
    server.abort();
}
