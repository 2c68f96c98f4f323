//! Channels and listeners over real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_proto::identity::CertifyRequest;
use mesh_proto::identity::identity_client::IdentityClient;
use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::Code;

use super::places::{MAX_HANDSHAKES, PATIENCE, SHARE};
use super::*;
use crate::credentials::Credentials;
use crate::testing::authority::Authority;
use crate::testing::{Ca, id, until};
use crate::tls;

fn request() -> CertifyRequest {
    let csr = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap();
    CertifyRequest { csr_der: csr.der().to_vec().into(), ..CertifyRequest::default() }
}

async fn call(channel: Channel) -> Result<(), tonic::Status> {
    IdentityClient::new(channel).certify(request()).await.map(|_| ())
}

fn connector(ca: &Ca) -> Connector {
    Connector::new(ca.credentials(&id("web")), &[])
}

#[tokio::test]
async fn a_service_finds_who_calls_in_the_request() {
    let ca = Ca::root("root");
    let (known, unknown) = (connector(&ca), Connector::anonymous(Credentials::new(ca.anchors()), &[]));
    let authority = Authority::start(ca).await;
    for connector in [known, unknown] {
        call(channel(&authority.addr().to_string(), id("identity"), connector)).await.unwrap();
    }
    let seen = authority.seen().borrow().clone();
    assert_eq!(seen[0].peer.id, Some(id("web")));
    assert_eq!(seen[1].peer.id, None);
    assert!(seen.iter().all(|seen| seen.peer.addr.ip().is_loopback()), "{seen:?}");
}

#[tokio::test]
async fn a_server_that_is_somebody_else_gets_no_request() {
    let ca = Ca::root("root");
    let connector = connector(&ca);
    let authority = Authority::start(ca).await;
    let status = call(channel(&authority.addr().to_string(), id("destination"), connector)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(tls::reason_in(&status), Some("identity_mismatch"), "{status:?}");
    assert!(authority.seen().borrow().is_empty());
}

#[tokio::test]
async fn a_channel_connects_again_after_the_server_was_away() {
    let ca = Ca::root("root");
    let connector = connector(&ca);
    let mut authority = Authority::stopped(ca).await;
    let channel = channel(&authority.addr().to_string(), id("identity"), connector);
    assert_eq!(call(channel.clone()).await.unwrap_err().code(), Code::Unavailable);
    for _ in 0..3 {
        authority.restart().await;
        // The first call after a restart may meet the connection that has just died.
        if call(channel.clone()).await.is_err() {
            call(channel.clone()).await.unwrap();
        }
        authority.stop().await;
        assert!(call(channel.clone()).await.is_err());
    }
}

#[tokio::test]
async fn all_addresses_of_a_name_are_tried() {
    let ca = Ca::root("root");
    let connector = connector(&ca);
    let authority = Authority::start(ca).await; // on IPv4 only, where localhost is often IPv6 as well
    for _ in 0..8 {
        let name = format!("localhost:{}", authority.addr().port());
        call(channel(&name, id("identity"), connector.clone())).await.unwrap();
    }
}

#[tokio::test]
async fn an_address_that_names_nothing_is_an_error_of_the_call() {
    let ca = Ca::root("root");
    for addr in ["", "no-port", "host:port", "127.0.0.1:99999"] {
        let status = call(channel(addr, id("identity"), connector(&ca))).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{addr:?}");
    }
}

#[tokio::test]
async fn a_channel_without_a_certificate_says_so() {
    let ca = Ca::root("root");
    let connector = Connector::new(Credentials::new(ca.anchors()), &[]);
    let authority = Authority::start(ca).await;
    let status = call(channel(&authority.addr().to_string(), id("identity"), connector)).await.unwrap_err();
    assert_eq!(tls::reason_in(&status), Some("no_certificate"), "{status:?}");
}

#[tokio::test]
async fn strangers_are_counted_and_stop_nobody() {
    let ca = Ca::root("root");
    let connector = connector(&ca);
    let authority = Authority::start(ca).await;
    let mut stranger = TcpStream::connect(authority.addr()).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stranger.read_to_end(&mut answer).await; // an alert, then the end or a reset
    until(&mut authority.refused(), |reasons| reasons.contains(&"protocol")).await;
    call(channel(&authority.addr().to_string(), id("identity"), connector)).await.unwrap();
}

#[tokio::test]
async fn silent_clients_in_all_handshake_places_give_way_to_others() {
    let ca = Ca::root("root");
    let connector = connector(&ca);
    let authority = Authority::start(ca).await;
    let started = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(authority.addr()).await.unwrap());
    }
    call(channel(&authority.addr().to_string(), id("identity"), connector)).await.unwrap();
    let waited = started.elapsed();
    assert!(waited < tls::Settings::default().handshake_timeout, "waited for the time limit: {waited:?}");
    until(&mut authority.refused(), |reasons| reasons.len() >= 45).await;
    assert!(authority.refused().borrow().iter().all(|reason| *reason == "timeout"));
}

/// A connection from an address of our own choosing.
async fn from(source: [u8; 4], addr: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.connect(addr).await.unwrap()
}

#[tokio::test]
async fn a_flood_of_silent_clients_from_one_address_delays_no_other_one() {
    const FLOOD: usize = 2000;
    let ca = Ca::root("root");
    let connector = connector(&ca).with_alpn(ALPN);
    let authority = Authority::start(ca).await;
    let addr = authority.addr();
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(from([127, 0, 0, 2], addr).await);
    }
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let flood = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_micros(500));
        while silent.len() < FLOOD && stopped.try_recv().is_err() {
            tick.tick().await;
            silent.push(from([127, 0, 0, 2], addr).await);
        }
    });
    let mut waits = Vec::new();
    for _ in 0..11 {
        let started = Instant::now();
        let tcp = from([127, 0, 0, 3], addr).await;
        connector.connect(tcp, &id("identity")).await.unwrap();
        waits.push(started.elapsed());
    }
    drop(stop);
    flood.await.unwrap();
    // The middle one, for this machine may be busy with other things as well.
    waits.sort_unstable();
    assert!(waits[waits.len() / 2] < PATIENCE, "{waits:?}");
}

#[tokio::test]
async fn a_place_that_comes_free_is_used() {
    let ca = Ca::root("root");
    let connector = connector(&ca).with_alpn(ALPN);
    let authority = Authority::start(ca).await;
    let mut silent = Vec::new();
    // Eight sources with their share each: nobody has to give way before its time.
    for n in 0..MAX_HANDSHAKES {
        silent.push(from([127, 0, 1, u8::try_from(n / SHARE).unwrap()], authority.addr()).await);
    }
    // One more, which has to wait unless this machine was slower than the others' patience.
    let (waiting, expected) = (from([127, 0, 2, 1], authority.addr()).await, id("identity"));
    let handshake = connector.connect(waiting, &expected);
    let (stream, ()) = tokio::join!(handshake, async {
        tokio::task::yield_now().await;
        drop(silent);
    });
    stream.unwrap();
}
