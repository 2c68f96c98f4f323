//! CONNECT on HTTP/1: a request that makes its connection a stream of bytes, through sidecars on both sides.
//!
//! Invariant: the end of each side is carried by itself.
//! Non-goal: WebSocket; the conversation matrix has it.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};

use mesh_tests::client::PATIENCE;
use mesh_tests::mesh::{App, Mesh};
use mesh_tests::netns::Host;
use mesh_tests::raw;

use super::{APP, mesh, pairs};

/// `early` goes out together with the request, `late` after the answer; then the client's side ends. Head and bytes.
fn connect(host: &Host, addr: SocketAddr, early: &[u8], late: &[u8]) -> io::Result<(String, Vec<u8>)> {
    let mut stream = host.enter(|| TcpStream::connect_timeout(&addr, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = b"CONNECT far.test:443 HTTP/1.1\r\nhost: far.test:443\r\n\r\n";
    stream.write_all(&[request, early].concat())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let mut writer = stream.try_clone()?;
    let late = late.to_owned();
    let sent = std::thread::spawn(move || writer.write_all(&late).and_then(|()| writer.shutdown(Shutdown::Write)));
    let mut echo = Vec::new();
    stream.read_to_end(&mut echo)?;
    sent.join().expect("no panic")?;
    Ok((String::from_utf8_lossy(&head).into_owned(), echo))
}

#[test]
fn connect_becomes_bytes_both_ways_and_each_end_is_carried() {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    mesh.workload("outsider").plain().add();
    mesh.workload("web").of("web").app(App::demo("demo-http", APP, &[])).add();
    mesh.workload("legacy").of("legacy").plain().app(App::demo("demo-http", APP, &[])).add();
    let pairs = pairs(&mut mesh, APP);
    mesh.start();
    let large = vec![b'z'; 500_000];
    for (client, addr) in pairs {
        for (early, late) in [(&b""[..], &b"after the answer"[..]), (b"with the request", b""), (b"\x16\x03", &large)] {
            let what = format!("{client} to {addr}, {} and {} bytes", early.len(), late.len());
            let result = connect(&mesh.get(client).host, addr, early, late);
            let (head, echo) = result.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(raw::status(head.as_bytes()), Some(200), "{what}: {head}");
            // RFC 9110 9.3.6: an answer of 2xx to CONNECT has neither.
            let lower = head.to_lowercase();
            assert!(!lower.contains("content-length") && !lower.contains("transfer-encoding"), "{what}: {head}");
            assert!(echo == [early, late].concat(), "{what}: {} bytes came back", echo.len());
        }
    }
    let mutual = [("direction", "outbound"), ("tls", "mutual")];
    assert_eq!(mesh.get("client").metric("mesh_tcp_connections_opened_total", &mutual).to_bits(), 3f64.to_bits());
}

#[test]
fn a_connect_or_upgrade_that_the_app_refuses_stays_http() {
    let mut mesh = mesh();
    let pairs = pairs(&mut mesh, APP);
    let refuse = |mut conversation: raw::Conversation| {
        conversation.head()?;
        conversation.say(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno\n")
    };
    let _servers = ["web", "legacy"].map(|name| raw::Server::start(&mesh.get(name).host, APP, refuse));
    mesh.start();
    let requests = ["CONNECT far.test:443 HTTP/1.1\r\n", "GET /up HTTP/1.1\r\nupgrade: far\r\nconnection: upgrade\r\n"];
    let mut failures = Vec::new();
    for (client, addr) in pairs {
        for request in requests {
            let whole = format!("{request}host: far.test:443\r\nconnection: close\r\n\r\n");
            let answer = raw::send(&mesh.get(client).host, addr, whole.as_bytes()).expect("an answer");
            let text = String::from_utf8_lossy(&answer);
            if raw::status(&answer) != Some(403) || !text.ends_with("\r\n\r\nno\n") {
                failures.push(format!("{client} to {addr}, {request:?}: {text:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
