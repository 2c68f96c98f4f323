//! Where the handshake ends and records of our own begin, which may be within one segment.

use std::io;

use rustls::{ClientConnection, ServerConnection};

use super::*;

/// All that a plain session of rustls has to send.
fn flight<Data>(session: &mut rustls::ConnectionCommon<Data>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// A client up to its last flight, which has `hello` and the end of the session behind it.
async fn last_flight(web: &Credentials, near: &mut DuplexStream) -> Vec<u8> {
    let name = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let mut client = ClientConnection::new(Arc::new(stock_client(web)), name).unwrap();
    let mut received = vec![0; 1 << 14];
    while client.is_handshaking() {
        near.write_all(&flight(&mut client)).await.unwrap();
        let n = near.read(&mut received).await.unwrap();
        client.read_tls(&mut &received[..n]).unwrap();
        client.process_new_packets().unwrap();
    }
    io::Write::write_all(&mut client.writer(), b"hello").unwrap();
    client.send_close_notify();
    flight(&mut client)
}

#[tokio::test]
async fn what_follows_a_clients_last_flight_is_read_wherever_it_is_cut() {
    let ca = Ca::root("root");
    let (web, api) = (ca.credentials(&id("web")), ca.credentials(&id("api")));
    let mut from_end = 0;
    loop {
        let (mut near, far) = duplex(1 << 16);
        let acceptor = acceptor(&api);
        let accepted = tokio::spawn(async move { acceptor.accept(far).await });
        let flight = last_flight(&web, &mut near).await;
        let Some(cut) = flight.len().checked_sub(from_end) else { break };
        near.write_all(&flight[..cut]).await.unwrap();
        tokio::task::yield_now().await;
        near.write_all(&flight[cut..]).await.unwrap();
        let (mut server, _) = accepted.await.unwrap().unwrap();
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"hello", "cut {from_end} bytes before its end");
        // Each place in the records, and some in the flight.
        from_end += if from_end < 80 { 1 } else { 97 };
    }
}

#[tokio::test]
async fn what_a_server_says_behind_its_flight_is_read() {
    let ca = Ca::root("root");
    let issued = ca.issue(&Template::of(&id("api")));
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let mut config = builder.with_no_client_auth().with_cert_resolver(fixed(&issued));
    (config.alpn_protocols, config.send_half_rtt_data) = (owned(H2).to_vec(), true);
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();

    let (near, mut far) = duplex(1 << 16);
    let connector = connector(&ca.credentials(&id("web")));
    let connected = tokio::spawn(async move { connector.connect(near, &id("api")).await });
    let mut received = vec![0; 1 << 14];
    let n = far.read(&mut received).await.unwrap();
    server.read_tls(&mut &received[..n]).unwrap();
    server.process_new_packets().unwrap();
    io::Write::write_all(&mut server.writer(), b"early").unwrap();
    far.write_all(&flight(&mut server)).await.unwrap();
    let mut client = connected.await.unwrap().unwrap();
    let mut heard = [0; 5];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"early");
}
