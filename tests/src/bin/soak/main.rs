//! `make soak`: a mesh under a mixed load for hours, while its parts die, drain, move and rotate. Nothing may fail that a
//! fault does not excuse, and nothing may grow.
//!
//! Read in this order: `talk` (the load), `fault` (what happens to it), `gauge` (what is measured), `verdict`. Invariant: the
//! sidecars that are measured live from the first to the last second.
//! Non-goal: speed; the load is steady, and far below what the machine could do.

#![forbid(unsafe_code)]

mod fault;
mod gauge;
mod talk;
mod verdict;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use mesh_tests::mesh::{App, Mesh};

use fault::Fault;
use gauge::Gauges;
use talk::{Kind, Talks};

const HTTP: u16 = 8000;
const GRPC: u16 = 9000;
const TCP: u16 = 7000;
/// Replicas of the service; the first is left alone, and measured.
const REPLICAS: [&str; 3] = ["web-0", "web-1", "web-2"];
/// Before the first fault and after the last one.
const CALM: Duration = Duration::from_secs(15);
/// From one fault to the next.
const BETWEEN: Duration = Duration::from_secs(12);
const MINUTE: Duration = Duration::from_secs(60);

/// A mesh under load and faults, for hours
#[derive(Parser)]
struct Args {
    /// How long
    #[arg(long, default_value = "8")]
    hours: f64,
    /// Decides which fault comes when
    #[arg(long, default_value = "1")]
    seed: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(args.hours * 3600.0);
    println!("== a mesh of {} replicas for {} h, seed {}", REPLICAS.len(), args.hours, args.seed);
    let (mut mesh, kinds) = mesh();
    let onlooker = mesh.host("onlooker");
    let talks = Talks::start(&mesh.get("client").host, &kinds);
    let mut gauges = Gauges::of(&mesh, &["client", REPLICAS[0]]);
    let mut random = fastrand::Rng::with_seed(args.seed);
    let mut faults = Vec::new();
    let mut shown = Instant::now();
    gauges.watch(&mesh, CALM);
    while Instant::now() + CALM + BETWEEN < end {
        let fault = Fault::ALL[random.usize(..Fault::ALL.len())];
        faults.push(fault.happen(&mut mesh, &onlooker, &mut random));
        gauges.watch(&mesh, BETWEEN);
        if shown.elapsed() >= MINUTE {
            shown = Instant::now();
            let left = end.saturating_duration_since(shown).as_secs() / 60;
            println!("{left:>4} min left: {} faults, {}; {}", faults.len(), talks.progress(), gauges.newest());
        }
    }
    gauges.watch(&mesh, end.saturating_duration_since(Instant::now()).max(CALM));
    let said = talks.stop();
    let verdict = verdict::judge(&mesh, &gauges, &said, &faults);
    println!("== after {:.2} h, seed {}", begin.elapsed().as_secs_f64() / 3600.0, args.seed);
    println!("{verdict}");
    verdict.record(begin.elapsed());
    if verdict.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The mesh, running, and where each kind of conversation dials.
fn mesh() -> (Mesh, Vec<(Kind, std::net::SocketAddr)>) {
    let mut mesh = Mesh::new();
    // Hours of single requests' misfortunes are not to be kept in memory.
    mesh.workload("client").service_account("client").env("MESH_LOG", "warn").add();
    for name in REPLICAS {
        let named = format!("--name={name}");
        let spec = mesh.workload(name).of("web").env("MESH_LOG", "warn");
        let spec = spec.app(App::demo("demo-http", HTTP, &[&named])).app(App::demo("demo-grpc", GRPC, &[&named]));
        spec.app(App::demo("demo-greet", TCP, &[&named, "--mode=echo"])).add();
    }
    let http = mesh.service("web", 80, HTTP).add().v4;
    let grpc = mesh.service("web-grpc", GRPC, GRPC).over("web").add().v4;
    let tcp = mesh.service("web-tcp", TCP, TCP).over("web").add().v4;
    mesh.start();
    let kinds = [(Kind::Http1, http), (Kind::Http2, http), (Kind::Grpc, grpc), (Kind::Tcp, tcp), (Kind::Upgrade, http)];
    (mesh, kinds.to_vec())
}
