//! The end of a sidecar, asked for with SIGTERM: what is under way finishes, and nobody is left without an answer.
//!
//! Invariant: conversations of each kind go on through the drain until they end by themselves.
//! Non-goal: the end of an app; that is between it and its clients.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mesh_tests::client::http::{Version, fetch};
use mesh_tests::client::load::Load;
use mesh_tests::client::{PATIENCE, within};
use mesh_tests::mesh::{Mesh, SOON};
use mesh_tests::netns::{Host, until};
use mesh_tests::yardstick::{Who, count, record};
use nix::sys::signal::Signal;

use super::conversations::{Conversations, Kind};
use super::{GRPC, HTTP, PAUSE, TCP, mesh, unharmed};

/// The default of MESH_SHUTDOWN_GRACE.
const GRACE: Duration = Duration::from_secs(30);

/// The beginning of an HTTP/2 connection, and kinds of frames.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

fn not_ready(mesh: &Mesh, name: &str) {
    until(SOON, || mesh.get(name).admin("GET", "/ready").is_ok_and(|(code, _)| code == 503));
}

/// The endpoints take turns. Each time everything lasts until both sides have seen the drain, then it ends in order.
#[test]
fn r54_server_sidecars_drain_in_turns_under_load_without_a_failed_request() {
    let (rounds, requests) = count((12, 20_000), (20, 100_000));
    const NAMES: [&str; 2] = ["web-1", "web-2"];
    let (mut mesh, http) = mesh(&NAMES);
    let grpc = mesh.service("web-grpc", GRPC, GRPC).over("web").add().v4;
    let tcp = mesh.service("web-tcp", TCP, TCP).over("web").add().v4;
    mesh.workload("outsider").plain().add();
    mesh.start();
    // Enough of each kind that both endpoints have some.
    let kinds =
        [(Kind::Http1, http), (Kind::Http2, http), (Kind::Grpc, grpc), (Kind::Tcp, tcp), (Kind::WebSocket, http)];
    let kinds: Vec<_> = kinds.into_iter().flat_map(|kind| [kind; 4]).collect();
    let load = Load::start(&mesh.get("client").host, http, 16, PAUSE);
    let (mut told, mut opened) = (0, 0);
    for (round, name) in (1..=rounds).zip(NAMES.into_iter().cycle()) {
        let conversations = Conversations::start(&mesh.get("client").host, &kinds);
        until(SOON, || conversations.least() >= 3);
        let streams = connections(&mesh, name);
        opened += streams.len();
        told += drain(&mut mesh, name, conversations, streams);
        // The one that stays has all of it for the rest of the round.
        let share = requests * round / rounds;
        until(6 * SOON, || load.answered() >= share);
        mesh.get_mut(name).proxy_mut().restart();
        mesh.get(name).until_proxy_ready();
    }
    let report = unharmed(load);
    assert!(report.answered >= requests, "only {} requests", report.answered);
    assert_eq!(told, opened, "HTTP/2 connections that were told with GOAWAY, of those that were open");
    println!("{rounds} rounds in {:?}, {told} of {opened} HTTP/2 connections told", report.elapsed);
    let each = report.elapsed.as_secs().max(1);
    let figure = format!(
        "{rounds} rounds, 0 of {} failed at {}/s, GOAWAY to {told} of {opened}",
        report.answered,
        report.answered / each
    );
    record(54, "server sidecars drained in turns", Who::Mesh, true, &figure);
}

/// HTTP/2 connections to a sidecar's app from a host without one, whose frames can be seen.
fn connections(mesh: &Mesh, name: &str) -> Vec<TcpStream> {
    let (outsider, [addr, _]) = (&mesh.get("outsider").host, mesh.get(name).at(HTTP));
    let streams = (0..8).map(|_| dial(outsider, addr, PREFACE));
    let mut streams: Vec<_> = streams.collect();
    for stream in &mut streams {
        assert_eq!(frame(stream).expect("a frame"), SETTINGS);
    }
    streams
}

/// Ends a sidecar that holds conversations, which go on until they end by themselves; how many of `streams` were told.
fn drain(mesh: &mut Mesh, name: &str, conversations: Conversations, streams: Vec<TcpStream>) -> usize {
    let held = mesh.get(name).metric("mesh_tcp_connections_open", &[("direction", "inbound")]);
    assert!(held > 0.0, "no lasting connection came to {name}, which is to end");
    let begin = Instant::now();
    mesh.get_mut(name).proxy_mut().signal(Signal::SIGTERM);
    not_ready(mesh, name);
    // It stays while conversations last, and they go on as before.
    let now = conversations.least();
    until(SOON, || conversations.least() >= now + 10);
    assert!(mesh.get_mut(name).proxy_mut().is_running(), "{name} ended while {held} connections were open");
    // Closed once told, as a client does that has nothing left to ask.
    let told = streams.into_iter().filter_map(|mut stream| {
        let mut kinds = std::iter::from_fn(|| frame(&mut stream).ok());
        kinds.find(|kind| *kind == GOAWAY)
    });
    let told = told.count();
    let broken = conversations.stop();
    assert!(broken.is_empty(), "{broken:#?}");
    let status = mesh.get_mut(name).proxy_mut().wait(GRACE);
    println!("{name} drained within {:?}", begin.elapsed());
    assert!(status.success() && begin.elapsed() <= GRACE, "{status} after {:?}", begin.elapsed());
    told
}

#[test]
fn r54_a_client_sidecar_finishes_what_is_in_flight() {
    let (mut mesh, addr) = mesh(&["web"]);
    mesh.start();
    let asked = |mesh: &Mesh| mesh.get("web").metric("mesh_http_requests_total", &[("direction", "inbound")]);
    let clients: Vec<_> = [Version::H1, Version::H2]
        .map(|version| {
            let host = mesh.get("client").host.clone();
            std::thread::spawn(move || within(&host, fetch(addr, version, "/bytes?n=1000&delay=6s")))
        })
        .into();
    until(SOON, || asked(&mesh) >= 2.0);
    let begin = Instant::now();
    mesh.get_mut("client").proxy_mut().signal(Signal::SIGTERM);
    not_ready(&mesh, "client");
    for client in clients {
        let answer = client.join().expect("no panic").expect("an answer");
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 1000));
    }
    let status = mesh.get_mut("client").proxy_mut().wait(GRACE);
    assert!(status.success() && begin.elapsed() <= GRACE, "{status} after {:?}", begin.elapsed());
}

/// A connection to a sidecar's app from a host without a sidecar, which lasts.
fn dial(host: &Host, addr: SocketAddr, hello: &[u8]) -> TcpStream {
    let mut stream = host.enter(|| TcpStream::connect_timeout(&addr, PATIENCE)).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.write_all(hello).expect("a live connection");
    stream
}

/// A head of HTTP/1.
fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    Ok(String::from_utf8_lossy(&head).to_lowercase())
}

/// The next frame of HTTP/2: its kind.
fn frame(stream: &mut TcpStream) -> io::Result<u8> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    stream.read_exact(&mut vec![0; usize::try_from(length).unwrap_or_default()])?;
    Ok(head[3])
}

#[test]
fn r54_clients_are_told_that_the_sidecar_is_about_to_end() {
    const REQUEST: &[u8] = b"GET /status/204 HTTP/1.1\r\nhost: web\r\n\r\n";
    let (mut mesh, _) = mesh(&["web"]);
    mesh.workload("outsider").plain().add();
    mesh.start();
    let outsider = mesh.get("outsider").host.clone();
    let [addr, _] = mesh.get("web").at(HTTP);
    let mut h2 = dial(&outsider, addr, PREFACE);
    assert_eq!(frame(&mut h2).expect("a frame"), SETTINGS);
    let mut h1 = dial(&outsider, addr, REQUEST);
    let kept = head(&mut h1).expect("an answer");
    assert!(kept.starts_with("http/1.1 204") && !kept.contains("connection: close"), "{kept}");
    mesh.get_mut("web").proxy_mut().signal(Signal::SIGTERM);
    not_ready(&mesh, "web");
    // The last request of a connection that was kept open is answered, and is the last.
    h1.write_all(REQUEST).expect("a live connection");
    let last = head(&mut h1).expect("an answer");
    assert!(last.starts_with("http/1.1 204") && last.contains("connection: close"), "{last}");
    assert_eq!(h1.read(&mut [0]).expect("an end"), 0);
    let frames: Vec<_> = std::iter::from_fn(|| frame(&mut h2).ok()).collect();
    assert!(frames.contains(&GOAWAY), "{frames:?}");
    drop(h2);
    assert!(mesh.get_mut("web").proxy_mut().wait(GRACE).success());
}

#[test]
fn r54_the_grace_is_a_bound_and_a_second_signal_ends_at_once() {
    let mut mesh = Mesh::new();
    mesh.workload("outsider").plain().add();
    for (name, grace) in [("patient", "30s"), ("hasty", "1s")] {
        let app = mesh_tests::mesh::App::demo("demo-greet", TCP, &["--mode=echo"]);
        mesh.workload(name).of("web").env("MESH_SHUTDOWN_GRACE", grace).app(app).add();
    }
    mesh.start();
    let outsider = mesh.get("outsider").host.clone();
    let hold = |mesh: &Mesh, name: &str| {
        let mut stream = dial(&outsider, mesh.get(name).at(TCP)[0], b"\x00echo");
        stream.read_exact(&mut [0; 5]).expect("an echo");
        stream
    };
    let _patient = hold(&mesh, "patient");
    let _hasty = hold(&mesh, "hasty");
    for name in ["patient", "hasty"] {
        mesh.get_mut(name).proxy_mut().signal(Signal::SIGTERM);
    }
    not_ready(&mesh, "patient");
    // Within the grace, and not long after it.
    mesh.get_mut("hasty").proxy_mut().wait(Duration::from_secs(5));
    assert!(mesh.get_mut("patient").proxy_mut().is_running(), "ended while a connection was open");
    mesh.get_mut("patient").proxy_mut().signal(Signal::SIGTERM);
    mesh.get_mut("patient").proxy_mut().wait(Duration::from_secs(2));
}
