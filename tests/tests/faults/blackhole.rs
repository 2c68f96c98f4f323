//! A host that is gone without a word: whatever is sent to it is lost, and nobody says so.
//!
//! Invariant: it is found out in time, requests that were on their way there are answered by others, and it comes back. What
//! cannot go elsewhere ends with an error in time: byte streams, at work or idle, and requests that may not be sent twice.
//! Non-goal: a process that hangs; `stopped` has that.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mesh_tests::client::load::Load;
use mesh_tests::mesh::{App, Mesh};
use mesh_tests::netns::{Filter, Host, until};
use mesh_tests::yardstick::{Process, Who, record};

use super::{HTTP, PAUSE, SOON, answers, endpoint, is_failing, longest, takes, unharmed};

const TCP: u16 = 7000;
/// The promise.
const DETECTED: Duration = Duration::from_secs(30);
/// How long a client waits: beyond this a request hangs.
const PATIENCE: Duration = Duration::from_secs(35);

/// A mesh with two endpoints of the service `web`, and its address.
fn mesh(meshed: bool) -> (Mesh, SocketAddr) {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    for name in ["web-1", "web-2"] {
        endpoint(&mut mesh, name, "web", meshed);
    }
    let spec = mesh.workload("peer").of("peer").app(App::demo("demo-greet", TCP, &["--mode=echo"]));
    let spec = spec.app(App::demo("demo-http", HTTP, &[]));
    if meshed {
        spec.add()
    } else {
        spec.plain().add()
    };
    let addr = mesh.service("web", 80, HTTP).add().v4;
    mesh.start();
    (mesh, addr)
}

/// Something that lasts, and when it broke off.
type Held = JoinHandle<(&'static str, Instant)>;

/// Holds a conversation of bytes until it breaks off.
fn talk(host: &Host, addr: SocketAddr, is_idle: bool) -> Held {
    let echo = move |stream: &mut TcpStream| {
        let mut echo = [0; 5];
        stream.write_all(b"\x00echo").and_then(|()| stream.read_exact(&mut echo))
    };
    let mut stream = host.enter(|| TcpStream::connect(addr)).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE + SOON)).expect("a socket");
    echo(&mut stream).expect("an echo");
    thread::spawn(move || {
        while !is_idle && echo(&mut stream).is_ok() {
            thread::sleep(PAUSE);
        }
        let broken = stream.read(&mut [0]).err().is_none_or(|error| error.kind() != io::ErrorKind::WouldBlock);
        assert!(broken, "nothing was heard of it");
        (if is_idle { "idle bytes" } else { "bytes" }, Instant::now())
    })
}

/// A request that may not be sent twice, and would be answered late. Its answer is an error.
fn post(host: &Host, addr: SocketAddr) -> Held {
    let request = format!("POST /echo?delay=100s HTTP/1.1\r\nhost: {addr}\r\ncontent-length: 1\r\n\r\nx");
    let mut stream = host.enter(|| TcpStream::connect(addr)).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE + SOON)).expect("a socket");
    stream.write_all(request.as_bytes()).expect("a connection that takes a request");
    thread::spawn(move || {
        let mut head = [0; 12];
        stream.read_exact(&mut head).expect("an answer");
        assert_eq!(&head, b"HTTP/1.1 502");
        ("a POST", Instant::now())
    })
}

/// What goes to a host itself has nowhere else to go.
fn ends_in_time(mesh: &Mesh, case: &str) {
    let client = mesh.get("client").host.clone();
    let [http, tcp] = [HTTP, TCP].map(|port| mesh.get("peer").at(port)[0]);
    let held = [talk(&client, tcp, true), talk(&client, tcp, false), post(&client, http)];
    let app = || mesh.get("client").metric("mesh_http_requests_in_flight", &[("direction", "outbound")]);
    until(SOON, || app() >= 1.0);
    let begin = Instant::now();
    let _hole = Filter::deaf(&mesh.get("peer").host, &client);
    let ended: Vec<_> = held.map(|held| held.join().expect("an end")).into_iter().collect();
    let took: Vec<_> = ended.iter().map(|(what, at)| (*what, at.duration_since(begin))).collect();
    println!("{case}: {took:?}");
    assert!(took.iter().all(|(_, took)| *took <= DETECTED), "{case}: {took:?}");
    if mesh.get("peer").proxy().is_some() {
        // The far side lets go as well.
        let tunnels = || mesh.get("peer").metric("mesh_tunnel_connections", &[("direction", "inbound")]);
        until(DETECTED, || tunnels() == 0.0);
    }
    let slowest = took.iter().map(|(_, took)| *took).max().unwrap_or_default();
    record(57, &format!("{case}: bytes and a POST"), Who::Mesh, true, &format!("broken off within {slowest:.1?}"));
}

fn goes_silent(meshed: bool, case: &str) {
    let (mesh, addr) = mesh(meshed);
    let load = Load::patient(&mesh.get("client").host, addr, 16, PAUSE, PATIENCE);
    answers(&load, 300);
    let process = Process(mesh.get("client").proxy().and_then(mesh_tests::mesh::Daemon::pid).expect("a sidecar"));
    let (threads, files) = (process.threads(), process.files());
    let hole = Filter::deaf(&mesh.get("web-1").host, &mesh.get("client").host);
    let detected = takes(DETECTED, || is_failing(&mesh, "client", addr, "web-1"));
    println!("{case}: found out after {detected:?}");
    // From now on nobody waits for it: the others serve all.
    answers(&load, 300);
    if meshed {
        until(DETECTED, || mesh.get("client").metric("mesh_errors_total", &[("reason", "silent")]) > 0.0);
        let given_up = mesh.get("client").metric("mesh_errors_total", &[("reason", "silent")]);
        assert!(given_up <= 1.0, "one tunnel was lost, {given_up} counted");
    }
    drop(hole);
    until(SOON, || !is_failing(&mesh, "client", addr, "web-1"));
    answers(&load, 300);
    let report = unharmed(load);
    let longest = longest(&report);
    println!("{case}: {} requests, the longest took {longest:?}", report.answered);
    assert!(longest <= DETECTED, "a request hung for {longest:?}");
    ends_in_time(&mesh, case);
    // Names are looked up on threads that stay for a moment.
    until(2 * SOON, || process.threads() <= threads && process.files() <= files + 5);
    let figure = format!("found out in {detected:.1?}, 0 of {} failed, longest {longest:.1?}", report.answered);
    record(57, case, Who::Mesh, true, &figure);
}

/// Both ways at once, for most of it is waiting.
#[test]
fn r57_f11_an_endpoint_that_is_gone_without_a_word_is_found_out_and_left() {
    thread::scope(|scope| {
        scope.spawn(|| goes_silent(true, "black hole, both sidecars"));
        scope.spawn(|| goes_silent(false, "black hole, plain endpoint"));
    });
}
