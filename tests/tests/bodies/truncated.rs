//! Messages that break off: the receiver sees an error, never a shorter message that looks whole.
//!
//! Invariant: each message is cut at 20 offsets from its first byte to its last but one, by FIN and by RST.
//! Non-goal: which error; a client library has a name of its own for each.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mesh_tests::attacks::truncated::{Cut, Framing, PIECE, PIECES, Plan, cut_everywhere, offsets, server};
use mesh_tests::client::http::{Version, fetch};
use mesh_tests::client::{PATIENCE, within};
use mesh_tests::mesh::SOON;
use mesh_tests::netns::{Host, until};
use mesh_tests::raw::Server;
use mesh_tests::yardstick::{Who, record};
use socket2::SockRef;

use super::{APP, mesh, verdict};

const FRAMINGS: [Framing; 3] = [Framing::Length, Framing::Chunked, Framing::Http2];

#[test]
fn r58_a_truncated_response_is_an_error_for_the_client() {
    let (mut mesh, addr) = mesh();
    mesh.workload("outsider").plain().add();
    let (_server, plan) = server(&mesh.get("web").host, APP);
    mesh.start();
    let inbound = mesh.get("web").at(APP)[0];
    for (way, client, addr) in [("inbound", "outsider", inbound), ("both sidecars", "client", addr)] {
        let (tried, findings) = cut_everywhere(&mesh.get(client).host, addr, &plan, &FRAMINGS);
        let figure = format!("{} of {tried} cuts were errors for the client", tried - findings.len());
        record(58, way, Who::Mesh, findings.is_empty(), &figure);
        verdict(tried, &findings);
    }
}

/// What a client of HTTP/1.0 reads before FIN, or the error that it sees.
fn http_1_0(host: &Host, addr: SocketAddr) -> io::Result<Vec<u8>> {
    host.enter(|| {
        let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: web\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    })
}

#[test]
fn r58_a_response_up_to_the_end_of_the_connection_ends_as_the_server_ended_it() {
    let (mut mesh, addr) = mesh();
    let (_server, plan) = server(&mesh.get("web").host, APP);
    mesh.start();
    let client = &mesh.get("client").host;
    let whole = Framing::Close.answer();
    let head = whole.len() - PIECES * PIECE.len();
    let mut findings = Vec::new();
    let cuts: Vec<_> = offsets(whole.len() - head).map(|offset| head + offset).collect();
    for offset in &cuts {
        for cut in [Cut::Fin, Cut::Rst] {
            let next = Plan { framing: Framing::Close, offset: *offset, cut };
            *plan.lock().expect("no panic") = next;
            // FIN is the end as it should be: all bytes arrive. RST is a break.
            let new =
                within(client, fetch(addr, Version::H1, "/")).map(|answer| (answer.status.as_u16(), answer.body.len()));
            let old = http_1_0(client, addr).map(|answer| {
                let body = answer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| answer.len() - at - 4);
                (mesh_tests::raw::status(&answer).unwrap_or_default(), body.unwrap_or_default())
            });
            for (client, seen) in [("HTTP/1.1", new), ("HTTP/1.0", old)] {
                let right = match (cut, &seen) {
                    (Cut::Fin, Ok(seen)) => *seen == (200, offset - head),
                    (Cut::Rst, Ok((status, _))) => *status >= 500,
                    (Cut::Rst, Err(error)) => error.kind() != io::ErrorKind::WouldBlock,
                    (Cut::Fin, Err(_)) => false,
                };
                if !right {
                    findings.push(format!("{client}, {next:?}: {seen:?}"));
                }
            }
        }
    }
    verdict(4 * cuts.len(), &findings);
}

/// Requests of 6,000 bytes that break off in the middle.
const UPLOADS: [(&str, &str, Cut); 4] = [
    ("content-length: 6000", "", Cut::Fin),
    ("content-length: 6000", "", Cut::Rst),
    ("transfer-encoding: chunked", "3e8\r\n", Cut::Fin),
    ("transfer-encoding: chunked", "3e8\r\n", Cut::Rst),
];

/// Sends the beginning of a request, and breaks it off once `arrived`.
fn upload(host: &Host, addr: SocketAddr, (framing, chunk, cut): (&str, &str, Cut), arrived: impl FnMut() -> bool) {
    let mut stream = host.enter(|| TcpStream::connect_timeout(&addr, PATIENCE)).expect("the way to the sidecar");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let head = format!("POST / HTTP/1.1\r\nhost: web\r\n{framing}\r\n\r\n{chunk}");
    stream.write_all(&[head.as_bytes(), &PIECE[..]].concat()).expect("a whole piece");
    until(SOON, arrived);
    match cut {
        // The mesh may answer, or just close.
        Cut::Fin => {
            stream.shutdown(Shutdown::Write).expect("an end");
            let _ = stream.read_to_end(&mut Vec::new());
        }
        Cut::Rst => SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a reset"),
    }
}

#[test]
fn r58_a_truncated_request_is_not_whole_for_the_app() {
    let (mut mesh, addr) = mesh();
    let ended = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ended);
    let server = Server::start(&mesh.get("web").host, APP, move |mut conversation| {
        let read = conversation.head().and_then(|_| {
            while !conversation.read()?.is_empty() {}
            Ok(())
        });
        counted.fetch_add(1, Ordering::Release);
        read
    });
    mesh.start();
    let mut findings = Vec::new();
    for (n, case) in UPLOADS.into_iter().enumerate() {
        let body = || {
            let text = String::from_utf8_lossy(server.received().get(n)?).into_owned();
            Some(text.split_once("\r\n\r\n")?.1.to_owned())
        };
        // The mesh may have cut the piece into chunks of its own.
        let arrived = || body().is_some_and(|body| body.matches('x').count() == PIECE.len());
        upload(&mesh.get("client").host, addr, case, arrived);
        // The app's connection ends with the request: it cannot wait for the rest for ever.
        until(SOON, || ended.load(Ordering::Acquire) == n + 1);
        let body = body().unwrap_or_default();
        if body.ends_with("0\r\n\r\n") || body.len() > 2 * PIECE.len() {
            findings.push(format!("{case:?}: the app read {body:?}"));
        }
    }
    verdict(UPLOADS.len(), &findings);
}
