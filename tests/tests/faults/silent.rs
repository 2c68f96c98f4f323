//! Applications that take requests and never answer.
//!
//! Invariant: a request ends with 504 once its time is over, others are served by who does answer, and nothing piles up. An
//! upload that goes on, and a gRPC call, have all the time they want.
//! Non-goal: sidecars that hang; `stopped` has those.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method};
use mesh_tests::body;
use mesh_tests::client::http::{Answer, Connection, Version, get};
use mesh_tests::client::load::Load;
use mesh_tests::client::{PATIENCE, within};
use mesh_tests::mesh::Mesh;
use mesh_tests::netns::{Host, until};
use mesh_tests::raw::Server;
use mesh_tests::yardstick::{Who, count, record};

use super::{HTTP, PAUSE, SOON, answers, endpoint, endpoints};

/// What MESH_RESPONSE_TIMEOUT is set to.
const LIMIT: Duration = Duration::from_secs(2);
const VERSIONS: [Version; 2] = [Version::H1, Version::H2];

/// Takes whatever comes, and says nothing.
fn silent(host: &Host) -> Server {
    Server::start(host, HTTP, |mut conversation| {
        let mut sink = [0; 4096];
        while conversation.stream.read(&mut sink)? > 0 {}
        Ok(())
    })
}

/// `client` and `outsider`, which has no sidecar; the service `mixed` over a silent endpoint and one that answers, and the
/// service `mute` over a silent one alone.
struct Scene {
    mesh: Mesh,
    mixed: SocketAddr,
    mute: SocketAddr,
    _servers: [Server; 2],
}

fn scene() -> Scene {
    let mut mesh = Mesh::new();
    let limit = format!("{}s", LIMIT.as_secs());
    mesh.workload("client").service_account("client").env("MESH_RESPONSE_TIMEOUT", &limit).add();
    mesh.workload("outsider").plain().add();
    let hosts = [("mixed-1", "mixed"), ("mute-1", "mute")]
        .map(|(name, of)| mesh.workload(name).of(of).env("MESH_RESPONSE_TIMEOUT", &limit).add());
    endpoint(&mut mesh, "mixed-2", "mixed", true);
    let [mixed, mute] = ["mixed", "mute"].map(|name| mesh.service(name, 80, HTTP).add().v4);
    let servers = hosts.each_ref().map(silent);
    mesh.start();
    Scene { mesh, mixed, mute, _servers: servers }
}

/// One request on a connection of its own.
async fn ask(addr: SocketAddr, version: Version, change: impl FnOnce(&mut http::Request<body::Body>)) -> Answer {
    let mut connection = Connection::open(addr, version).await.expect("a connection to the sidecar");
    let mut request = get(addr, version, "/bytes?n=100");
    change(&mut request);
    connection.fetch(request).await.expect("an answer")
}

/// The reason word of the mesh's own answers.
fn word(answer: &Answer) -> &str {
    let said = answer.headers.get("mesh-error").and_then(|said| said.to_str().ok()).unwrap_or_default();
    said.split(';').next().unwrap_or_default()
}

fn timeouts(mesh: &Mesh, name: &str) -> f64 {
    mesh.get(name).metric("mesh_errors_total", &[("reason", "response_timeout")])
}

/// A request with a small body, as text.
fn post(request: &mut http::Request<body::Body>) {
    *request.method_mut() = Method::POST;
    *request.body_mut() = body::full(vec![b'x'; 100]);
}

fn upgrade(request: &mut http::Request<body::Body>) {
    let headers = request.headers_mut();
    headers.insert("connection", HeaderValue::from_static("upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
}

#[test]
fn f10_who_never_answers_is_answered_for_and_others_serve() {
    let scene = scene();
    let Scene { mesh, mixed, mute, .. } = &scene;
    // Each way, each version, with a body and without.
    let inbound = (mesh.get("mute-1").host.v4, HTTP).into();
    for (from, addr, counts) in [("client", *mute, "client"), ("outsider", inbound, "mute-1")] {
        let cases = VERSIONS.into_iter().flat_map(|version| [(version, false), (version, true)]);
        let before = timeouts(mesh, counts);
        let asked = within(&mesh.get(from).host, async {
            let asked = cases.map(|(version, body)| async move {
                let begin = Instant::now();
                let answer = ask(addr, version, |request| {
                    if body {
                        post(request)
                    }
                })
                .await;
                (format!("{from} {version:?} body={body}"), answer, begin.elapsed())
            });
            let mut asked = futures_util::future::join_all(asked).await;
            let begin = Instant::now();
            asked.push((format!("{from} upgrade"), ask(addr, Version::H1, upgrade).await, begin.elapsed()));
            asked
        });
        for (case, answer, took) in &asked {
            assert_eq!((answer.status.as_u16(), word(answer)), (504, "response_timeout"), "{case}: {answer:?}");
            assert!(*took >= LIMIT && *took <= PATIENCE, "{case} took {took:?}");
        }
        assert_eq!(timeouts(mesh, counts) - before, 5.0, "{from}: one for each");
    }
    others_serve(mesh, *mixed);
}

/// With one endpoint that is silent and one that is not.
fn others_serve(mesh: &Mesh, mixed: SocketAddr) {
    const CLIENTS: usize = 16;
    let before = timeouts(mesh, "client");
    let load = Load::start(&mesh.get("client").host, mixed, CLIENTS, PAUSE);
    let begin = Instant::now();
    let mut most = 0;
    while begin.elapsed() < count(3 * LIMIT, 30 * LIMIT) {
        let endpoints = endpoints(mesh, "client", mixed);
        most = most.max(endpoints.iter().filter_map(|endpoint| endpoint["in_flight"].as_u64()).sum());
        answers(&load, 50);
    }
    let report = load.stop();
    let counted = timeouts(mesh, "client") - before;
    println!("{} answered, {} timed out, at most {most} in flight", report.answered, report.failed);
    assert!(report.failed > 0, "the silent endpoint was never asked");
    assert!(
        report.failures.iter().all(|what| what.contains("504") && what.contains("response_timeout")),
        "{report:#?}"
    );
    // Each client met it about once; it is not asked again before its latency has faded.
    assert!(report.failed <= 2 * CLIENTS as u64 && report.answered >= 100, "{} answered", report.answered);
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let failed = report.failed as f64;
    assert_eq!(counted.to_bits(), failed.to_bits(), "one counted for each");
    assert!(most <= CLIENTS as u64, "{most} in flight of {CLIENTS} clients");
    until(SOON, || endpoints(mesh, "client", mixed).iter().all(|endpoint| endpoint["in_flight"] == 0));
    let figure = format!("504 after {LIMIT:?}; {} answered by the other, {} timed out", report.answered, report.failed);
    record(62, "F10, an application that never answers", Who::Mesh, true, &figure);
}

#[test]
fn f10_an_upload_that_goes_on_and_a_grpc_call_have_all_the_time_they_want() {
    let scene = scene();
    let mesh = &scene.mesh;
    let inbound = (mesh.get("mixed-2").host.v4, HTTP).into();
    for (from, addr) in [("client", inbound), ("outsider", inbound)] {
        within(&mesh.get(from).host, async {
            let grpc = |request: &mut http::Request<body::Body>| {
                *request.uri_mut() =
                    format!("http://{addr}/bytes?n=100&delay={}s", LIMIT.as_secs() * 3).parse().expect("a URI");
                request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            };
            let upload = |request: &mut http::Request<body::Body>| {
                *request.uri_mut() = format!("http://{addr}/count").parse().expect("a URI");
                *request.method_mut() = Method::POST;
                *request.body_mut() = body::pieces(12, 10, LIMIT / 4, None);
            };
            let (call, upload) = tokio::join!(ask(addr, Version::H2, grpc), ask(addr, Version::H2, upload));
            assert_eq!((call.status.as_u16(), call.body.len()), (200, 100), "{from}: {call:?}");
            assert_eq!(upload.status, 200, "{from}: {upload:?}");
        });
    }
}
