//! The mesh against no mesh: made-up conversations over HTTP/1 and HTTP/2, each held once directly and once over two sidecars.
//! Both ends must see the same: heads, bytes, trailers, interim answers, resets with their codes, the same order, the same end.
//!
//! Invariant: `seen` lists all that may differ. A failure prints the seed and the smallest conversation that still fails.
//! `SEED=N` repeats a run.

mod one;
mod script;
mod seen;
mod stage;
mod two;
mod wire;

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh_tests::mesh::Mesh;
use mesh_tests::netns::Host;
use mesh_tests::yardstick::{Who, count, record, torture};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use tokio::runtime::Runtime;

use script::{Conversation, Version, conversations};
use seen::{Closing, Seen, Way};
use stage::{Current, Stage};

const PORTS: [(Version, u16); 2] = [(Version::H1, 8001), (Version::H2, 8002)];
/// For one conversation, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Cases of which a smaller one is looked for, at most.
const SHRINKS: u32 = 2_000;
/// And for so many milliseconds.
const SHRINK_MS: u32 = 60_000;

/// The same application behind a sidecar and without one.
struct World {
    // Before the mesh: it serves from its hosts.
    runtime: Runtime,
    current: Arc<Current>,
    runs: AtomicU64,
    direct: (Host, SocketAddr),
    meshed: (Host, SocketAddr),
    _mesh: Mesh,
}

impl World {
    fn start(version: Version) -> Self {
        let (_, port) = PORTS.into_iter().find(|(one, _)| *one == version).expect("a port for each version");
        let mut mesh = Mesh::new();
        let client = mesh.workload("client").service_account("client").env("MESH_LOG", "debug").add();
        let outsider = mesh.workload("outsider").plain().add();
        let web = mesh.workload("web").of("web").env("MESH_LOG", "debug").add();
        let legacy = mesh.workload("legacy").of("legacy").plain().add();
        let service = mesh.service("web", port, port).add();
        mesh.start();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let current = Arc::new(Current::default());
        for host in [&web, &legacy] {
            let listener = host.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).expect("a free port");
            runtime.spawn(accept(listener, version, Arc::clone(&current)));
        }
        let direct = (outsider, (legacy.v4, port).into());
        Self { runtime, current, runs: AtomicU64::new(0), direct, meshed: (client, service.v4), _mesh: mesh }
    }

    /// Holds a conversation.
    fn hold(&self, script: &Conversation, way: Way) -> Result<Seen, String> {
        let (host, addr) = if way == Way::Direct { &self.direct } else { &self.meshed };
        let stage = Arc::new(Stage::new(self.runs.fetch_add(1, Ordering::Relaxed), script.clone(), way));
        self.current.set(&stage);
        let stream = host.enter(|| TcpStream::connect(addr)).map_err(|error| format!("{way:?}: {error}"))?;
        let held = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, talk(&stage, stream)).await });
        let mut requests = stage.requests();
        if script.version == Version::H2 {
            requests.sort_by_key(|(index, _)| *index);
        }
        match held {
            Ok(Ok((answers, end))) => Ok(Seen { answers, requests, end }),
            Ok(Err(error)) => Err(format!("{way:?}: {error}; the server saw {requests:#?}")),
            Err(_) => Err(format!("{way:?}: no end within {PATIENCE:?}; the server saw {requests:#?}")),
        }
    }

    fn compare(&self, script: &Conversation) -> Result<(), TestCaseError> {
        let [direct, meshed] = [Way::Direct, Way::Mesh].map(|way| self.hold(script, way));
        // The script is at fault, not the mesh.
        let direct = direct.unwrap_or_else(|error| panic!("{error}\n{script:#?}"));
        assert!(direct.end != Closing::Wrong, "{direct:#?}\n{script:#?}");
        match meshed {
            Ok(meshed) if meshed == direct => Ok(()),
            Ok(meshed) => Err(TestCaseError::fail(format!("directly {direct:#?}\nover the mesh {meshed:#?}"))),
            Err(error) => Err(TestCaseError::fail(format!("directly {direct:#?}\nover the mesh: {error}"))),
        }
    }
}

async fn talk(stage: &Arc<Stage>, stream: TcpStream) -> io::Result<(Vec<seen::Answered>, Closing)> {
    let stream = from_std(stream)?;
    let seen = match stage.script.version {
        Version::H1 => one::talk(stage, stream).await,
        Version::H2 => two::talk(stage, stream).await.map_err(io::Error::other)?,
    };
    stage.until_recorded(stage.script.exchanges.len()).await;
    Ok(seen)
}

fn from_std(stream: TcpStream) -> io::Result<tokio::net::TcpStream> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    tokio::net::TcpStream::from_std(stream)
}

async fn accept(listener: TcpListener, version: Version, current: Arc<Current>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let current = Arc::clone(&current);
        tokio::spawn(async move {
            // What goes wrong is seen at the client's end.
            match version {
                Version::H1 => drop(one::serve(&current, stream).await),
                Version::H2 => drop(two::serve(&current, stream).await),
            }
        });
    }
}

/// `SEED` if given; else always the same in `make test`, and another one for each run in `make torture`.
#[expect(clippy::disallowed_methods, reason = "a switch of the test's own")]
fn seed() -> u64 {
    let given = std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED: a number"));
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |time| time.as_secs());
    given.unwrap_or_else(|| if torture() { now() } else { 1 })
}

fn differ(version: Version) {
    let (world, seed, cases) = (World::start(version), seed(), count(100, 10_000));
    println!("SEED={seed}, {cases} conversations in {version:?}");
    let config = Config {
        cases,
        max_shrink_iters: SHRINKS,
        max_shrink_time: SHRINK_MS,
        failure_persistence: None,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let result = runner.run(&conversations(version), |script| world.compare(&script));
    match result {
        Ok(()) => record(
            if version == Version::H1 { 11 } else { 8 },
            &format!("the same without a mesh, {version:?}"),
            Who::Mesh,
            true,
            &format!("{cases} of {cases}"),
        ),
        Err(TestError::Fail(reason, script)) => panic!("SEED={seed}\n{script:#?}\n{reason}"),
        Err(TestError::Abort(reason)) => panic!("SEED={seed}: {reason}"),
    }
}

#[test]
fn http_1_is_the_same_over_two_sidecars_as_without() {
    differ(Version::H1);
}

#[test]
fn http_2_is_the_same_over_two_sidecars_as_without() {
    differ(Version::H2);
}
