//! gRPC's interoperability cases between two implementations that are not ours: grpcio calls tonic and tonic calls grpcio
//! (R64), through whatever is between them.
//!
//! Invariant: each case means the same in `cases` and in `python/interop_client.py`.
//! Non-goal: installing grpcio; `make` does, into `target/venv`.

mod cases;
mod server;

use std::mem;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use cases::soak;
use cases::{NAMES, Outcome};
pub use server::serve;

use crate::bins;
use crate::mesh::App;
use crate::netns::{Host, Proc};
use crate::yardstick::count;

/// The service of `proto/interop.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
mod proto {
    tonic::include_proto!("mesh.interop.v1");
}

/// All cases of a client, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What came of all cases between two.
#[derive(Debug)]
pub struct Tally {
    /// Who called whom.
    pub between: &'static str,
    /// The cases that failed, and why.
    pub failures: Vec<String>,
    /// How many held, in words.
    pub figure: String,
}

/// All cases in both directions, several times over: some depend on which of two frames comes first.
///
/// # Panics
/// When a client does not end in time.
#[must_use]
pub fn both(client: &Host, to_grpcio: SocketAddr, to_tonic: SocketAddr) -> [Tally; 2] {
    [
        each_time("grpcio to tonic", || by_grpcio(client, to_tonic)),
        each_time("tonic to grpcio", || by_tonic(client, to_grpcio)),
    ]
}

/// A case holds that holds each time.
fn each_time(between: &'static str, run: impl Fn() -> [Outcome; NAMES.len()]) -> Tally {
    let times = count(10, 50);
    let mut outcomes = run();
    for _ in 1..times {
        for (first, again) in outcomes.iter_mut().zip(run()) {
            *first = mem::replace(first, Ok(())).and(again);
        }
    }
    let failed = NAMES.iter().zip(outcomes).filter_map(|(name, held)| Some(format!("{name}: {}", held.err()?)));
    let failures: Vec<_> = failed.collect();
    let figure = format!("{} of {}, each {times} times", NAMES.len() - failures.len(), NAMES.len());
    Tally { between, failures, figure }
}

fn by_tonic(client: &Host, addr: SocketAddr) -> [Outcome; NAMES.len()] {
    client.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime in a test").block_on(cases::run(addr))
    })
}

fn by_grpcio(client: &Host, addr: SocketAddr) -> [Outcome; NAMES.len()] {
    let mut client = grpcio(client, addr, &["cases".to_owned()]);
    client.wait(PATIENCE);
    let output = client.output();
    NAMES.map(|name| match output.lines().find(|line| line.split(' ').nth(1) == Some(name)) {
        Some(line) if line.starts_with("ok ") => Ok(()),
        // Each failure's reason is between its line and the next.
        Some(line) => Err(output.split_once(line).map(|(_, after)| after).unwrap_or_default().to_owned()),
        None => Err(format!("no verdict in\n{output}")),
    })
}

/// The client in grpcio, with arguments that `python/interop_client.py` explains.
///
/// # Panics
/// When grpcio is not installed.
#[must_use]
pub fn grpcio(client: &Host, addr: SocketAddr, arguments: &[String]) -> Proc {
    let mut command = client.command(python());
    // grpcio honours proxies of the environment, and would not dial by itself.
    command.arg(script("interop_client.py")).arg(addr.to_string()).args(arguments).env("no_grpc_proxy", "*");
    Proc::spawn(&mut command)
}

/// The service in grpcio, on a port of all addresses.
///
/// # Panics
/// When grpcio is not installed.
#[must_use]
pub fn grpcio_server(port: u16) -> App {
    App::new(python(), &[&script("interop_server.py"), &format!("--port={port}")])
}

fn python() -> PathBuf {
    let venv = bins::target().map(|target| target.join("venv/bin/python"));
    let python = venv.filter(|path| path.exists());
    python.expect("grpcio: python3 -m venv target/venv && target/venv/bin/pip install grpcio")
}

fn script(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name).display().to_string()
}
