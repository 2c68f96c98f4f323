//! What may take so long and no longer: each limit, with its reason in response, metric and log.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use h2::Reason;
use http::Request;
use mesh_tests::client::PATIENCE;
use mesh_tests::mesh::{Daemon, SOON};
use mesh_tests::netns::{Host, until};
use mesh_tests::streams;

use super::{Policy, World};

const GRPC: (&str, &str) = ("content-type", "application/grpc");
const POLICIES: [Policy; 9] = [
    ("request", "timeouts: {request: 500ms}"),
    ("head", "timeouts: {responseHeaders: 500ms}"),
    ("try", "timeouts: {backendRequest: 500ms}, circuitBreaker: {enabled: false}"),
    ("again", "retries: {on: [gateway-error], attempts: 2, perTryTimeout: 500ms}, circuitBreaker: {enabled: false}"),
    ("idle", "timeouts: {streamIdle: 500ms}"),
    ("deadline", "circuitBreaker: {enabled: false}"),
    (
        "hop",
        "circuitBreaker: {enabled: false}, timeouts: {request: 5s}, faults: [{headers: [{name: x-stuck, value: 'yes'}], \
         delay: {percent: 100, duration: 60s}}, {delay: {percent: 100, duration: 300ms}}]",
    ),
    ("routed", "circuitBreaker: {enabled: false}"),
    ("opaque", "protocol: opaque, timeouts: {tcpIdle: 1s, halfClose: 500ms}"),
];

fn logged(world: &World, word: &str) -> bool {
    world.mesh.get("client").proxy().map(Daemon::log).unwrap_or_default().contains(word)
}

#[test]
fn each_limit_ends_what_takes_longer_with_its_reason() {
    let world = World::start(&POLICIES);
    // The Service, what the app does, and the words of reason and kind.
    for (service, path, reason, kind) in [
        ("request", "/silent/request", "request_timeout", "request"),
        ("head", "/silent/head", "response_timeout", "response_headers"),
        ("try", "/silent/try", "response_timeout", "backend_request"),
        ("again", "/silent/again", "response_timeout", "backend_request"),
        ("idle", "/silent/idle", "stream_idle", "stream_idle"),
    ] {
        let before = world.errors(reason);
        let seen = world.send(world.addr(service), path, &[], b"body").expect("an answer");
        assert_eq!((seen.status, seen.error.split(';').next()), (504, Some(reason)), "{service}: {seen:?}");
        assert!(world.errors(reason) > before + 0.5, "{service}: {reason} is not counted");
        assert!(world.counted("mesh_timeouts_total", service, ("kind", kind)) > 0.5, "{service}: {kind}");
        until(SOON, || logged(&world, reason));
    }
    assert_eq!(world.arrivals.of("/silent/again").len(), 3, "a first try and two more");
    let seen = world.send(world.addr("again"), "/silent-1/once", &[], b"body").expect("an answer");
    assert_eq!((seen.status, seen.body.as_deref()), (200, Ok(&b"body"[..])), "the second try is answered");
    broken_after_the_head(&world);
    deadlines(&world);
    bytes(&world);
}

/// A response that has begun is broken off, and never looks whole.
fn broken_after_the_head(world: &World) {
    routed(world);
    for (service, reason, kind) in [
        ("request", "request_timeout", "request"),
        ("idle", "stream_idle", "stream_idle"),
        ("try", "response_timeout", "backend_request"),
        ("again", "response_timeout", "backend_request"),
        ("routed", "response_timeout", "backend_request"),
    ] {
        let counted = || world.counted("mesh_timeouts_total", service, ("kind", kind));
        let before = (world.errors(reason), counted());
        let seen = world.send(world.addr(service), "/drip/", &[], b"").expect("a head");
        assert_eq!((seen.status, seen.body), (200, Err(Reason::CANCEL)), "{service}");
        until(SOON, || world.errors(reason) > before.0 + 0.5 && counted() > before.1 + 0.5);
    }
    assert_eq!(world.arrivals.of("/drip/").len(), 5, "what was begun is not sent again");
    for service in ["head", "try", "routed"] {
        let drips = world.send(world.addr(service), "/drip-0/", &[], b"whole").expect("a head");
        assert_eq!(drips.body.as_deref(), Ok(&b"whole"[..]), "{service}");
    }
}

/// The same limit as a route says it.
fn routed(world: &World) {
    world.mesh.manifests.write(
        "route-routed",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: routed}\n\
         spec:\n  parentRefs: [{group: \"\", kind: Service, name: routed}]\n  rules:\n  \
         - matches: [{path: {value: /drip}}, {path: {value: /drip-0}}]\n    timeouts: {backendRequest: 500ms}\n    \
         backendRefs: [{name: routed, port: 80}]\n",
    );
    // Where a route is attached, what fits no rule is told so.
    until(SOON, || world.ask(world.addr("routed"), "/ok/elsewhere", &[]).is_ok_and(|seen| seen.status == 404));
}

fn deadlines(world: &World) {
    let addr = world.addr("deadline");
    // The time is over at both sidecars at once, and either may be the first to say so.
    let counted = || {
        let inbound = |name: &str| {
            let labels = [("direction", "inbound"), ("reason", "deadline")];
            world.mesh.get(name).metric("mesh_errors_total", &labels)
        };
        world.errors("deadline") + inbound("one") + inbound("two")
    };
    let before = counted();
    let seen = world.ask(addr, "/silent/deadline", &[GRPC, ("grpc-timeout", "500m")]).expect("an answer");
    assert_eq!((seen.status, seen.grpc.as_deref()), (200, Some("4")), "{seen:?}");
    let over = world.ask(addr, "/silent/over", &[GRPC, ("grpc-timeout", "0m")]).expect("an answer");
    assert_eq!(over.grpc.as_deref(), Some("4"), "{over:?}");
    assert_eq!(world.arrivals.count("/silent/over"), 0, "its deadline was over, and it was sent");
    until(SOON, || counted() > before + 1.5);
    let begun = world.ask(addr, "/drip/deadline", &[GRPC, ("grpc-timeout", "500m")]).expect("a head");
    assert!(begun.error.is_empty() && begun.body.is_ok() && begun.grpc.as_deref() == Some("4"), "{begun:?}");
    assert_eq!(duplex(&world.mesh.get("client").host, addr), ("4".to_owned(), Reason::NO_ERROR));
    hops(world);
    // The serving side by itself: its client has no sidecar.
    let (web, outsider) = (world.mesh.get("one"), &world.mesh.get("outsider").host);
    let app = web.at(super::APP)[0];
    let direct = mesh_tests::client::within(outsider, async {
        let sender = streams::connect(app).await.map_err(|_| Reason::CONNECT_ERROR)?;
        super::app::ask(&sender, "/silent/direct", &[GRPC, ("grpc-timeout", "500m")], b"").await
    });
    assert_eq!(direct.expect("an answer").grpc.as_deref(), Some("4"));
    assert_eq!(duplex(outsider, app), ("4".to_owned(), Reason::NO_ERROR));
    assert!(web.metric("mesh_errors_total", &[("direction", "inbound"), ("reason", "deadline")]) > 0.5);
}

/// A call whose request has not ended at its deadline: its status, and the code that stops the request. By any other than
/// `NO_ERROR`, callers take it for more than its status says (RFC 9113 8.1).
fn duplex(host: &Host, addr: SocketAddr) -> (String, Reason) {
    mesh_tests::client::within(host, async {
        let sender = streams::connect(addr).await.expect("a connection");
        let request = Request::post("http://web/duplex/deadline").header(GRPC.0, GRPC.1).header("grpc-timeout", "500m");
        let request = request.body(()).expect("a request that a test wrote");
        let (response, mut asked) =
            sender.ready().await.and_then(|mut it| it.send_request(request, false)).expect("a call");
        let mut answer = response.await.expect("a head").into_body();
        assert_eq!(answer.data().await.expect("a message").expect("a message"), "first");
        assert!(answer.data().await.is_none(), "the end");
        let trailers = answer.trailers().await.expect("trailers").expect("trailers");
        let status = trailers["grpc-status"].to_str().expect("a number").to_owned();
        (status, std::future::poll_fn(|cx| asked.poll_reset(cx)).await.expect("a reset"))
    })
}

/// A deadline is passed on without the time that each hop has taken; the app passes on what it saw.
fn hops(world: &World) {
    const TAKES: u64 = 300_000;
    let addr = world.addr("hop");
    let first = world.ask(addr, "/ok/first", &[GRPC, ("grpc-timeout", "5S")]).map(|seen| seen.status);
    let told = world.arrivals.of("/ok/first").pop().and_then(|arrival| arrival.grpc_timeout).expect("a timeout");
    let fields = [GRPC, ("grpc-timeout", told.as_str())];
    let second = mesh_tests::client::within(&world.mesh.get("one").host, async {
        let sender = streams::connect(addr).await.map_err(|_| Reason::CONNECT_ERROR)?;
        super::app::ask(&sender, "/ok/second", &fields, b"").await
    });
    assert_eq!((first, second.map(|seen| seen.status)), (Ok(200), Ok(200)));
    let further = world.arrivals.of("/ok/second").pop().and_then(|arrival| arrival.grpc_timeout).expect("a timeout");
    let micros =
        |text: &str| text.strip_suffix('u').and_then(|n| n.parse::<u64>().ok()).unwrap_or_else(|| panic!("{text}"));
    println!("5S, {told}, {further}");
    assert!(micros(&told) <= 5_000_000 - TAKES && micros(&further) <= micros(&told) - TAKES, "{told}, then {further}");
    let late = world.ask(addr, "/ok/late", &[GRPC, ("grpc-timeout", "200m")]).expect("an answer");
    assert_eq!(late.grpc.as_deref(), Some("4"), "{late:?}");
    let stuck = world.ask(addr, "/ok/stuck", &[("x-stuck", "yes")]).expect("an answer");
    assert_eq!((stuck.status, stuck.error.split(';').next()), (504, Some("request_timeout")), "{stuck:?}");
    assert_eq!(
        world.arrivals.count("/ok/late") + world.arrivals.count("/ok/stuck"),
        0,
        "time was over, and it was sent"
    );
}

/// Connections that are no HTTP.
fn bytes(world: &World) {
    let addr = world.addr("opaque");
    for (half_closed, kind) in [(false, "tcp_idle"), (true, "half_close")] {
        let ended = world.mesh.get("client").host.enter(|| {
            let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).expect("a connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
            stream.write_all(b"x").expect("a connection that takes bytes");
            if half_closed {
                stream.shutdown(std::net::Shutdown::Write).expect("a socket");
            }
            stream.read(&mut [0; 16]).map_err(|error| error.kind())
        });
        assert_eq!(ended, Err(std::io::ErrorKind::ConnectionReset), "{kind}");
        until(SOON, || world.counted("mesh_timeouts_total", "opaque", ("kind", kind)) > 0.5);
    }
    until(Duration::from_secs(1).max(SOON), || logged(world, "idle_timeout") && logged(world, "half_closed_timeout"));
}
