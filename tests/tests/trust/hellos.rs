//! ClientHellos in every shape that TCP and TLS allow: at the tunnel's port they are understood or refused, at an app's port
//! they pass through byte for byte.
//!
//! Invariant: rustls makes the hello, the test decides how it is cut into segments and records.
//! Non-goal: damage within the hello; `detect` has fuzzed tests of its own.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use mesh_tests::client::{PATIENCE, tcp};
use mesh_tests::mesh::{INBOUND_PORT, Mesh};
use mesh_tests::netns::{Host, until};
use mesh_tests::raw::Server;
use mesh_tests::yardstick::{Bystander, Vitals, Who, record};
use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::certs::{Authority, Shown, leaf};
use crate::chains::CLIENT;
use crate::mesh;

const SOON: Duration = Duration::from_secs(20);
/// An app that speaks a TLS of its own.
const FOREIGN: u16 = 8443;

/// How a hello is made, and how it is sent.
struct Shape {
    what: &'static str,
    groups: Groups,
    /// None: no name in the hello.
    name: Option<&'static str>,
    /// Names of protocols that nobody speaks, of 255 bytes each, before ours.
    padding: usize,
    send: fn(&mut TcpStream, &[u8]) -> io::Result<()>,
}

type Groups = &'static [&'static dyn SupportedKxGroup];

const ALL: Groups = &[X25519MLKEM768, X25519, SECP256R1];
const PQ: Groups = &[X25519MLKEM768];
const CURVE: Groups = &[X25519];
const NIST: Groups = &[SECP256R1];

fn whole(stream: &mut TcpStream, hello: &[u8]) -> io::Result<()> {
    stream.write_all(hello)
}

/// TCP_NODELAY is set, so each byte is a segment.
fn by_bytes(stream: &mut TcpStream, hello: &[u8]) -> io::Result<()> {
    hello.iter().try_for_each(|byte| stream.write_all(&[*byte]))
}

/// The one record as two.
fn in_two_records(stream: &mut TcpStream, hello: &[u8]) -> io::Result<()> {
    let (head, message) = hello.split_at(5);
    let (first, second) = message.split_at(7);
    for part in [first, second] {
        let length = u16::try_from(part.len()).map_err(io::Error::other)?.to_be_bytes();
        stream.write_all(&[&head[..3], &length, part].concat())?;
    }
    Ok(())
}

fn shapes() -> Vec<Shape> {
    let plain = || Shape { what: "plain", groups: ALL, name: None, padding: 0, send: whole };
    vec![
        Shape { what: "no name", ..plain() },
        Shape { what: "a foreign name", name: Some("shop.example"), ..plain() },
        Shape { what: "byte by byte", send: by_bytes, ..plain() },
        Shape { what: "two records", send: in_two_records, ..plain() },
        Shape { what: "16 KiB in one record", groups: CURVE, padding: 61, ..plain() },
        Shape { what: "17 KiB", padding: 62, ..plain() },
        Shape { what: "60 KiB", padding: 225, ..plain() },
        Shape { what: "16 KiB byte by byte", padding: 60, send: by_bytes, ..plain() },
        Shape { what: "a post-quantum group alone", groups: PQ, ..plain() },
        Shape { what: "X25519 alone", groups: CURVE, ..plain() },
        Shape { what: "P-256 alone", groups: NIST, ..plain() },
    ]
}

fn session(shape: &Shape, shown: &Shown) -> ClientConnection {
    let provider = CryptoProvider { kx_groups: shape.groups.to_vec(), ..aws_lc_rs::default_provider() };
    let provider = Arc::new(provider);
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let config = config.expect("TLS 1.3").dangerous().with_custom_certificate_verifier(tcp::anybody(provider));
    let mut config = config.with_client_cert_resolver(shown.resolver());
    config.enable_sni = shape.name.is_some();
    config.alpn_protocols = (0..shape.padding).map(|n| format!("{n:0255}").into_bytes()).collect();
    config.alpn_protocols.push(b"h2".to_vec());
    let name = ServerName::try_from(shape.name.unwrap_or("mesh")).expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a session")
}

/// The hello's bytes.
fn hello(session: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut bytes).expect("memory");
    }
    bytes
}

fn dial(host: &Host, addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = host.enter(|| TcpStream::connect_timeout(&addr, PATIENCE))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A handshake to its end, and the head of the server's first frame.
fn terminated(host: &Host, addr: SocketAddr, shape: &Shape, shown: &Shown) -> io::Result<[u8; 9]> {
    let mut session = session(shape, shown);
    let mut stream = dial(host, addr)?;
    (shape.send)(&mut stream, &hello(&mut session))?;
    while session.is_handshaking() {
        session.complete_io(&mut stream)?;
    }
    let mut head = [0; 9];
    rustls::Stream::new(&mut session, &mut stream).read_exact(&mut head)?;
    Ok(head)
}

fn handshakes(mesh: &Mesh, result: &str) -> f64 {
    mesh.get("web").metric("mesh_tls_handshakes_total", &[("direction", "inbound"), ("result", result)])
}

/// Hellos that nobody can make sense of.
fn broken(shown: &Shown) -> Vec<(&'static str, Vec<u8>)> {
    let good = hello(&mut session(&shapes()[0], shown));
    let mut long = good.clone();
    long[3..5].copy_from_slice(&[0xff, 0xff]);
    let mut other = good.clone();
    other[5] = 2;
    let alerts = [21, 3, 3, 0, 2, 1, 0].repeat(100);
    vec![
        ("cut off", good[..100].to_vec()),
        ("a record longer than a record can be", long),
        ("a ServerHello", other),
        ("an alert after a part", [&good[..60], &alerts].concat()),
        ("no records at all", [&[22][..], &[0xff; 600]].concat()),
        ("empty records without end", [22, 3, 1, 0, 0].repeat(2000)),
    ]
}

#[test]
fn r33_the_tunnel_understands_a_hello_in_every_shape_and_refuses_what_is_none() {
    let (mut mesh, service) = mesh();
    mesh.start();
    let bystander = Bystander::start(&mesh.get("client").host, service);
    let proxy = mesh.get("web").proxy().expect("a sidecar");
    let vitals = Vitals::of(proxy);
    let shown = Authority::of(&mesh.control().issuer_dir()).under("issuer").issue(&leaf(CLIENT));
    let (outsider, addr) = (&mesh.get("outsider").host, mesh.get("web").at(INBOUND_PORT)[0]);
    let (before, shapes) = (handshakes(&mesh, "ok"), shapes());
    for shape in &shapes {
        let head = terminated(outsider, addr, shape, &shown);
        // A SETTINGS frame on stream 0.
        assert!(head.as_ref().is_ok_and(|head| head[3] == 4), "{}: {head:?}", shape.what);
    }
    let opened = before + f64::from(u8::try_from(shapes.len()).expect("a few"));
    until(SOON, || handshakes(&mesh, "ok") >= opened);
    let broken = broken(&shown);
    for (what, bytes) in &broken {
        let mut stream = dial(outsider, addr).expect("a connection");
        // Who refuses need not read all.
        let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer[0] == 21, "{what}: {answer:?}");
    }
    let refused = || handshakes(&mesh, "protocol") + handshakes(&mesh, "io");
    until(SOON, || refused() >= f64::from(u8::try_from(broken.len()).expect("a few")));
    assert_eq!(refused(), f64::from(u8::try_from(broken.len()).expect("a few")));
    assert_eq!(mesh.get("web").metric("mesh_tcp_connections_opened_total", &[("direction", "inbound")]), 0.0);
    let beside = bystander.finish();
    vitals.finish(proxy, &[]);
    let figure = format!("{} shapes understood, {} refused, none passed on, {beside}", shapes.len(), broken.len());
    record(33, "the tunnel's port", Who::Mesh, true, &figure);
}

#[test]
fn r33_a_hello_for_an_app_passes_through_byte_for_byte() {
    let (mut mesh, _) = mesh();
    let service = mesh.service("foreign", 443, FOREIGN).over("web").add();
    mesh.start();
    let app = Server::start(&mesh.get("web").host, FOREIGN, |mut conversation| {
        while !conversation.read()?.is_empty() {}
        Ok(())
    });
    let shown = Authority::of(&mesh.control().issuer_dir()).under("issuer").issue(&leaf(CLIENT));
    let ways = [("outsider", mesh.get("web").at(FOREIGN)[0]), ("client", service.v4)];
    let mut sent = Vec::new();
    for (who, addr) in ways {
        for shape in &shapes() {
            let named = Shape { name: Some("shop.example"), ..*shape };
            let bytes = hello(&mut session(&named, &shown));
            let mut stream = dial(&mesh.get(who).host, addr).expect("a connection");
            (shape.send)(&mut stream, &bytes).expect("a connection that holds");
            stream.shutdown(std::net::Shutdown::Write).expect("a connection that holds");
            // The app closes when all has come.
            let answer = stream.read(&mut [0]);
            assert!(matches!(answer, Ok(0)), "{who}, {}: {answer:?}", shape.what);
            let received = app.received().last().cloned().unwrap_or_default();
            assert_eq!(received.len(), bytes.len() + if shape.what == "two records" { 5 } else { 0 }, "{}", shape.what);
            assert!(shape.what == "two records" || received == bytes, "{who}, {}: other bytes", shape.what);
            sent.push(bytes);
        }
    }
    // Where the mesh first sees them: a tunnel says that what it carries is opaque.
    let passed = |workload: &str, direction: &str| {
        mesh.get(workload).metric("mesh_tls_passthrough_connections_total", &[("direction", direction)])
    };
    let counted = passed("web", "inbound") + passed("client", "outbound");
    assert_eq!(counted, f64::from(u8::try_from(sent.len()).expect("a few")));
    record(
        33,
        "an app's port",
        Who::Mesh,
        true,
        &format!("{0} of {0} byte for byte, counted as foreign TLS", sent.len()),
    );
}
