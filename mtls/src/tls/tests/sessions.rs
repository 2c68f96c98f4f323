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
    let mut config = stock_client(&web);
    config.resumption = Resumption::in_memory_sessions(8);
    for _ in 0..3 {
        let (mut client, mut server) = with_stock_client(&config, &acceptor(&api)).await;
        exchange(&mut client, &mut server).await;
        assert_eq!(client.get_ref().1.tls13_tickets_received(), 0);
        assert_eq!(client.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn r32_our_client_resumes_nothing_even_when_given_tickets() {
    let ca = Ca::root("root");
    let (web, api) = (ca.credentials(&id("web")), ca.credentials(&id("api")));
    let mut config = stock_server(&api);
    config.send_tls13_tickets = 4;
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(64);
    let connector = connector(&web);
    for _ in 0..3 {
        let (mut client, mut server) = with_stock_server(&connector, &config).await;
        exchange(&mut client, &mut server).await;
        assert_eq!(server.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
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
