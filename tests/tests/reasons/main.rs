//! Each reason word of the sidecar is produced end to end: the response, the metric and a line of the log carry the same word.
//!
//! Invariant: one provocation is counted once; [`PRODUCED`] has every variant of `Reason`.
//! Non-goal: each way to a reason; the rows of the yardstick have those.

mod words;

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use mesh_proxy::http::answer::Reason;
use mesh_tests::client::PATIENCE;
use mesh_tests::mesh::{Daemon, Mesh, SOON, Service};
use mesh_tests::netns::until;
use mesh_tests::raw::{self, Conversation, Server};

const APP: u16 = 8000;
const NOBODY: u16 = 8009;
/// Of the service `limited`, which may be asked once a minute.
const LIMITED: u16 = 8001;
/// Destinations that a sidecar with `MESH_MAX_TARGETS=1` knows at most: it keeps some room beyond.
const DESTINATIONS: f64 = 1001.0;

/// Of the service `routed`: one path leads to nothing, all others fit no rule.
const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: routed}\nspec:\n  \
    parentRefs: [{group: \"\", kind: Service, name: routed}]\n  \
    rules: [{matches: [{path: {value: /lost}}], backendRefs: [{name: nobody, port: 80}]}]\n";

/// Of the service `faulty`: all of its requests fail; of `limited`: one a minute; of `hasty` and `lively`: little time.
const POLICIES: &str = "apiVersion: mesh.internal/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: faulty}\nspec:\n  \
    targetRefs: [{kind: Service, name: faulty}]\n  faults: [{abort: {percent: 100, httpStatus: 503}}]\n---\n\
    apiVersion: mesh.internal/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: limited}\nspec:\n  \
    targetRefs: [{kind: Service, name: limited}]\n  rateLimits: {total: {requests: 1, per: 1m, burst: 1}}\n---\n\
    apiVersion: mesh.internal/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: hasty}\nspec:\n  \
    targetRefs: [{kind: Service, name: hasty}]\n  timeouts: {request: 300ms}\n---\n\
    apiVersion: mesh.internal/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: lively}\nspec:\n  \
    targetRefs: [{kind: Service, name: lively}]\n  timeouts: {streamIdle: 300ms}\n";
/// Of the service `fragile`: one failure is enough, and nobody is left.
const FRAGILE: &str = "apiVersion: mesh.internal/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: fragile}\nspec:\n  \
    targetRefs: [{kind: Service, name: fragile}]\n  \
    circuitBreaker: {consecutiveFailures: 1, ejection: {min: 60s, max: 60s, maxEndpointsPercent: 100}}\n";

/// Who asks, whose sidecar answers and on which side, and what is expected.
struct Case {
    reason: Reason,
    status: u16,
    by: &'static str,
    direction: &'static str,
}

const fn by(reason: Reason, status: u16, by: &'static str, direction: &'static str) -> Case {
    Case { reason, status, by, direction }
}

/// A mesh with something wrong for each reason.
struct World {
    mesh: Mesh,
    web: Service,
    closed: Service,
    empty: Service,
    impostor: Service,
    routed: Service,
    faulty: Service,
    fragile: Service,
    hasty: Service,
    lively: Service,
}

impl World {
    fn start() -> (Self, [Server; 3]) {
        let mut mesh = Mesh::new();
        mesh.workload("outsider").plain().add();
        let client = mesh.workload("client").service_account("client").patient();
        client.env("MESH_RESPONSE_TIMEOUT", "1s").env("MESH_HTTP_HEAD_TIMEOUT", "1s").add();
        let crowded = mesh.workload("crowded").service_account("crowded").env("MESH_MAX_TARGETS", "1");
        crowded.patient().env("MESH_DETECT_DECIDE", "60s").env("MESH_HTTP_HEAD_TIMEOUT", "60s").add();
        let web = mesh.workload("web").of("web").patient().env("MESH_HTTP_HEAD_TIMEOUT", "1s").add();
        let impostor = mesh.workload("impostor").of("impostor").add();
        let [web_service, closed] =
            [("web", APP), ("closed", NOBODY)].map(|(name, target)| mesh.service(name, 80, target).over("web").add());
        let empty = mesh.service("empty", 80, APP).add();
        let routed = mesh.service("routed", 80, APP).over("web").add();
        let faulty = mesh.service("faulty", 80, APP).over("web").add();
        let [hasty, lively] = ["hasty", "lively"].map(|name| mesh.service(name, 80, APP).over("web").add());
        mesh.service("limited", 80, LIMITED).over("web").add();
        mesh.manifests.write("policies", POLICIES);
        mesh.manifests.write("route", ROUTE);
        let fragile = mesh.service("fragile", 80, APP).over("web").add();
        mesh.manifests.write("fragile", FRAGILE);
        let at_impostor = mesh.service("impostor", 80, APP).add();
        // The manifest says who it is not.
        mesh.start();
        let lie = mesh.get("impostor").manifest.replace("serviceAccount: impostor", "serviceAccount: somebody");
        mesh.manifests.write("workload-impostor", &lie);
        // One dial makes the sidecar follow it; how that is answered does not matter.
        let _ = raw::send(&mesh.get("client").host, at_impostor.v4, &request("GET", "/"));
        until(SOON, || mesh.get("client").state().to_string().contains("somebody"));
        let servers = [(&web, APP), (&impostor, APP), (&web, LIMITED)];
        let servers = servers.map(|(host, port)| Server::start(host, port, serve));
        (
            Self {
                mesh,
                web: web_service,
                closed,
                empty,
                impostor: at_impostor,
                routed,
                faulty,
                fragile,
                hasty,
                lively,
            },
            servers,
        )
    }

    fn send(&self, from: &str, addr: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
        raw::send(&self.mesh.get(from).host, addr, bytes)
    }

    fn get(&self, from: &str, to: Service) -> io::Result<Vec<u8>> {
        self.send(from, to.v4, &request("GET", "/"))
    }

    /// What is wrong with how one provocation was refused.
    fn refused(&self, case: &Case, provoke: impl FnOnce(&Self) -> io::Result<Vec<u8>>) -> Result<(), String> {
        let workload = self.mesh.get(case.by);
        let word = case.reason.word();
        let count = || workload.metric("mesh_errors_total", &[("direction", case.direction), ("reason", word)]);
        let (before, lines) = (count(), self.lines(case.by, word));
        let answer = provoke(self).map_err(|error| format!("no answer: {error}"))?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        if raw::status(&answer) != Some(case.status) {
            return Err(format!("{} was expected: {text}", case.status));
        }
        let said = text.lines().find_map(|line| line.strip_prefix("mesh-error: ")).unwrap_or_default();
        if said.split(';').next() != Some(word)
            || !(text.contains(&format!("mesh: {word}; ")) || text.contains(&format!("grpc-message: {word}; ")))
        {
            return Err(format!("header and body should say so: {text}"));
        }
        let counted = count() - before;
        if (counted - 1.0).abs() > 0.1 {
            return Err(format!("counted {counted} times: {text}"));
        }
        // A line takes its time through the pipe.
        until(SOON, || self.lines(case.by, word) > lines);
        let logged = self.lines(case.by, word) - lines;
        if logged == 1 { Ok(()) } else { Err(format!("{logged} lines of the log say so")) }
    }

    /// Lines of a sidecar's log with a reason word.
    fn lines(&self, workload: &str, word: &str) -> usize {
        let log = self.mesh.get(workload).proxy().map(Daemon::log).unwrap_or_default();
        log.lines()
            .filter(|line| line.contains(&format!("reason={word}")) || line.contains(&format!("reason=\"{word}\"")))
            .count()
    }
}

/// A call of gRPC whose caller waits for so long; in the form of HTTP/1, so that the test can read the answer.
fn call(timeout: &str) -> Vec<u8> {
    let fields =
        format!("content-type: application/grpc\r\ngrpc-timeout: {timeout}\r\ncontent-length: 0\r\nconnection: close");
    format!("POST /silent HTTP/1.1\r\nhost: web\r\n{fields}\r\n\r\n").into_bytes()
}

fn request(method: &str, path: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nhost: web\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").into_bytes()
}

/// Answers, or breaks off or is silent as the path says.
fn serve(mut conversation: Conversation) -> io::Result<()> {
    let head = conversation.head()?;
    match head.split(' ').nth(1) {
        Some("/broken") => Ok(()),
        Some("/failing") => {
            conversation.say(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        }
        // Until the sidecar has enough of it.
        Some("/silent") => conversation.read().map(drop),
        _ => conversation.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"),
    }
}

type Provoke = fn(&World) -> io::Result<Vec<u8>>;

/// Each reason on a side where it can arise.
const PRODUCED: [(Case, Provoke); 22] = [
    (by(Reason::NoEndpoints, 503, "client", "outbound"), |world| world.get("client", world.empty)),
    (by(Reason::AllEjected, 503, "client", "outbound"), |world| {
        let failed = world.send("client", world.fragile.v4, &request("GET", "/failing"))?;
        assert_eq!(raw::status(&failed), Some(500));
        world.get("client", world.fragile)
    }),
    (by(Reason::ConnectFailed, 503, "client", "outbound"), |world| world.get("client", world.closed)),
    (by(Reason::ConnectFailed, 503, "web", "inbound"), |world| {
        world.send("outsider", world.mesh.get("web").at(NOBODY)[0], &request("GET", "/"))
    }),
    (by(Reason::PeerIdentity, 503, "client", "outbound"), |world| world.get("client", world.impostor)),
    (by(Reason::UpstreamReset, 502, "web", "inbound"), |world| {
        world.send("outsider", world.mesh.get("web").at(APP)[0], &request("POST", "/broken"))
    }),
    (by(Reason::ResponseTimeout, 504, "client", "outbound"), |world| {
        world.send("client", world.web.v4, &request("POST", "/silent"))
    }),
    (by(Reason::RequestTimeout, 504, "client", "outbound"), |world| {
        world.send("client", world.hasty.v4, &request("POST", "/silent"))
    }),
    (by(Reason::StreamIdle, 504, "client", "outbound"), |world| {
        world.send("client", world.lively.v4, &request("POST", "/silent"))
    }),
    // Over before it is sent: a later one may be over at the far sidecar first, which is told of it.
    (by(Reason::Deadline, 200, "client", "outbound"), |world| world.send("client", world.web.v4, &call("0m"))),
    (by(Reason::Deadline, 200, "web", "inbound"), |world| {
        world.send("outsider", world.mesh.get("web").at(APP)[0], &call("300m"))
    }),
    (by(Reason::Overload, 503, "crowded", "outbound"), |world| {
        let _held = fill(world)?;
        world.get("crowded", world.web)
    }),
    (by(Reason::Loop, 508, "client", "outbound"), |world| {
        world.send("client", (Ipv4Addr::LOCALHOST, 4140).into(), &request("GET", "/"))
    }),
    (by(Reason::Loop, 508, "web", "inbound"), |world| {
        world.send("outsider", world.mesh.get("web").at(4140)[0], &request("GET", "/"))
    }),
    (by(Reason::BadRequest, 400, "client", "outbound"), |world| {
        world.send("client", world.web.v4, b"GET / HTTP/1.1\r\nhost: web\r\nhost: other\r\nconnection: close\r\n\r\n")
    }),
    (by(Reason::TooSlow, 408, "client", "outbound"), |world| slow(world, "client", world.web.v4)),
    (by(Reason::TooSlow, 408, "web", "inbound"), |world| slow(world, "outsider", world.mesh.get("web").at(APP)[0])),
    (by(Reason::NoRoute, 404, "client", "outbound"), |world| world.get("client", world.routed)),
    (by(Reason::BackendInvalid, 500, "client", "outbound"), |world| {
        world.send("client", world.routed.v4, &request("GET", "/lost"))
    }),
    (by(Reason::Fault, 503, "client", "outbound"), |world| world.get("client", world.faulty)),
    (by(Reason::RateLimited, 429, "web", "inbound"), |world| {
        world.send("outsider", world.mesh.get("web").at(LIMITED)[0], &request("GET", "/"))?;
        world.send("outsider", world.mesh.get("web").at(LIMITED)[0], &request("GET", "/"))
    }),
    (by(Reason::NotLocal, 403, "web", "inbound"), |world| {
        let (web, outsider) = (&world.mesh.get("web").host, &world.mesh.get("outsider").host);
        let foreign = Ipv4Addr::new(203, 0, 113, 9);
        run(outsider.command("ip").args(["route", "add", &format!("{foreign}/32"), "via", &web.v4.to_string()]));
        let rule = format!("-t nat -I PREROUTING 1 -p tcp -d {foreign} -j REDIRECT --to-ports 4143");
        run(web.command("iptables").args(rule.split(' ')));
        world.send("outsider", (foreign, APP).into(), &request("GET", "/"))
    }),
];

fn run(command: &mut Command) {
    let status = command.status();
    assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "{command:?}: {status:?}");
}

/// Connections of `crowded`, each to a destination of its own, until it knows as many as it may.
fn fill(world: &World) -> io::Result<Vec<TcpStream>> {
    let crowded = world.mesh.get("crowded");
    let known = || crowded.metric("mesh_discovery_subscriptions", &[("kind", "outbound")]);
    let address = world.mesh.get("web").host.v4;
    let (mut held, mut ports) = (Vec::new(), 20_000..30_000);
    while known() < DESTINATIONS - 0.5 {
        // Many at once, then one by one.
        let count = if known() < DESTINATIONS - 100.0 { 100 } else { 1 };
        let goal = known() + f64::from(count);
        let more: Vec<u16> = ports.by_ref().take(count as usize).collect();
        let dial = |port: &u16| {
            let mut stream = TcpStream::connect((address, *port))?;
            stream.write_all(b"G")?;
            Ok(stream)
        };
        held.extend(crowded.host.clone().enter(|| more.iter().map(dial).collect::<io::Result<Vec<_>>>())?);
        until(SOON, || known() > goal - 0.5);
    }
    Ok(held)
}

/// Half a head, and then nothing.
fn slow(world: &World, from: &str, addr: SocketAddr) -> io::Result<Vec<u8>> {
    world.mesh.get(from).host.enter(|| {
        let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: w")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    })
}

#[test]
fn each_reason_is_the_same_word_in_response_metric_and_log() {
    let (world, _servers) = World::start();
    let failures = PRODUCED.iter().filter_map(|(case, provoke)| {
        let wrong = world.refused(case, provoke).err()?;
        Some(format!("{}, {}: {wrong}", case.reason.word(), case.direction))
    });
    let failures: Vec<_> = failures.collect();
    assert!(failures.is_empty(), "{} of {} wrong:\n{}", failures.len(), PRODUCED.len(), failures.join("\n"));
}

/// The words of the sidecar's table of reasons, as its source has them.
fn words() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proxy/src/http/answer.rs");
    let source = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let word =
        |line: &str| Some(line.trim().strip_prefix("Reason::")?.split_once("=> (\"")?.1.split_once('"')?.0.to_owned());
    source.lines().filter_map(word).collect()
}

#[test]
fn no_reason_is_left_out() {
    let produced: BTreeSet<_> = PRODUCED.iter().map(|(case, _)| case.reason.word().to_owned()).collect();
    assert!(!produced.is_empty() && produced == words(), "{produced:?} of {:?}", words());
}
