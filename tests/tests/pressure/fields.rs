//! Trailer fields: what only the mesh may say passes there no more than in a head.
//!
//! Invariant: a field of the application's own comes with them, and arrives.
//! Non-goal: heads; `guards` has those.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use http::{HeaderMap, HeaderValue, Request, Response};
use mesh_tests::client::{PATIENCE, within};
use mesh_tests::raw::Server;
use mesh_tests::streams;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{APP, Route, dial, head, mesh};

const OURS: [&str; 5] = ["mesh-client-id", "mesh-destination", "mesh-error", "mesh-origin", "mesh-protocol"];
const KEPT: &str = "x-kept";

fn trailers() -> HeaderMap {
    let names = OURS.into_iter().chain([KEPT]);
    names.map(|name| (http::HeaderName::from_static(name), HeaderValue::from_static("spoofed"))).collect()
}

/// The same at the end of a chunked body of HTTP/1.
fn chunked() -> String {
    let fields: String = OURS.iter().chain([&KEPT]).map(|name| format!("{name}: spoofed\r\n")).collect();
    format!("2\r\nok\r\n0\r\n{fields}\r\n")
}

/// Says in a head of HTTP/1 that trailers come, and that they are welcome.
fn announced() -> String {
    format!("te: trailers\r\ntransfer-encoding: chunked\r\ntrailer: {KEPT}, {}\r\n", OURS.join(", "))
}

fn names(trailers: Option<&HeaderMap>) -> Vec<String> {
    trailers.into_iter().flat_map(HeaderMap::keys).map(ToString::to_string).collect()
}

#[test]
fn fields_of_the_mesh_in_trailers_of_http_2_do_not_pass() {
    let (mut mesh, routes) = mesh();
    let (saw, mut seen) = mpsc::channel(1);
    for name in ["web", "legacy"] {
        let saw = saw.clone();
        streams::serve(&mesh.get(name).host, APP, move |request, mut respond| {
            let saw = saw.clone();
            async move {
                let mut body = request.into_body();
                while let Some(Ok(_)) = body.data().await {}
                let _ = saw.send(names(body.trailers().await.ok().flatten().as_ref())).await;
                let Ok(mut stream) = respond.send_response(Response::new(()), false) else { return };
                let _ = stream.send_data("ok".into(), false);
                let _ = stream.send_trailers(trailers());
            }
        });
    }
    mesh.start();
    for Route { client, addr } in routes {
        within(&mesh.get(client).host, async {
            let mut sender = streams::connect(addr).await.expect("a connection");
            let request = Request::builder().method("POST").uri("http://web/").header("te", "trailers");
            let request = request.body(()).expect("a request");
            let (response, mut stream) = sender.send_request(request, false).expect("a stream");
            stream.send_data("ok".into(), false).expect("an open stream");
            stream.send_trailers(trailers()).expect("an open stream");
            let at_app = timeout(PATIENCE, seen.recv()).await.expect("a request at the app");
            assert_eq!(at_app.as_deref(), Some(&[KEPT.to_owned()][..]), "request, {client} to {addr}");
            let mut body = timeout(PATIENCE, response).await.expect("in time").expect("an answer").into_body();
            while let Some(Ok(_)) = body.data().await {}
            let at_client = body.trailers().await.expect("a whole answer");
            assert_eq!(names(at_client.as_ref()), [KEPT], "answer, {client} to {addr}");
        });
    }
}

/// Reads a chunked body and its trailers.
fn rest(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the rest of an answer");
    String::from_utf8_lossy(&rest).to_lowercase()
}

#[test]
fn fields_of_the_mesh_in_trailers_of_http_1_do_not_pass() {
    let (mut mesh, routes) = mesh();
    let servers = ["web", "legacy"].map(|name| {
        Server::start(&mesh.get(name).host, APP, |mut conversation| {
            conversation.head()?;
            // Its trailers end with an empty line too.
            conversation.head()?;
            let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{}\r\n{}", announced(), chunked());
            conversation.say(answer.as_bytes())
        })
    });
    mesh.start();
    for Route { client, addr } in routes {
        let mut stream = dial(&mesh.get(client).host, addr);
        let request = format!("POST / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{}\r\n{}", announced(), chunked());
        stream.write_all(request.as_bytes()).expect("a live connection");
        let head = head(&mut stream).expect("an answer");
        let rest = rest(&mut stream);
        assert!(head.starts_with("http/1.1 200 "), "{client} to {addr}: {head}");
        assert!(rest.contains("x-kept: ") && !rest.contains("mesh-"), "answer, {client} to {addr}: {rest}");
    }
    for received in servers.iter().flat_map(Server::received) {
        let received = String::from_utf8_lossy(&received).to_lowercase();
        let (_, trailers) = received.split_once("\r\n\r\n").expect("a head");
        assert!(trailers.contains("x-kept: ") && !trailers.contains("mesh-"), "request: {received}");
    }
}
