//! R18, R19, R21 on each daemon's admin port: large heads, bodies without end, floods of connections.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use mesh_kit::admin::CONNECTIONS;
use mesh_tests::attacks::connections::hold;
use mesh_tests::client::{self, PATIENCE};
use mesh_tests::mesh::ADMIN_PORT;
use mesh_tests::netns::{Host, until};
use mesh_tests::raw;
use mesh_tests::yardstick::{Process, count};

use crate::{LATE, Scene, note};

/// Name, admin port and process of each daemon.
fn ports(scene: &Scene) -> [(&'static str, SocketAddr, Process); 3] {
    let [identity, destination] = scene.surfaces;
    let web = scene.mesh.get("web");
    let proxy = Process(web.proxy().and_then(mesh_tests::mesh::Daemon::pid).expect("a sidecar"));
    [
        (identity.name, identity.admin, identity.process),
        (destination.name, destination.admin, destination.process),
        ("proxy", (web.host.v4, ADMIN_PORT).into(), proxy),
    ]
}

fn lives(from: &Host, admin: SocketAddr) -> bool {
    from.enter(|| client::request("GET", admin, "/live").is_ok_and(|(code, _)| code == 200))
}

#[test]
fn r21_a_flood_of_connections_to_an_admin_port_keeps_no_probe_out() {
    let scene = Scene::start();
    for (name, admin, process) in ports(&scene) {
        let (files, threads, idle) = (process.files(), process.threads(), process.resident());
        process.forget_peak();
        let come = count(500, 20_000);
        for hello in [&b""[..], b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /live HTTP/1.1\r\nx: "] {
            let mut held = hold(&scene.attacker, admin, come, hello);
            let probed = (0..20).filter(|_| lives(&scene.attacker, admin)).count();
            assert_eq!(probed, 20, "{name}: probes answered beside {come} connections");
            // Whoever came before a probe has been accepted: the older ones have given way, not only run out of time.
            let open = process.files();
            assert!(open <= files + CONNECTIONS + 5, "{name}: {open} files open, {files} before");
            until(LATE, || held.look() >= come - CONNECTIONS);
        }
        let grown = process.peak().saturating_sub(idle);
        assert!(grown <= 16 << 10, "{name}: {grown} KiB");
        until(LATE, || process.files() <= files + 5);
        assert!(process.threads() <= threads + 1, "{name}: more threads");
        note(
            21,
            &format!("admin of {name}"),
            "flood",
            &format!("3 x {come} connections, 60 of 60 probes answered, {grown} KiB"),
        );
    }
}

/// Heads that no probe sends: what is told, which may be nothing but the end.
fn heads() -> Vec<(&'static str, Vec<u8>)> {
    let path = |n: usize| format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(n)).into_bytes();
    let fields = |n: usize| format!("GET /live HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(n)).into_bytes();
    let one = |n: usize| format!("GET /live HTTP/1.1\r\nhost: x\r\ncookie: {}\r\n\r\n", "x".repeat(n)).into_bytes();
    vec![
        ("path of 8 KiB", path(8 << 10)),
        ("path of 1 MiB", path(1 << 20)),
        ("101 fields", fields(101)),
        ("10,000 fields", fields(10_000)),
        ("cookie of 1 MiB", one(1 << 20)),
    ]
}

#[test]
fn r18_r19_heads_and_bodies_that_no_probe_sends_are_refused() {
    let scene = Scene::start();
    for (name, admin, process) in ports(&scene) {
        process.forget_peak();
        let idle = process.resident();
        for (what, head) in heads() {
            let told = raw::send(&scene.attacker, admin, &head).ok().and_then(|answer| raw::status(&answer));
            assert!(matches!(told, None | Some(400 | 414 | 431)), "{name}, {what}: {told:?}");
            assert!(lives(&scene.attacker, admin), "{name}, after {what}");
        }
        let sent = endless(&scene.attacker, admin);
        let grown = process.peak().saturating_sub(idle);
        assert!(grown <= 2 << 10, "{name}: {grown} KiB");
        note(18, &format!("admin of {name}"), "heads", &format!("{} refused, {grown} KiB", heads().len()));
        note(19, &format!("admin of {name}"), "body without end", &format!("{} MiB sent, {grown} KiB", sent >> 20));
    }
}

/// How much of a body the port takes.
fn endless(from: &Host, admin: SocketAddr) -> usize {
    let mut stream = from.enter(|| TcpStream::connect_timeout(&admin, PATIENCE)).expect("a connection");
    stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a socket");
    stream
        .write_all(b"POST /live HTTP/1.1\r\nhost: x\r\ncontent-length: 10737418240\r\n\r\n")
        .expect("a live connection");
    let (piece, mut sent) = (vec![b'x'; 64 << 10], 0);
    while sent < count(64 << 20, 1 << 30) && stream.write_all(&piece).is_ok() {
        sent += piece.len();
    }
    sent
}
