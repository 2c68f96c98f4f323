//! Sources that ask for too much.
//!
//! Invariant: each source has a loopback address of its own. Non-goal: floods below gRPC.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use mesh_mtls::anchors::Anchors;
use mesh_mtls::credentials::Credentials;
use mesh_mtls::grpc;
use mesh_mtls::tls::Connector;
use mesh_proto::identity::identity_client::IdentityClient;
use mesh_tests::yardstick::{Process, Who, count, log_is_safe, record};
use tokio::net::TcpSocket;
use tokio::time::interval;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::server::{Home, OWN, SOON, Server, WEB, certify, code, plain_csr};

#[tokio::test]
async fn r46_one_source_cannot_use_up_what_others_may_ask() {
    let home = Home::new();
    let (token, csr) = (home.token(WEB), plain_csr(WEB));
    let server = home.start(&["--source-rate", "1", "--source-burst", "5"]);
    let mut greedy = server.client();
    let mut codes = Vec::new();
    for _ in 0..50 {
        codes.push(code(&certify(&mut greedy, "wrong", WEB, &csr).await));
    }
    let judged = codes.iter().filter(|code| **code == Code::Unauthenticated).count();
    let limited = codes.iter().filter(|code| **code == Code::ResourceExhausted).count();
    assert!(judged >= 5 && limited >= 30 && judged + limited == 50, "{codes:?}");
    let answer = certify(&mut client_from(&server, &home, "127.0.0.2:0"), &token, WEB, &csr).await;
    assert_eq!(code(&answer), Code::Ok);
}

/// A client with an address of its own.
fn client_from(server: &Server, home: &Home, source: &str) -> IdentityClient<Channel> {
    let anchors = Anchors::from_pem(&fs::read(home.path("ca/anchors.pem")).unwrap()).unwrap();
    let connector = Connector::anonymous(Credentials::new(anchors), grpc::ALPN);
    let (source, target): (SocketAddr, SocketAddr) = (source.parse().unwrap(), server.addr);
    let dial = tower::service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind(source)?;
            let tcp = socket.connect(target).await?;
            tcp.set_nodelay(true)?;
            let stream = connector.connect(tcp, &OWN.parse().unwrap()).await;
            stream.map(TokioIo::new).map_err(std::io::Error::other)
        }
    });
    IdentityClient::new(Endpoint::from_static("http://identity").connect_with_connector_lazy(dial))
}

// The flood shall not wait for the good client's processor, nor the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r46_a_flood_of_bad_requests_delays_no_good_one() {
    let duration: Duration = count(Duration::from_secs(3), Duration::from_secs(60));
    let home = Home::new();
    let (token, csr) = (home.token(WEB), plain_csr(WEB));
    let server = home.start(&[]);
    let idle = anonymous(&server);
    // A good token, so that what is within the rate costs a signature to verify.
    let (mut forged, bad_token) = (csr.clone(), token.clone());
    *forged.last_mut().unwrap() ^= 1;
    let attacker = client_from(&server, &home, "127.0.0.3:0");
    let flood = tokio::spawn(async move {
        let mut tick = interval(Duration::from_millis(1));
        let mut asked = tokio::task::JoinSet::new();
        for _ in 0..duration.as_millis() {
            tick.tick().await;
            let (mut client, token, csr) = (attacker.clone(), bad_token.clone(), forged.clone());
            asked.spawn(async move { code(&certify(&mut client, token, WEB, &csr).await) });
        }
        asked.join_all().await
    });
    let mut good = client_from(&server, &home, "127.0.0.2:0");
    let mut waited = Vec::new();
    let mut tick = interval(Duration::from_millis(100));
    for _ in 0..duration.as_millis() / 100 {
        tick.tick().await;
        let asked = Instant::now();
        certify(&mut good, &token, WEB, &csr).await.unwrap();
        waited.push(asked.elapsed());
    }
    let codes = flood.await.unwrap();
    assert_eq!(codes.len() as u128, duration.as_millis());
    // UNAVAILABLE: a stream beyond those that one connection may have, refused before it is read.
    let refused = |code: &&Code| matches!(code, Code::InvalidArgument | Code::ResourceExhausted | Code::Unavailable);
    let other: Vec<_> = codes.iter().filter(|code| !refused(code)).collect();
    assert!(other.is_empty(), "{} others, first {:?}", other.len(), other.first());
    waited.sort_unstable();
    let p99 = waited[waited.len() * 99 / 100];
    assert!(p99 < count(Duration::from_secs(5), Duration::from_secs(1)), "{p99:?}");
    let grown = anonymous(&server).saturating_sub(idle);
    assert!(grown <= 16 * 1024, "{grown} KiB more than the {idle} KiB while idle");
    log_is_safe("identity", &server.process.output(), &[&token]);
    let figure = format!(
        "{} bad at 1,000/s refused, {} good at 10/s: p99 {p99:.0?}, {grown} KiB more",
        codes.len(),
        waited.len()
    );
    record(46, "a flood of bad requests", Who::Mesh, true, &figure);
}

/// A bare HTTP/2 connection.
async fn connection(server: &Server) -> (h2::client::SendRequest<Bytes>, h2::client::Connection<Tls, Bytes>) {
    let anchors = Anchors::from_pem(&fs::read(server.anchors()).unwrap()).unwrap();
    let connector = Connector::anonymous(Credentials::new(anchors), grpc::ALPN);
    let tcp = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let tls = connector.connect(tcp, &OWN.parse().unwrap()).await.unwrap();
    h2::client::handshake(tls).await.unwrap()
}

type Tls = mesh_mtls::tls::Stream<tokio::net::TcpStream>;

fn certify_head() -> http::Request<()> {
    let head = http::Request::post("http://identity/mesh.identity.v1.Identity/Certify");
    head.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

/// The beginning of a message of `announced` bytes: no compression, the length, and `sent` bytes of it.
fn beginning(announced: u32, sent: usize) -> Bytes {
    [&[0][..], &announced.to_be_bytes(), &vec![0; sent]].concat().into()
}

#[tokio::test]
async fn r46_what_strangers_leave_unfinished_costs_little_memory() {
    let home = Home::new();
    home.token(WEB);
    let server = home.start(&[]);
    let (mut client, mut connection) = connection(&server).await;
    let mut pings = connection.ping_pong().unwrap();
    let connection = tokio::spawn(connection);
    // More than a message may have is refused by its announcement; after that the server's settings are known.
    let (answer, mut body) = client.send_request(certify_head(), false).unwrap();
    body.send_data(beginning(24 * 1024 + 1, 0), false).unwrap();
    let answer = tokio::time::timeout(SOON, answer).await.expect("does not wait for the rest").unwrap();
    assert_eq!(answer.headers()["grpc-status"], "11", "{answer:?}");
    drop(body);
    let streams = client.current_max_send_streams();
    assert_eq!(streams, 4, "at a time");
    let idle = anonymous(&server);
    let mut unfinished = Vec::new();
    for _ in 0..streams {
        client = client.ready().await.unwrap();
        let (answer, mut body) = client.send_request(certify_head(), false).unwrap();
        body.send_data(beginning(24 * 1024, 23 * 1024), false).unwrap();
        unfinished.push((answer, body));
    }
    pings.ping(h2::Ping::opaque()).await.unwrap(); // the server has read what came before
    let grown = anonymous(&server).saturating_sub(idle);
    assert!(grown <= 1024, "{grown} KiB");
    drop(unfinished);
    connection.abort();
}

/// KiB.
fn anonymous(server: &Server) -> u64 {
    Process(server.process.id()).anonymous()
}
