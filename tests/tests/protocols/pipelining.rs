//! Requests that come before the answers to those in front of them.
//!
//! Invariant: all of them leave the client in one write.
//! Non-goal: whether the sidecar asks the app one by one or at once.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use http::StatusCode;
use mesh_tests::client::PATIENCE;
use mesh_tests::mesh::Mesh;
use mesh_tests::raw;

use super::{APP, mesh, pairs};

/// Status and length of each answer, in order; all bodies are made of `x`.
fn answers(bytes: &[u8]) -> Vec<(u16, usize)> {
    let text = String::from_utf8_lossy(bytes);
    let parts = text.split("HTTP/1.1 ").skip(1);
    let answer = |part: &str| {
        let body = part.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (part[..3].parse().unwrap_or_default(), body.len())
    };
    parts.map(answer).collect()
}

fn with_app(mesh: &mut Mesh) {
    use mesh_tests::mesh::App;
    mesh.workload("client").service_account("client").add();
    mesh.workload("outsider").plain().add();
    mesh.workload("web").of("web").app(App::demo("demo-http", APP, &[])).add();
    mesh.workload("legacy").of("legacy").plain().app(App::demo("demo-http", APP, &[])).add();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut mesh = Mesh::new();
    with_app(&mut mesh);
    let pairs = pairs(&mut mesh, APP);
    mesh.start();
    // The first takes longest: whoever answers as it comes mixes them up.
    let paths = ["/bytes?n=11&delay=200ms", "/bytes?n=22&delay=50ms", "/bytes?n=33"];
    let mut requests: String = paths.map(|path| format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n")).concat();
    requests.insert_str(requests.len() - 2, "connection: close\r\n");
    for (client, addr) in pairs {
        let answer = raw::send(&mesh.get(client).host, addr, requests.as_bytes()).expect("answers");
        let found = answers(&answer);
        assert_eq!(
            found,
            [(200, 11), (200, 22), (200, 33)],
            "{client} to {addr}: {}",
            String::from_utf8_lossy(&answer)
        );
    }
}

#[test]
fn bodies_of_pipelined_requests_stay_with_their_requests() {
    let mut mesh = mesh();
    let pairs = pairs(&mut mesh, APP);
    let serve = |mut conversation: raw::Conversation| loop {
        let head = conversation.head()?.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        let body = conversation.take(length.unwrap_or(0))?;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        conversation.say(&[answer.as_bytes(), &body].concat())?;
    };
    let servers = ["web", "legacy"].map(|name| raw::Server::start(&mesh.get(name).host, APP, serve));
    mesh.start();
    let post = |body: &str, more: &str| {
        format!("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: {}\r\n{more}\r\n{body}", body.len())
    };
    // One body looks like a request, which it must never become.
    let inner = "GET /inner HTTP/1.1\r\nhost: web\r\n\r\n";
    let requests = [post("one", ""), post(inner, ""), post("three", "connection: close\r\n")].concat();
    for (client, addr) in pairs {
        let answer = raw::send(&mesh.get(client).host, addr, requests.as_bytes()).expect("answers");
        let text = String::from_utf8_lossy(&answer);
        let bodies: Vec<_> =
            text.split("HTTP/1.1 200 OK\r\n").skip(1).filter_map(|part| part.split_once("\r\n\r\n")).collect();
        let bodies: Vec<_> = bodies.iter().map(|(_, body)| *body).collect();
        assert_eq!(bodies, ["one", inner, "three"], "{client} to {addr}: {text}");
    }
    let heads: usize = servers.iter().flat_map(raw::Server::received).map(|bytes| count(&bytes, b"POST / ")).sum();
    assert_eq!(heads, 3 * pairs.len());
}

fn count(bytes: &[u8], pattern: &[u8]) -> usize {
    bytes.windows(pattern.len()).filter(|window| *window == pattern).count()
}

#[test]
fn what_follows_an_upgrade_that_is_refused_is_a_request_again_unless_it_came_too_early() {
    const UPGRADE: &str = "GET /ws HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    const NEXT: &str = "GET /bytes?n=44 HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
    let mut mesh = Mesh::new();
    with_app(&mut mesh);
    let pairs = pairs(&mut mesh, APP);
    mesh.start();
    // Without a key it is no WebSocket handshake: 426, and HTTP goes on.
    let refused = (StatusCode::UPGRADE_REQUIRED.as_u16(), "WebSocket only\n".len());
    for (client, addr) in pairs {
        let host = &mesh.get(client).host;
        let answer = host.enter(|| -> io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(UPGRADE.as_bytes())?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"WebSocket only\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                answer.extend(byte);
            }
            stream.write_all(NEXT.as_bytes())?;
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        });
        let answer = answer.expect("answers");
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(answers(&answer), [refused, (200, 44)], "{client} to {addr}: {text}");
        // Sent without knowing whether it would be a request or the other protocol's bytes.
        let early = raw::send(host, addr, [UPGRADE, NEXT].concat().as_bytes()).expect("answers");
        let found = answers(&early);
        let text = String::from_utf8_lossy(&early);
        assert_eq!((found[0], found[1].0, found.len()), (refused, 400, 2), "{client} to {addr}: {text}");
    }
}
