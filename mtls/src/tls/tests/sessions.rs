//! What a session may keep: no tickets, little memory.

use rustls::client::Resumption;

use super::*;

trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite> Io for T {}

/// Sends one byte each way, so that tickets, if there were any, have arrived.
async fn exchange(client: &mut (impl Io + Unpin), server: &mut (impl Io + Unpin)) {
    let mut byte = [0];
    for _ in 0..2 {
        server.write_all(b"x").await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut byte).await.unwrap();
        client.write_all(b"x").await.unwrap();
        client.flush().await.unwrap();
        server.read_exact(&mut byte).await.unwrap();
    }
}

#[tokio::test]
async fn r32_our_server_gives_no_ticket_even_to_a_client_that_would_resume() {
    let ca = Ca::root("root");
    let (web, api) = (ca.credentials(&id("web")), ca.credentials(&id("api")));
    let mut config = config::client(&web, Shown::Leaf, &owned(H2), id("api"));
    config.resumption = Resumption::in_memory_sessions(8);
    let stock = TlsConnector::from(Arc::new(config));
    for _ in 0..3 {
        let (near, far) = duplex(4096);
        let name = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let acceptor = acceptor(&api);
        let (client, server) = tokio::join!(stock.connect(name, near), acceptor.accept(far));
        let (mut client, (mut server, _)) = (client.unwrap(), server.unwrap());
        exchange(&mut client, &mut server).await;
        assert_eq!(client.get_ref().1.tls13_tickets_received(), 0);
        assert_eq!(server.session().handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn r32_our_client_resumes_nothing_even_when_given_tickets() {
    let ca = Ca::root("root");
    let (web, api) = (ca.credentials(&id("web")), ca.credentials(&id("api")));
    let mut config = config::server(&api, ClientAuth::Required, H2);
    config.send_tls13_tickets = 4;
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(64);
    let stock = TlsAcceptor::from(Arc::new(config));
    let connector = connector(&web);
    for _ in 0..3 {
        let (near, far) = duplex(4096);
        let expected = id("api");
        let (client, server) = tokio::join!(connector.connect(near, &expected), stock.accept(far));
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        exchange(&mut client, &mut server).await;
        assert!(server.get_ref().1.handshake_kind().is_some());
        assert_eq!(client.session().handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn the_futures_of_a_handshake_stay_small() {
    let ca = Ca::root("root");
    let credentials = ca.credentials(&id("web"));
    let (acceptor, connector) = (acceptor(&credentials), connector(&credentials));
    let (near, far) = duplex(64);
    let expected = id("api");
    let (accept, connect) = (acceptor.accept(far), connector.connect(near, &expected));
    let sizes = (size_of_val(&accept), size_of_val(&connect));
    assert!(sizes.0 <= 6 * 1024 && sizes.1 <= 6 * 1024, "{sizes:?}");
}
