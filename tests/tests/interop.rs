//! gRPC's interoperability cases between two implementations that are not ours: grpcio calls tonic and tonic calls grpcio,
//! directly, through either sidecar alone, and through both with mutual TLS.
//!
//! Invariant: one mesh for all cases. Non-goal: the cases; `mesh_tests::interop` has them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mesh_tests::interop::{self, PATIENCE, grpcio, grpcio_server};
use mesh_tests::mesh::{Daemon, Mesh};
use mesh_tests::netns::Host;
use mesh_tests::yardstick::{Process, Who, count, record};

const PYTHON: u16 = 9000;
const TONIC: u16 = 9001;

/// Anonymous memory of a sidecar under four clients with such calls, in MiB, however many they make.
const MOST: u64 = 16;

/// A way from a client to the servers: their addresses, by port.
struct Way {
    name: &'static str,
    client: Host,
    to: Box<dyn Fn(u16) -> SocketAddr>,
}

/// A mesh in which `peer` (meshed) and `bare` run both servers.
fn mesh() -> (Mesh, [Way; 4]) {
    let mut mesh = Mesh::new();
    let client = mesh.workload("client").service_account("client").add();
    let outsider = mesh.workload("outsider").plain().add();
    let peer = mesh.workload("peer").of("peer").app(grpcio_server(PYTHON)).add();
    let bare = mesh.workload("bare").of("bare").plain().app(grpcio_server(PYTHON)).add();
    interop::serve(&peer, TONIC);
    interop::serve(&bare, TONIC);
    let [to_python, to_tonic] =
        [PYTHON, TONIC].map(|port| mesh.service(&format!("peer-{port}"), port, port).over("peer").add().v4);
    mesh.start();
    let at = |host: &Host| {
        let address = host.v4;
        Box::new(move |port| (address, port).into())
    };
    let service = Box::new(move |port| if port == PYTHON { to_python } else { to_tonic });
    let ways = [
        Way { name: "direct", client: outsider.clone(), to: at(&bare) },
        Way { name: "the client's sidecar", client: client.clone(), to: at(&bare) },
        Way { name: "the server's sidecar", client: outsider, to: at(&peer) },
        Way { name: "both sidecars", client, to: service },
    ];
    (mesh, ways)
}

#[test]
fn r64_grpc_cases_hold_over_every_way() {
    let (mesh, ways) = mesh();
    let mut failures = Vec::new();
    for way in &ways {
        for tally in interop::both(&way.client, (way.to)(PYTHON), (way.to)(TONIC)) {
            let (case, failed) = (format!("{}, {}", tally.between, way.name), tally.failures);
            println!("{case}: {}", tally.figure);
            record(64, &case, Who::Mesh, failed.is_empty(), &tally.figure);
            failures.extend(failed.iter().map(|failure| format!("{case}: {failure}")));
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    all_was_encrypted(&mesh);
}

#[test]
fn r64_a_soak_of_large_calls_loses_none() {
    let (mesh, ways) = mesh();
    let both = &ways[3];
    let (calls, seconds) = count((12, 0), (1_000, 3_600));
    let begin = Instant::now();
    let sidecars = ["client", "peer"].map(|name| {
        let pid = mesh.get(name).proxy().and_then(Daemon::pid).expect("a sidecar that runs");
        Process(pid).forget_peak();
        (name, Process(pid), Process(pid).threads())
    });
    let kinds = ["rpc_soak", "channel_soak"];
    let clients = kinds.map(|kind| {
        let rest = [kind.to_owned(), calls.to_string(), seconds.to_string()];
        (kind, grpcio(&both.client, (both.to)(TONIC), &rest))
    });
    let ours = kinds.map(|kind| {
        let addr = (both.to)(PYTHON);
        let seconds = Duration::from_secs(seconds);
        (kind, both.client.run_in_thread(move || interop::soak(addr, kind == "channel_soak", calls, seconds)))
    });
    let mut figures = vec![String::new()];
    for (kind, mut client) in clients {
        let status = client.wait(Duration::from_secs(seconds) + PATIENCE);
        assert!(status.success(), "grpcio, {kind}: {status}\n{}\n{}", client.output(), logs(&mesh));
        let line = client.wait_for_line("soak ", PATIENCE);
        figures.push(format!("grpcio, {kind}: {line}"));
    }
    for (kind, client) in ours {
        let made = client.join().expect("a client that ends");
        let made = made.unwrap_or_else(|error| panic!("tonic, {kind}: {error:#}\n{}", logs(&mesh)));
        figures.push(format!("tonic, {kind}: soak {made} calls, 0 failed"));
    }
    for (name, process, threads) in sidecars {
        let peak = process.peak() / 1024;
        assert!(peak <= MOST && process.threads() <= threads, "{name}: {peak} MiB, {} threads", process.threads());
        figures.push(format!("{name}: at most {peak} MiB"));
    }
    figures[0] = format!("{:.0} min", begin.elapsed().as_secs_f64() / 60.0);
    println!("{figures:#?}");
    record(64, "soak, both sidecars", Who::Mesh, true, &figures.join("; "));
    all_was_encrypted(&mesh);
}

/// The last lines of both sidecars' logs: a call that is lost has a reason there.
fn logs(mesh: &Mesh) -> String {
    const LINES: usize = 20;
    let last = |name: &str| {
        let log = mesh.get(name).proxy().map(Daemon::log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        format!("{name}:\n{}", lines[lines.len().saturating_sub(LINES)..].join("\n"))
    };
    ["client", "peer"].map(last).join("\n")
}

/// What the client's sidecar sent to the meshed server went over mutual TLS and not otherwise.
fn all_was_encrypted(mesh: &Mesh) {
    for port in [PYTHON, TONIC] {
        let target = format!("default/peer-{port}:{port}");
        let requests = |tls| {
            let labels = [("direction", "outbound"), ("target", target.as_str()), ("tls", tls)];
            mesh.get("client").metric("mesh_http_requests_total", &labels)
        };
        assert!(requests("mutual") > 0.5 && requests("none") < 0.5, "{target}: {} plain", requests("none"));
    }
}
