//! Connections to a backend: how many there may be, how much each carries, how old it gets, how long making one may take.
//!
//! Invariant: what counts is what the endpoints saw, and whatever ends a connection breaks no request that is on it.
//! Non-goal: limits of requests; `bulkheads` has those.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use mesh_tests::client::http::{Answer, Connection, Version, get};
use mesh_tests::client::within;
use mesh_tests::mesh::{Mesh, SOON};
use mesh_tests::netns::{Attempts, Filter, Host, until};
use mesh_tests::raw::{Conversation, Server};
use mesh_tests::streams;

/// Longer than any limit here.
const PATIENCE: Duration = Duration::from_secs(25);
const BODY: &str = "0123456789";
/// Each over workloads of its own label and on a port of its own, so that what it is sent can be told apart.
const SERVICES: [(&str, &str, u16, &str); 12] = [
    ("single", "plain", 8001, "limits: {connections: 1}, balancing: {policy: RoundRobin}"),
    ("stream", "web", 8001, "protocol: opaque\n  limits: {connections: 1}"),
    ("worn", "plain", 8002, "limits: {requestsPerConnection: 3}"),
    ("aged", "plain", 8003, "limits: {connectionAge: 1s}"),
    ("quick", "plain", 8004, "timeouts: {connect: 300ms}, limits: {requestsPerConnection: 1}"),
    ("patient", "lone", 8005, "timeouts: {connect: 20s}, limits: {requestsPerConnection: 1}"),
    ("worn-h2", "plain", 8006, "limits: {requestsPerConnection: 3}"),
    ("aged-h2", "plain", 8007, "limits: {connectionAge: 1s}"),
    ("worn-tunnel", "web", 8002, "limits: {requestsPerConnection: 3}"),
    ("aged-tunnel", "web", 8003, "limits: {connectionAge: 1s}"),
    ("worn-tunnel-h2", "web", 8006, "limits: {requestsPerConnection: 3}"),
    ("aged-tunnel-h2", "web", 8007, "limits: {connectionAge: 1s}"),
];

/// Requests for `/hang` wait here, in the middle of their response.
#[derive(Default)]
struct Hall {
    waiting: AtomicUsize,
    is_open: AtomicBool,
}

struct Stage {
    mesh: Mesh,
    services: Vec<(&'static str, SocketAddr)>,
    servers: Vec<(u16, Server)>,
    hall: Arc<Hall>,
}

#[test]
fn connections_are_as_many_as_old_and_as_used_as_a_policy_says() {
    let stage = Stage::start();
    stage.one_at_a_time();
    stage.one_stream_at_a_time();
    let accepted = |port: u16| move |stage: &Stage| stage.servers_at(port).map(Server::accepted).sum::<usize>() as u64;
    stage.wears_out("worn", Version::H1, Some(20), accepted(8002));
    let requests = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).matches("GET /").count();
    let carried: Vec<_> = stage.servers_at(8002).flat_map(Server::received).map(requests).collect();
    assert!(carried.iter().all(|n| *n <= 3) && carried.contains(&3), "{carried:?}");
    stage.wears_out("aged", Version::H1, None, accepted(8003));
    for (name, port, most) in [("worn-h2", 8006, Some(20)), ("aged-h2", 8007, None)] {
        let attempts = ["one", "two"].map(|name| Attempts::count(&stage.mesh.get(name).host, port));
        stage.wears_out(name, Version::H2, most, |_| attempts.iter().map(Attempts::so_far).sum());
    }
    let tunnels = |stage: &Stage| {
        let ok = [("direction", "inbound"), ("result", "ok")];
        let made = ["three", "four"].map(|name| stage.mesh.get(name).metric("mesh_tls_handshakes_total", &ok));
        made.iter().sum::<f64>() as u64
    };
    stage.wears_out("worn-tunnel", Version::H1, Some(20), tunnels);
    stage.wears_out("aged-tunnel", Version::H1, None, tunnels);
    stage.wears_out("worn-tunnel-h2", Version::H2, Some(20), tunnels);
    stage.wears_out("aged-tunnel-h2", Version::H2, None, tunnels);
}

#[test]
fn a_connection_may_take_as_long_as_a_policy_says_and_another_endpoint_is_next() {
    let stage = Stage::start();
    let (one, two) = (&stage.mesh.get("one").host, &stage.mesh.get("two").host);
    let deaf = |host| Filter::drop(host, &["tcp dport 8004".to_owned()]);
    let hole = deaf(two);
    let is_failing = |host: &Host| {
        let all = stage.state("quick")["endpoints"].as_array().cloned().unwrap_or_default();
        all.iter().any(|it| it["addr"] == format!("{}:8004", host.v4) && it["failing"] == true)
    };
    until(SOON, || {
        assert_eq!(stage.ask("quick", Version::H1, "/").expect("an answer").status, 200, "another one takes it");
        is_failing(two)
    });
    let both = deaf(one);
    let unreached = stage.ask("quick", Version::H1, "/").expect("an answer");
    let said = unreached.headers["mesh-error"].to_str().unwrap_or_default();
    assert_eq!(unreached.status, 503);
    assert!(said.starts_with("connect_failed; ") && said.contains("300ms"), "{said}");
    drop((hole, both));
    until(SOON, || stage.ask("quick", Version::H1, "/").is_ok_and(|answer| answer.status == 200));
    // Longer than the proxy's own second.
    let lone = &stage.mesh.get("lone").host;
    let (attempts, deaf) = (Attempts::count(lone, 8005), Filter::drop(lone, &["tcp dport 8005".to_owned()]));
    thread::scope(|scope| {
        let (host, addr) = (stage.client(), stage.addr("patient"));
        let asked = scope.spawn(move || ask(&host, addr, Version::H1, "/"));
        until(SOON, || attempts.so_far() >= 3);
        drop(deaf);
        assert_eq!(asked.join().expect("a client").expect("an answer").status, 200);
    });
}

impl Stage {
    fn start() -> Self {
        let mut mesh = Mesh::new();
        mesh.workload("client").service_account("client").add();
        let plain = ["one", "two"].map(|name| mesh.workload(name).of("plain").plain().add());
        let lone = mesh.workload("lone").of("lone").plain().add();
        let meshed = ["three", "four"].map(|name| mesh.workload(name).of("web").add());
        let mut services = Vec::new();
        for (name, over, port, spec) in SERVICES {
            services.push((name, mesh.service(name, 80, port).over(over).add().v4));
            mesh.manifests
                .write(&format!("policy-{name}"), &crate::policy(name, &format!("  {spec}\n").replace("}, ", "}\n  ")));
        }
        mesh.start();
        let hall = Arc::<Hall>::default();
        let mut servers = Vec::new();
        for (host, port) in plain.iter().chain(&meshed).flat_map(|host| (8001..=8004).map(move |port| (host, port))) {
            servers.push((port, serve(host, port, &hall)));
        }
        servers.push((8005, serve(&lone, 8005, &hall)));
        for (host, port) in plain.iter().chain(&meshed).flat_map(|host| [(host, 8006), (host, 8007)]) {
            serve_h2(host, port, &hall);
        }
        let stage = Self { mesh, services, servers, hall };
        for (name, ..) in SERVICES {
            let version = if name.ends_with("h2") { Version::H2 } else { Version::H1 };
            until(SOON, || stage.ask(name, version, "/").is_ok_and(|answer| answer.status == 200));
            assert!(stage.state(name)["policy"].is_string(), "{name}");
        }
        stage
    }

    /// Of endpoints without a sidecar.
    fn servers_at(&self, port: u16) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(move |(at, _)| *at == port).map(|(_, server)| server).take(2)
    }

    fn addr(&self, service: &str) -> SocketAddr {
        self.services.iter().find(|(name, _)| *name == service).expect("a service").1
    }

    fn state(&self, service: &str) -> serde_json::Value {
        crate::state(&self.mesh, self.addr(service))
    }

    fn client(&self) -> Host {
        self.mesh.get("client").host.clone()
    }

    fn ask(&self, service: &str, version: Version, path: &str) -> io::Result<Answer> {
        ask(&self.client(), self.addr(service), version, path)
    }

    /// A connection that a pool keeps makes room for one to another endpoint, and one that is in use does not.
    fn one_at_a_time(&self) {
        for _ in 0..30 {
            let answer = self.ask("single", Version::H1, "/").expect("an answer");
            assert_eq!(answer.status, 200, "{:?}", answer.headers);
            assert_eq!(self.state("single")["limits"]["connections"], 1);
        }
        let accepted: Vec<_> = self.servers_at(8001).map(Server::accepted).collect();
        assert!(accepted.iter().all(|n| *n > 9), "by turns, each made room for the other: {accepted:?}");
        self.beside_one_that_hangs("single", Version::H1, || {
            for _ in 0..5 {
                let refused = self.ask("single", Version::H1, "/").expect("an answer");
                let said = refused.headers["mesh-error"].to_str().unwrap_or_default();
                assert_eq!(refused.status, 503);
                assert!(said.starts_with("overload; ") && said.contains("limits.connections"), "{said}");
            }
        });
        assert_eq!(self.ask("single", Version::H1, "/").expect("an answer").status, 200);
    }

    /// Of bytes, in tunnels: the second is reset at once, and there is a place when the first has ended.
    fn one_stream_at_a_time(&self) {
        let (client, addr) = (self.client(), self.addr("stream"));
        let open = || {
            client.enter(|| {
                let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
                stream.read_exact(&mut [0; 8])?;
                io::Result::Ok(stream)
            })
        };
        let refused = || {
            let labels = [("direction", "outbound"), ("reason", "overload")];
            self.mesh.get("client").metric("mesh_errors_total", &labels)
        };
        until(SOON, || self.state("stream")["limits"]["connections"] == 0);
        let first = open().expect("a place");
        assert_eq!(self.state("stream")["limits"]["connections"], 1);
        let before = refused();
        assert_eq!(open().map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
        assert!(refused() > before + 0.5);
        drop(first);
        until(SOON, || open().is_ok());
    }

    /// Requests are made until three more connections were seen, after `most` requests at the latest; one that was begun before
    /// ends as it should.
    fn wears_out(&self, service: &str, version: Version, most: Option<usize>, seen: impl Fn(&Self) -> u64) {
        self.beside_one_that_hangs(service, version, || {
            let (before, mut asked) = (seen(self), 0);
            until(SOON, || {
                asked += 1;
                let answer = self.ask(service, version, "/").expect("an answer");
                assert_eq!((answer.status.as_u16(), &*answer.text()), (200, BODY), "{service}");
                seen(self) >= before + 3
            });
            println!("{service}, {version:?}: three connections more after {asked} requests");
            assert!(most.is_none_or(|most| asked <= most), "{service}: {asked} requests");
        });
    }

    fn beside_one_that_hangs(&self, service: &str, version: Version, act: impl FnOnce()) {
        self.hall.is_open.store(false, Ordering::Relaxed);
        thread::scope(|scope| {
            let (host, addr) = (self.client(), self.addr(service));
            let hangs = scope.spawn(move || ask(&host, addr, version, "/hang"));
            until(SOON, || self.hall.waiting.load(Ordering::Relaxed) == 1);
            // The test fails by what `act` says, not by a thread that is never joined.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
            self.hall.is_open.store(true, Ordering::Relaxed);
            let answer = hangs.join().expect("a client");
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let answer = answer.unwrap_or_else(|error| panic!("{service}: what was on its way was broken: {error}"));
            assert_eq!((answer.status.as_u16(), &*answer.text()), (200, BODY), "{service}: what was on its way");
        });
        until(SOON, || self.hall.waiting.load(Ordering::Relaxed) == 0);
    }
}

/// A request on a connection of its own.
fn ask(host: &Host, addr: SocketAddr, version: Version, path: &str) -> io::Result<Answer> {
    within(host, async {
        Connection::open(addr, version).await?.fetch_within(get(addr, version, path), PATIENCE).await
    })
}

impl Hall {
    fn enter(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    fn is_closed(&self) -> bool {
        !self.is_open.load(Ordering::Relaxed)
    }

    fn leave(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

const PAUSE: Duration = Duration::from_millis(10);

fn serve(host: &Host, port: u16, hall: &Arc<Hall>) -> Server {
    let hall = Arc::clone(hall);
    Server::start(host, port, move |conversation| converse(conversation, &hall))
}

fn converse(mut conversation: Conversation, hall: &Hall) -> io::Result<()> {
    loop {
        let head = conversation.head()?;
        let (first, rest) = BODY.split_at(1);
        conversation.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{first}", BODY.len()).as_bytes())?;
        if head.starts_with("GET /hang ") {
            hall.enter();
            while hall.is_closed() {
                thread::sleep(PAUSE);
            }
            hall.leave();
        }
        conversation.say(rest.as_bytes())?;
    }
}

fn serve_h2(host: &Host, port: u16, hall: &Arc<Hall>) {
    let hall = Arc::clone(hall);
    streams::serve(host, port, move |request, mut respond| {
        let hall = Arc::clone(&hall);
        async move {
            let (first, rest) = BODY.split_at(1);
            let Ok(mut stream) = respond.send_response(http::Response::new(()), false) else { return };
            let _ = stream.send_data(Bytes::from_static(first.as_bytes()), false);
            if request.uri().path() == "/hang" {
                hall.enter();
                while hall.is_closed() {
                    tokio::time::sleep(PAUSE).await;
                }
                hall.leave();
            }
            let _ = stream.send_data(Bytes::from_static(rest.as_bytes()), true);
        }
    });
}
