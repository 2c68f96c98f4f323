//! R20: clients that take their time.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_tests::attacks::slow::{Ends, Phase, drip};
use mesh_tests::mesh::{ADMIN_PORT, INBOUND_PORT};
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Bystander, Front, Mesh, Process, Source, count, record};

use crate::{APP, LATE, alone};

/// A port of the app that is declared to speak HTTP/2.
const DECLARED: u16 = 8001;
/// What a slow client may cost, KiB. A debug build's futures are larger.
fn allowed(phase: Phase) -> u64 {
    // An answer under way fills the client's write buffer of 64 KiB, and its window on the tunnel, 256 KiB.
    if phase.reads { count(26, 20) } else { 400 }
}

const HEAD: Phase = Phase { name: "head", hello: b"GET / HTTP/1.1\r\nhost: web\r\nx: ", drip: b"slow", reads: true };
const BODY: Phase = Phase {
    name: "body",
    hello: b"POST /count HTTP/1.1\r\nhost: web\r\ncontent-length: 1000\r\n\r\nbegun",
    drip: b"",
    reads: true,
};
const READ: Phase =
    Phase { name: "slow read", hello: b"GET /endless HTTP/1.1\r\nhost: web\r\n\r\n", drip: b"", reads: false };
const PREFACE: Phase = Phase { name: "h2 preface", hello: b"PRI * HTTP/2.0\r\n", drip: b"", reads: true };
/// The header of a TLS record with a hello of 512 bytes, which do not come.
const HELLO: Phase = Phase { name: "TLS hello", hello: &[22, 3, 1, 2, 4, 1, 0, 2, 0, 3, 3], drip: &[7], reads: true };
const SILENCE: Phase = Phase { name: "silence", hello: b"", drip: b"", reads: true };

/// As many as fit: at both ends of a sidecar in this process, or at three daemons at once. Answers that nobody reads fill buffers of
/// the kernel's, who has so much for all connections of the machine: were that used up, everybody on it would wait.
fn clients(phase: Phase) -> usize {
    let most = count(200, Process::most_connections(10_000, 3));
    if phase.reads { most } else { most.min(buffers() / UNREAD) }
}

/// What one such answer fills at both ends and in between.
const UNREAD: usize = 512 << 10;

/// What connections may have in buffers before the kernel becomes sparing: the first figure of `tcp_mem`, in pages.
fn buffers() -> usize {
    let pages = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").expect("the kernel's");
    let pages: usize = pages.split_whitespace().next().and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4096
}

/// One byte of each client in so long.
fn pace() -> Duration {
    Duration::from_millis(count(250, 5000))
}

/// Until the last one of them is ended: before that, all have to be opened.
fn patience(clients: usize) -> Duration {
    LATE + Duration::from_millis(10) * u32::try_from(clients).unwrap_or(0)
}

fn mesh() -> Mesh {
    // The app has time to accept them all.
    const PATIENT: (&str, &str) = ("MESH_INBOUND_CONNECT_TIMEOUT", "60s");
    let variables: &[(&str, &str)] = count(
        &[PATIENT, ("MESH_HTTP_HEAD_TIMEOUT", "2s"), ("MESH_HTTP_STALL_TIMEOUT", "2s")][..],
        &[PATIENT, ("MESH_HTTP_STALL_TIMEOUT", "10s"), ("MESH_MAX_CONNECTIONS", "30000")][..],
    );
    Mesh::start_with(
        |name, spec| {
            let spec = variables.iter().fold(spec, |spec, (name, value)| spec.env(name, value));
            if name == "web" { spec.port(DECLARED, "http2") } else { spec }
        },
        |_| {},
    )
}

fn attack(front: &Front, addr: SocketAddr, phase: Phase) -> (Ends, u64) {
    let process = front.proxy;
    let (idle, mut most) = (process.anonymous(), 0);
    let look = || most = most.max(process.anonymous());
    let clients = clients(phase);
    let ends = drip(&front.client, addr, (phase, clients), (pace(), patience(clients)), look);
    (ends, most.saturating_sub(idle))
}

/// All are ended, counted one by one, and cost little.
fn cut(mesh: &Mesh, front: &Front, addr: SocketAddr, phase: Phase, counter: (&str, &[(&str, &str)])) {
    let counted = || mesh.metric(front, counter.0, counter.1);
    let before = counted();
    let case = format!("{}, {}", phase.name, front.way);
    let (ends, grown) = attack(front, addr, phase);
    let (clients, Ends { connected, ended, first, last, told }) = (clients(phase), ends);
    assert_eq!(
        (connected, ended),
        (clients, clients),
        "{case}, counted {}: connected, ended after {last:?}; {told}",
        counted() - before
    );
    let wanted = before + f64::from(u32::try_from(ended).unwrap_or(0));
    until(LATE, || counted() >= wanted);
    assert_eq!(counted(), wanted, "{case}: counted in {counter:?}");
    let each = grown / clients as u64;
    println!("{case}: {ended} of {connected} ended after {first:.0?} to {last:.0?}, {each} KiB each; {told}");
    assert!(each <= allowed(phase), "{case}: {each} KiB each");
    let figure = format!("{ended} of {connected} ended after {first:.0?} to {last:.0?}, {each} KiB each");
    record(20, &case, front.who, true, &figure);
}

const TOO_SLOW: (&str, &[(&str, &str)]) = ("mesh_errors_total", &[("reason", "too_slow")]);

#[test]
fn r20_slow_clients_are_ended_in_each_phase_and_counted() {
    let _alone = alone();
    let mesh = mesh();
    let _app = Source::start(&mesh.mesh.get("web").host, APP);
    for front in &mesh.fronts {
        let (files, threads) = (front.proxy.files(), front.proxy.threads());
        let bystander = Bystander::start(&front.client, front.addr);
        for phase in [HEAD, BODY, READ] {
            cut(&mesh, front, front.addr, phase, TOO_SLOW);
        }
        if front.way == "inbound" {
            cut(&mesh, front, (front.back.v4, DECLARED).into(), PREFACE, TOO_SLOW);
            let tunnel = (front.back.v4, INBOUND_PORT).into();
            cut(&mesh, front, tunnel, HELLO, ("mesh_tls_handshakes_total", &[("result", "timeout")]));
            cut(&mesh, front, tunnel, SILENCE, ("mesh_connections_refused_total", &[("reason", "too_slow")]));
        }
        println!("{}: {}", front.way, bystander.finish());
        until(2 * LATE, || front.proxy.files() <= files + 5);
        assert!(front.proxy.threads() <= threads, "{}: more threads", front.way);
    }
}

/// The programs of the control plane, and admin ports: slow clients go, and do not keep others out.
#[test]
fn r20_slow_clients_keep_nobody_from_the_control_plane_and_from_admin_ports() {
    let _alone = alone();
    let mut mesh = mesh();
    let [front, _] = mesh.fronts.clone();
    let control = mesh.mesh.control();
    let (identity, destination) = (control.identity_addr(), control.destination_addr());
    let admin: SocketAddr = (front.back.v4, ADMIN_PORT).into();
    let pids = [mesh.mesh.control_mut().identity().pid(), mesh.mesh.control_mut().destination().pid()];
    let [identity_process, destination_process] = pids.map(|pid| Process(pid.expect("it runs")));
    let surfaces = [
        (identity, HELLO, identity_process, "identity"),
        (destination, HELLO, destination_process, "destination"),
        (admin, HEAD, front.proxy, "admin"),
    ];
    std::thread::scope(|scope| {
        for (addr, phase, process, name) in surfaces {
            let client = &front.client;
            scope.spawn(move || {
                let (idle, files) = (process.anonymous(), process.files());
                let (mut most, clients) = (0, clients(phase));
                let ends = drip(client, addr, (phase, clients), (pace(), LATE + patience(clients)), || {
                    most = most.max(process.anonymous());
                });
                assert_eq!((ends.connected, ends.ended), (clients, clients), "{name}: connected, ended: {ends:?}");
                let each = most.saturating_sub(idle) / clients as u64;
                assert!(each <= allowed(phase), "{name}: {each} KiB each");
                until(2 * LATE, || process.files() <= files + 5);
                let figure =
                    format!("{} ended after {:.0?} to {:.0?}, {each} KiB each", ends.ended, ends.first, ends.last);
                println!("{name}: {figure}");
                record(20, &format!("{}, {name}", phase.name), mesh_tests::yardstick::Who::Mesh, true, &figure);
            });
        }
        // Meanwhile somebody new gets a certificate, and learns of destinations.
        mesh.mesh.workload("late").of("late").add();
        assert_eq!(mesh.mesh.get("late").admin("GET", "/ready").ok().map(|(code, _)| code), Some(200));
    });
}
