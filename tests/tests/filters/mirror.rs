//! Copies of requests: what a mirror gets, and that the request itself never notices.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mesh_tests::body;
use mesh_tests::client::http::{Connection, Version};
use mesh_tests::client::within;
use mesh_tests::mesh::{Mesh, SOON};
use mesh_tests::netns::until;
use mesh_tests::raw::{Conversation, Server};

use super::{APP, replica, request, route};

const TOGETHER: usize = 16;
/// Copies that a sidecar has on their way at most.
const MOST_COPIES: usize = 128;

fn mesh(mirrors: &[(&str, &[&str])]) -> (Mesh, SocketAddr) {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    replica(&mut mesh, "web-1", "web", &[]);
    let web = mesh.service("web", 80, APP).add().v4;
    for (name, args) in mirrors {
        replica(&mut mesh, &format!("{name}-1"), name, args);
        mesh.service(name, 80, APP).add();
    }
    (mesh, web)
}

/// A rule for `web` whose requests go to `mirrors` as well, each with what comes after its reference.
fn mirrored(mirrors: &[(&str, &str)]) -> String {
    let filter = |(name, share): &(&str, &str)| {
        format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: {name}, port: 80}}{share}}}}}")
    };
    let filters: Vec<_> = mirrors.iter().map(filter).collect();
    route("web", &format!("filters: [{}]\n    backendRefs: [{{name: web, port: 80}}]", filters.join(", ")))
}

fn copies(mesh: &Mesh, result: &str) -> f64 {
    mesh.get("client").metric("mesh_mirrored_requests_total", &[("result", result)])
}

fn seen(mesh: &Mesh, workload: &str) -> f64 {
    mesh.get(workload).metric("mesh_http_requests_total", &[("direction", "inbound")])
}

/// Copies that chance has had made, and that came to an end of whatever kind.
fn drawn(mesh: &Mesh) -> f64 {
    ["answered", "failed", "too_slow", "dropped"].iter().map(|result| copies(mesh, result)).sum()
}

/// So many requests on a few connections; how long the slowest took. All are answered.
fn ask_all(mesh: &Mesh, addr: SocketAddr, all: usize) -> Duration {
    within(&mesh.get("client").host, async {
        let one = async || {
            let mut connection = Connection::open(addr, Version::H1).await.expect("a connection");
            let mut slowest = Duration::ZERO;
            for _ in 0..all / TOGETHER {
                let began = Instant::now();
                let answer =
                    connection.fetch(request("GET", "/bytes?n=10", &[], body::empty())).await.expect("an answer");
                assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 10), "{:?}", answer.headers);
                slowest = slowest.max(began.elapsed());
            }
            slowest
        };
        join_all((0..TOGETHER).map(|_| one())).await.into_iter().max().expect("some")
    })
}

/// Reads a request with its body, and answers.
fn take(mut conversation: Conversation) -> io::Result<()> {
    loop {
        let head = conversation.head()?;
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        conversation.take(length.unwrap_or_default())?;
        conversation.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
    }
}

#[test]
fn mirrors_get_every_byte_of_the_share_of_requests_that_is_theirs() {
    let (mut mesh, web) = mesh(&[("quarter", &[])]);
    let hosts = ["plain", "shadow"].map(|name| mesh.workload(name).of(name).add());
    let plain = mesh.service("plain", 80, APP).add().v4;
    mesh.service("shadow", 80, APP).add();
    mesh.manifests.write("web", &mirrored(&[("quarter", ", fraction: {numerator: 1, denominator: 4}")]));
    let to_shadow = mirrored(&[("shadow", "")]).replace("name: web", "name: plain");
    mesh.manifests.write("plain", &to_shadow);
    mesh.start();
    let servers = hosts.map(|host| Server::start(&host, APP, take));

    const ALL: usize = 2400;
    until(SOON, || {
        ask_all(&mesh, web, TOGETHER);
        seen(&mesh, "quarter-1") > 0.5
    });
    until(SOON, || (copies(&mesh, "answered") - seen(&mesh, "quarter-1")).abs() < 0.5);
    let before = (drawn(&mesh), seen(&mesh, "web-1"));
    ask_all(&mesh, web, ALL);
    let expected = 600.0;
    // Copies are on their way for a while after the requests are answered; four standard deviations are 85.
    until(SOON, || drawn(&mesh) - before.0 > expected - 85.0);
    until(SOON, || (copies(&mesh, "answered") - seen(&mesh, "quarter-1")).abs() < 0.5);
    let (copied, served) = (drawn(&mesh) - before.0, seen(&mesh, "web-1") - before.1);
    println!("{copied} of {served} copied, {} dropped", copies(&mesh, "dropped"));
    assert!((served - 2400.0).abs() < 0.5, "{served}");
    assert!((copied - expected).abs() < 85.0, "{copied} in place of {expected}");

    let body: Vec<u8> = (0..50_000u32).map(|at| u8::try_from(at % 251).expect("small")).collect();
    within(&mesh.get("client").host, async {
        let mut connection = Connection::open(plain, Version::H1).await.expect("a connection");
        let deadline = Instant::now() + SOON;
        // Before the route is known, nothing is copied.
        while servers[1].accepted() == 0 {
            connection.fetch(request("GET", "/early", &[], body::empty())).await.expect("an answer");
            assert!(Instant::now() < deadline, "no copy");
        }
        let path = "/a%20b/c?d=e&f";
        let asked = request("POST", path, &[("x-field", "Value"), ("x-field", "other")], body::full(body.clone()));
        assert_eq!(connection.fetch(asked).await.expect("an answer").status, 200);
    });
    let posted = |server: &Server| -> BTreeSet<Vec<u8>> {
        let all = server.received().into_iter().filter_map(|bytes| {
            let at = bytes.windows(5).position(|word| word == b"POST ")?;
            Some(bytes[at..].to_vec())
        });
        all.collect()
    };
    until(SOON, || posted(&servers[1]).iter().any(|bytes| bytes.ends_with(&body)));
    let ([real], [copy]) = (&Vec::from_iter(posted(&servers[0]))[..], &Vec::from_iter(posted(&servers[1]))[..]) else {
        panic!("one request at each");
    };
    assert_eq!(String::from_utf8_lossy(real), String::from_utf8_lossy(copy));
    assert!(real.starts_with(b"POST /a%20b/c?d=e&f HTTP/1.1\r\n"));
}

#[test]
fn a_request_does_not_notice_mirrors_that_are_dead_slow_or_do_not_read() {
    let (mut mesh, web) = mesh(&[("slow", &["--delay=20s"])]);
    let (deaf, closed) = (mesh.workload("deaf").of("deaf").add(), mesh.workload("closed").of("closed").add());
    drop(closed);
    for name in ["deaf", "closed"] {
        mesh.service(name, 80, APP).add();
    }
    mesh.manifests.write("web", &mirrored(&[("closed", ""), ("nobody", "")]));
    mesh.start();
    // Reads nothing, and keeps the connection.
    let _deaf = Server::start(&deaf, APP, |conversation| {
        std::thread::sleep(Duration::from_secs(60));
        drop(conversation);
        Ok(())
    });
    until(SOON, || {
        ask_all(&mesh, web, TOGETHER);
        copies(&mesh, "failed") > 0.5 && copies(&mesh, "invalid") > 0.5
    });

    mesh.manifests.write("web", &mirrored(&[("slow", "")]));
    until(SOON, || {
        ask_all(&mesh, web, TOGETHER);
        seen(&mesh, "slow-1") > 0.5
    });
    let slowest = ask_all(&mesh, web, 4 * MOST_COPIES);
    println!("slowest beside a slow mirror: {slowest:?}");
    assert!(slowest < Duration::from_secs(15), "{slowest:?}");
    let dropped = copies(&mesh, "dropped");
    assert!(dropped >= 300.0, "{dropped} copies were too many at a time");

    // A body larger than all buffers on the way.
    mesh.manifests.write("web", &mirrored(&[("deaf", "")]));
    let large = 16 << 20;
    until(SOON, || {
        let answer = within(&mesh.get("client").host, async {
            let mut connection = Connection::open(web, Version::H1).await.expect("a connection");
            let body = body::full(vec![b'x'; large]);
            connection.fetch(request("POST", "/count", &[], body)).await.expect("an answer")
        });
        assert_eq!(answer.text(), format!("{large}\n"));
        copies(&mesh, "too_slow") > 0.5
    });
}
