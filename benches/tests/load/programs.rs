//! The programs themselves: `bench-load` against `bench-backend`, each kind of load at once.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use mesh_benches::load::tally::Summary;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LOAD: &str = env!("CARGO_BIN_EXE_bench-load");
const ANY: &str = "127.0.0.1:0";

/// Ends with its value, also when a test fails.
struct Backend {
    process: Child,
    http: String,
    echo: String,
    grpc: String,
}

impl Backend {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bench-backend"));
        command.args(["--http", ANY, "--echo", ANY, "--grpc", ANY]).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the back end starts");
        let mut lines = BufReader::new(process.stdout.take().expect("its stdout")).lines();
        let mut listening = |name: &str| {
            let line = lines.next().expect("a line").expect("text");
            line.strip_prefix(&format!("listening {name} ")).unwrap_or_else(|| panic!("{line}")).to_owned()
        };
        Self { http: listening("http"), echo: listening("echo"), grpc: listening("grpc"), process }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start(arguments: &str, target: &str) -> Child {
    let mut command = Command::new(LOAD);
    command.args(arguments.split(' ')).args(["--target", target]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the load starts")
}

#[test]
fn every_kind_of_load_is_answered_whole_and_the_back_end_ends_in_order() {
    let mut backend = Backend::start();
    let (http, echo, grpc) = (&backend.http, &backend.echo, &backend.grpc);
    let loads = [
        ("rate --proto h1 --rate 200 --seconds 1", http, 100, Some(200)),
        ("rate --proto h2 --rate 200 --seconds 1 --connections 2 --path /b/10000", http, 10_000, Some(200)),
        ("rate --proto tcp --rate 200 --seconds 1", echo, 64, Some(200)),
        ("churn --proto http --at-once 2 --seconds 1", http, 100, None),
        ("churn --proto tcp --at-once 2 --seconds 1", echo, 64, None),
        ("hold --proto http --count 50", http, 100, Some(50)),
        ("hold --proto tcp --count 50", echo, 64, Some(50)),
        ("grpc --mode unary --concurrency 2 --seconds 1", grpc, 100, None),
        ("grpc --mode stream --concurrency 2 --seconds 1", grpc, 100, None),
    ];
    let running = loads.map(|(arguments, target, each, count)| (arguments, start(arguments, target), each, count));
    for (arguments, load, each, count) in running {
        let output = load.wait_with_output().unwrap();
        let (out, failure) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let last = out.lines().last().unwrap_or_default();
        let summary: Summary = serde_json::from_str(last).unwrap_or_else(|error| panic!("{arguments}: {error}: {out}"));
        assert_eq!(summary.errors, 0, "{arguments}: {failure}");
        assert!(summary.requests > 0 && count.is_none_or(|count| count == summary.requests), "{arguments}: {out}");
        assert_eq!(summary.bytes, summary.requests * each, "{arguments}: {out}");
        assert!(summary.p50_us > 0.0 && summary.p50_us <= summary.p999_us, "{arguments}: {out}");
    }
    kill(Pid::from_raw(backend.process.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert!(backend.process.wait().unwrap().success());
}

#[test]
fn a_load_that_cannot_begin_still_prints_its_line() {
    let backend = Backend::start();
    let output = start("rate --proto h1 --path /nothing", &backend.http).wait_with_output().unwrap();
    let summary: Summary = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((summary.requests, summary.errors), (0, 1));
    let failure = String::from_utf8_lossy(&output.stderr);
    assert!(failure.contains("before the load: status 404"), "{failure}");
}
