//! Memory of real sidecars: idle, for each held connection, and for each known destination. RssAnon, in KiB.
//!
//! Invariant: figures are what a sidecar grew by, divided by the count; what the first connections bring along is in the
//! figure before. Each test has a mesh of its own, for freed memory that is used again would hide growth.
//! Non-goal: the release build's figures, which the bench has; a debug build's are larger, and so are these budgets.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use mesh_tests::client::PATIENCE;
use mesh_tests::mesh::{App, Mesh};
use mesh_tests::netns::until;
use mesh_tests::raw;

/// One sidecar with its certificate, before its first connection.
const IDLE: u64 = 1450;
/// Both sidecars together, for a held connection of bytes.
const TCP: f64 = 10.0;
/// Both sidecars together, for an idle HTTP/1.1 connection.
const HTTP1: f64 = 3.2;
/// The client's sidecar, for a destination of [`ENDPOINTS`].
const TARGET: f64 = 4.2;

/// Each sidecar, at the most, while [`BODIES`] are on their way at a time.
const PEAK: u64 = 10_000;

/// Pages that a sidecar asks the system for while it passes on a MiB of a byte stream, which is 256 of them.
const ASKED: u64 = 8;
const STREAM: usize = 64 << 20;

const BODIES: usize = 64;
const BODY: usize = 1 << 20;
/// Most bytes that are kept of a body: see `mesh_proxy::http::replay`.
const KEPT: usize = 64 << 10;
/// How often each connection asks.
const TIMES: usize = 4;
const CONNECTIONS: usize = 500;
const TARGETS: usize = 1000;
const ENDPOINTS: u8 = 10;
/// Connections or requests that go before.
const FIRST: usize = 20;
/// What both sidecars together may keep of connections that have ended, KiB: see `mesh_kit::memory`.
const LEFT: u64 = 1536;
/// Idle for a second, and looked for every 5 s: see `mesh_proxy::http::h1` and `mesh_kit::memory`.
const REST: Duration = Duration::from_secs(12);
const LOOK: Duration = Duration::from_millis(200);
const GLANCE: Duration = Duration::from_millis(5);
const SIDECARS: [&str; 2] = ["client", "web"];
const PORT: u16 = 8000;

#[test]
fn a_held_connection_of_bytes_keeps_to_its_memory() {
    let mut mesh = described(None);
    let addr = mesh.service("web", 80, PORT).add().v4;
    start(&mut mesh);
    let web = mesh.get("web").host.clone();
    let _echo = raw::Server::start(&web, PORT, |mut conversation| {
        let mut buffer = [0; 64];
        while conversation.stream.read_exact(&mut buffer).is_ok() {
            conversation.stream.write_all(&buffer)?;
        }
        Ok(())
    });
    held("a held connection of bytes", TCP, &mesh, addr, |stream| {
        let mut echo = [1; 64];
        stream.write_all(&[0; 64]).and_then(|()| stream.read_exact(&mut echo)).expect("an echo");
        assert_eq!(echo, [0; 64]);
    });
}

/// Its chunks are freed at the heap's end: see `mesh_kit::memory::keep_the_end`.
#[test]
fn a_byte_stream_uses_its_memory_again() {
    let mut mesh = described(None);
    let addr = mesh.service("web", 80, PORT).add().v4;
    start(&mut mesh);
    let web = mesh.get("web").host.clone();
    let _sink = raw::Server::start(&web, PORT, |mut conversation| {
        let taken = io::copy(&mut (&conversation.stream).take(STREAM as u64), &mut io::sink())?;
        assert_eq!(taken, STREAM as u64);
        conversation.stream.write_all(b"all")
    });
    let mut stream = mesh.get("client").host.enter(|| dial(addr));
    let faults = |name: &str| mesh.get(name).proxy().and_then(|proxy| proxy.faults()).expect("a sidecar that runs");
    let before = SIDECARS.map(faults);
    let chunk = vec![0xff; 1 << 16];
    (0..STREAM / chunk.len()).for_each(|_| stream.write_all(&chunk).expect("a connection"));
    stream.read_exact(&mut [0; 3]).expect("all has come");
    for (name, before) in SIDECARS.iter().zip(before) {
        let asked = (faults(name) - before) / (STREAM as u64 >> 20);
        println!("{name}: {asked} page faults per MiB");
        assert!(asked <= ASKED, "{name}: {asked} page faults per MiB; budget: {ASKED}");
    }
}

#[test]
fn an_idle_connection_of_http1_keeps_to_its_memory() {
    let mut mesh = described(Some(App::demo("demo-http", PORT, &[])));
    let addr = mesh.service("web", 80, PORT).add().v4;
    start(&mut mesh);
    held("an idle HTTP/1.1 connection", HTTP1, &mesh, addr, get);
}

#[test]
fn many_large_bodies_at_a_time_keep_to_their_memory() {
    let (mesh, addr) = served();
    peak("large bodies", &mesh, BODIES, || {
        let mut stream = dial(addr);
        (0..TIMES).for_each(|_| get_bytes(&mut stream, BODY));
    });
}

/// Bodies of the largest size that is kept for a second try: as many as there is room for, until they are answered.
#[test]
fn many_bodies_that_may_be_sent_again_keep_to_their_memory() {
    let (mesh, addr) = served();
    peak("bodies that are kept", &mesh, BODIES, || {
        for _ in 0..TIMES {
            let mut stream = dial(addr);
            let head = format!("POST /count?delay=200ms HTTP/1.1\r\nhost: web\r\ncontent-length: {KEPT}\r\n\r\n");
            stream.write_all(&[head.as_bytes(), &[b'x'; KEPT]].concat()).expect("a connection that takes requests");
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).expect("an answer");
            assert_eq!(&answer, b"HTTP/1.1 200");
        }
    });
}

/// Each of a connection's streams has a window, on each leg of the way.
#[test]
fn many_large_bodies_on_streams_keep_to_their_memory() {
    let (mesh, addr) = served();
    let (connections, requests) = (format!("-c{}", BODIES / 8), BODIES * TIMES);
    let url = format!("http://{addr}/bytes?n={BODY}");
    let ask = || {
        let output = Command::new("h2load").args([&connections, "-m8", &format!("-n{requests}"), &url]).output();
        let text = String::from_utf8(output.expect("h2load").stdout).expect("text");
        assert!(text.contains(&format!("{requests} succeeded, 0 failed")), "{text}");
    };
    peak("large bodies on streams", &mesh, 1, ask);
}

/// A mesh, and where its `demo-http` answers.
fn served() -> (Mesh, SocketAddr) {
    let mut mesh = described(Some(App::demo("demo-http", PORT, &[])));
    let addr = mesh.service("web", 80, PORT).add().v4;
    start(&mut mesh);
    (mesh, addr)
}

/// The most that each sidecar has while so many clients `ask` for [`BODIES`] at a time.
fn peak(what: &str, mesh: &Mesh, clients: usize, ask: impl Fn() + Sync) {
    let client = &mesh.get("client").host;
    let mut most = [0; 2];
    thread::scope(|scope| {
        let asking: Vec<_> = (0..clients).map(|_| scope.spawn(|| client.enter(&ask))).collect();
        while asking.iter().any(|thread| !thread.is_finished()) {
            most = [most[0].max(anonymous(mesh, SIDECARS[0])), most[1].max(anonymous(mesh, SIDECARS[1]))];
            thread::sleep(GLANCE);
        }
    });
    println!("{what}, {BODIES} at a time: {most:?} KiB");
    assert!(most.iter().all(|most| *most <= PEAK), "{what}: {most:?} KiB of {SIDECARS:?}; budget: {PEAK}");
}

#[test]
fn a_known_destination_keeps_to_its_memory() {
    let mut mesh = described(Some(App::demo("demo-http", PORT, &[])));
    (1..ENDPOINTS).for_each(|number| alias(&mesh, number));
    let services: Vec<_> = (0..FIRST + TARGETS)
        .map(|number| mesh.service(&format!("service-{number}"), 80, PORT).over("web").add().v4)
        .collect();
    start(&mut mesh);
    let ask = |addrs: &[SocketAddr]| {
        mesh.get("client").host.enter(|| addrs.iter().for_each(|addr| get(&mut dial(*addr))));
    };
    let (first, rest) = services.split_at(FIRST);
    ask(first);
    let before = anonymous(&mesh, "client");
    ask(rest);
    let after = anonymous(&mesh, "client");
    let known = mesh.get("client").state().to_string().matches("\"10.77.200.1:").count();
    assert_eq!(known, services.len(), "destinations with all endpoints");
    judge("a known destination", each(before, after, TARGETS), TARGET);
}

/// One more workload at one more address of the same host: an endpoint of every service.
fn alias(mesh: &Mesh, number: u8) {
    let web = mesh.get("web");
    let address = Ipv4Addr::new(10, 77, 200, number);
    let mut add = Command::new("ip");
    add.arg("-n").arg(web.host.path().file_name().expect("a name"));
    let added = add.args(["address", "add", &format!("{address}/16"), "dev", "eth0"]).status();
    assert!(added.is_ok_and(|status| status.success()), "{add:?}");
    let own = web.host.addresses().map(|address| format!("\"{address}\"")).join(", ");
    let name = format!("web-{number}");
    let manifest = web.manifest.replace("name: web\n", &format!("name: {name}\n"));
    mesh.manifests.write(&format!("workload-{name}"), &manifest.replace(&own, &format!("\"{address}\"")));
}

/// A client and a web.
fn described(app: Option<App>) -> Mesh {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    let web = mesh.workload("web").of("web");
    match app {
        Some(app) => web.app(app).add(),
        None => web.add(),
    };
    mesh
}

/// Starts it and looks at both sidecars before anything was said.
fn start(mesh: &mut Mesh) {
    mesh.start();
    for name in SIDECARS {
        let idle = anonymous(mesh, name);
        println!("{name}, idle: {idle} KiB");
        assert!(idle <= IDLE, "{name}, idle: {idle} KiB; budget: {IDLE}");
    }
}

/// KiB of both sidecars for each of [`CONNECTIONS`] after its exchange: within the budget once they have come to rest, and
/// what that set free was given back. And when all end at once, what they had is given back.
fn held(what: &str, budget: f64, mesh: &Mesh, addr: SocketAddr, exchange: impl Fn(&mut TcpStream) + Sync) {
    let open = |count: usize| -> Vec<TcpStream> {
        mesh.get("client").host.enter(|| {
            let dialed = (0..count).map(|_| {
                let mut stream = dial(addr);
                exchange(&mut stream);
                stream
            });
            dialed.collect()
        })
    };
    let both = || SIDECARS.iter().map(|name| anonymous(mesh, name)).sum();
    let _first = open(FIRST);
    let before = both();
    let held = open(CONNECTIONS);
    let begun = Instant::now();
    let mut now = each(before, both(), CONNECTIONS);
    while now > budget && begun.elapsed() < REST {
        thread::sleep(LOOK);
        now = each(before, both(), CONNECTIONS);
    }
    judge(what, now, budget);
    drop(held);
    until(PATIENCE, || both() <= before + LEFT);
}

fn dial(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// A request, whose answer must be whole.
fn get(stream: &mut TcpStream) {
    get_bytes(stream, 100);
}

/// The same, for a body of so many bytes.
fn get_bytes(stream: &mut TcpStream, n: usize) {
    let request = format!("GET /bytes?n={n} HTTP/1.1\r\nhost: web\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a connection that takes requests");
    let (mut answer, mut filled) = (vec![0; 4096 + n], 0);
    loop {
        let read = stream.read(&mut answer[filled..]).expect("an answer");
        assert!(read > 0, "closed before the answer was whole");
        filled += read;
        let head = answer[..filled].windows(4).take(4096).position(|end| end == b"\r\n\r\n");
        assert!(answer.starts_with(b"HTTP/1.1 200") || filled < 12, "{}", answer[..filled].escape_ascii());
        if head.is_some_and(|head| filled == head + 4 + n) {
            return;
        }
    }
}

fn anonymous(mesh: &Mesh, name: &str) -> u64 {
    let memory = mesh.get(name).proxy().and_then(|proxy| proxy.memory());
    memory.expect("a sidecar that runs").anonymous
}

fn each(before: u64, after: u64, count: usize) -> f64 {
    // KiB of a test are far below what a float holds exactly.
    #[allow(clippy::cast_precision_loss)]
    let each = after.saturating_sub(before) as f64 / count as f64;
    each
}

fn judge(what: &str, each: f64, budget: f64) {
    println!("{what}: {each:.2} KiB");
    assert!(each <= budget, "{what}: {each:.2} KiB; budget: {budget}");
}
