//! Bad options, given to the daemons that are set up by options: each is refused by name, and nothing starts.
//!
//! Invariant: the options come from `--help`, so a new one is tried without being listed here, and one of a kind that no table
//! knows is a finding. Non-goal: the proxy, which has variables (`config`), and what good values do.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use mesh_tests::bin;
use mesh_tests::yardstick::{Who, record};

const USAGE: i32 = 64;
/// Of all that is said of one fault.
const LONGEST: usize = 8 * 1024;

/// What `--help` calls a value, and values that are not that.
const KINDS: &[(&str, &[&str])] = &[
    ("ADDR", &["8086", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:-1", "localhost:80", "[::1:80", ","]),
    ("HOST:PORT", &["identity", ":8080", "identity:", "identity:0", "identity:-1", "identity:65536", "identity:http"]),
    (
        "SPIFFE",
        &[
            "identity",
            "spiffe://",
            "http://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a",
            "spiffe:///ns/a/sa/b",
        ],
    ),
    ("N", &["-1", "0", "1k", "1.5", "0x10", "many", " 1", "99999999999999999999"]),
    ("DURATION", &["-1s", "10", "10 s", "1.5s", "10parsecs", "ms", "soon", "99999999999999999999s"]),
    ("LEVEL", &["loud", "info,h2=loud", "-1", "info,,warn"]),
    ("FORMAT", &["PLAIN", "xml", "1"]),
    ("NAME", &["", "UPPER", "a b", "a/b"]),
    ("FILE", &[]),
    ("DIR", &[]),
];
/// Values that none of them takes.
const COMMON: &[&str] = &["", "\u{1b}[2J", "a\nmesh: all is well"];

/// `--name <KIND>` as `--help` shows it.
fn options(program: &str) -> Vec<(String, String)> {
    let output = Command::new(bin(program)).arg("--help").output().expect(program);
    let text = String::from_utf8(output.stdout).expect("help in UTF-8");
    let option = |line: &str| {
        let (name, rest) = line.trim_start().strip_prefix("--")?.split_once(" <")?;
        Some((format!("--{name}"), rest.split_once('>')?.0.to_owned()))
    };
    text.lines().filter_map(option).collect()
}

/// With nothing wrong but that its port is taken.
fn good(program: &str, dir: &Path, taken: &str) -> Vec<String> {
    let at = |name: &str| dir.join(name).display().to_string();
    let own = match program {
        "mesh-identity" => vec![("--init-dir", at("ca")), ("--tokens", at("tokens"))],
        _ => vec![
            ("--manifests", at("manifests")),
            ("--identity-addr", "127.0.0.1:1".to_owned()),
            ("--trust-anchors", at("ca/anchors.pem")),
            ("--token-file", at("token")),
        ],
    };
    let listen = [("--listen", taken.to_owned()), ("--admin", taken.to_owned())];
    own.into_iter().chain(listen).map(|(name, value)| format!("{name}={value}")).collect()
}

/// Ends after 5 s in any case: who serves is a finding.
fn run(program: &str, args: &[String]) -> Output {
    let mut command = Command::new("timeout");
    let output = command.arg("5").arg(bin(program)).args(args).env_clear().stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What is wrong with how it ended.
fn finding(program: &str, args: &[String], named: &str) -> Option<String> {
    let output = run(program, args);
    let said = String::from_utf8_lossy(&output.stderr);
    let clean =
        !said.chars().any(|c| c.is_control() && c != '\n') && !said.lines().any(|line| line.starts_with("mesh: all"));
    let held = output.status.code() == Some(USAGE) && said.contains(named) && clean && said.len() <= LONGEST;
    (!held).then(|| format!("{named}: {} and {said:?}", output.status))
}

fn findings(program: &str) -> (usize, Vec<String>) {
    let dir = tempfile::tempdir().expect("a folder");
    mesh_identity::init::ensure(&dir.path().join("ca"), "cluster.local", std::time::SystemTime::now()).expect("a CA");
    std::fs::create_dir(dir.path().join("manifests")).expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let good = good(program, dir.path(), &taken.local_addr().expect("bound").to_string());
    // The proof that nothing starts before all is judged: with nothing else wrong, it fails over the port.
    let started = run(program, &good);
    let said = String::from_utf8_lossy(&started.stderr).into_owned();
    assert!(started.status.code() == Some(1) && said.contains("in use"), "{program}: {}: {said}", started.status);

    let (mut tried, mut findings) = (0, Vec::new());
    let mut judge = |args: &[String], named: &str| {
        tried += 1;
        findings.extend(finding(program, args, named));
    };
    let with = |name: &str, value: &str| {
        let others = good.iter().filter(|arg| !arg.starts_with(&format!("{name}=")));
        others.cloned().chain([format!("{name}={value}")]).collect::<Vec<_>>()
    };
    let options = options(program);
    assert!(options.len() >= 10, "{program}: {options:?}");
    for (name, kind) in &options {
        let known = KINDS.iter().find(|(known, _)| known == kind);
        let (_, own) = known.unwrap_or_else(|| panic!("{program}: of which kind is {name} <{kind}>?"));
        let is_path = matches!(kind.as_str(), "FILE" | "DIR");
        for value in own.iter().chain(COMMON.iter().filter(|value| !is_path && !own.contains(*value))) {
            judge(&with(name, value), name);
        }
        judge(&good.iter().cloned().chain([name.clone()]).collect::<Vec<_>>(), name);
        judge(&good.iter().cloned().chain([format!("{name}x=1")]).collect::<Vec<_>>(), &format!("{name}x"));
    }
    for (unknown, named) in [("--port=1", "--port"), ("serve", "serve"), ("-x", "-x"), ("", "''")] {
        judge(&good.iter().cloned().chain([unknown.to_owned()]).collect::<Vec<_>>(), named);
    }
    (tried, findings)
}

#[test]
fn r42_each_bad_option_is_refused_by_name_and_nothing_starts() {
    let all = ["mesh-identity", "mesh-destination"].map(findings);
    let tried: usize = all.iter().map(|(tried, _)| tried).sum();
    let findings = all.map(|(_, findings)| findings).concat();
    println!("{tried} cases");
    assert!(tried >= 150, "only {tried} cases");
    assert!(findings.is_empty(), "{} of {tried}:\n{}", findings.len(), findings.join("\n"));
    record(
        42,
        "options of identity and destination",
        Who::Mesh,
        true,
        &format!("{tried} of {tried} refused by name, exit 64"),
    );
}
