//! Bad configuration, given to the real program: each fault is one line that names its variable, and nothing starts.
//!
//! Invariant: the variables come from `mesh-proxy --help`, so a new one is tried without being listed here, and one of a
//! kind that no table knows is a finding.
//! Non-goal: what good values do.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::ffi::OsStringExt as _;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::SystemTime;

use mesh_identity::init;
use mesh_tests::bin;
use mesh_tests::netns::{Host, Net};
use mesh_tests::yardstick::{Who, record};

const USAGE: i32 = 64;
/// One line of an error, the help text of its variable included.
const LONGEST_LINE: usize = 1024;
/// Processes at a time.
const TOGETHER: usize = 4;

const LISTENERS: [&str; 3] = ["MESH_OUTBOUND_LISTEN", "MESH_INBOUND_LISTEN", "MESH_ADMIN_LISTEN"];

/// What `--help` says is expected, by how it begins, and values that are not that.
const KINDS: &[(&str, &[&str])] = &[
    (
        "addresses like",
        &["4143", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:-1", "localhost:4143", "[::1:4143", "0.0.0.0:4143,", ","],
    ),
    ("host:port", &["identity", ":8080", "identity:", "identity:0", "identity:-1", "identity:65536", "identity:http"]),
    (
        "a SPIFFE id",
        &[
            "identity",
            "-1",
            "spiffe://",
            "http://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a",
            "spiffe:///ns/a/sa/b",
        ],
    ),
    ("a path", &[]),
    ("text", &[]),
    ("IP addresses", &["-1", "web", "10.0.0", "10.0.0.7:80", "10.0.0.7,", "10.0.0.256", "fd00::7::1"]),
    ("a duration", &["-1s", "10", "10 s", "1.5s", "10parsecs", "ms", "soon", "1000000000s", "99999999999999999999s"]),
    ("a whole number", &["-1", "+1", "1k", "1.0", "0x10", "many", " 1", "99999999999", "99999999999999999999"]),
    ("plain or json", &["PLAIN", "xml", "1", "plain,json", "-1"]),
    ("auto, batch or other", &["BATCH", "fifo", "3", "batch,other", "-1"]),
    ("a level", &["loud", "info,h2=loud", "-1", "info,,warn", "INFO LOUD"]),
];

/// A variable as `--help` shows it.
#[derive(Clone, Debug)]
struct Variable {
    name: String,
    default: Option<String>,
    is_required: bool,
    expected: String,
}

/// A run with one bad variable, or with one missing.
struct Case {
    env: BTreeMap<String, OsString>,
    /// What the line must hold.
    named: String,
}

fn variables() -> Vec<Variable> {
    let output = Command::new(bin("mesh-proxy")).arg("--help").output().expect("mesh-proxy --help");
    let text = String::from_utf8(output.stdout).expect("help in UTF-8");
    let lines: Vec<&str> = text.lines().collect();
    let pairs = lines.windows(2).filter(|pair| pair[0].starts_with("  MESH_"));
    let variables = pairs.map(|pair| {
        let head = pair[0].trim();
        let end = head.find(['=', ' ']).unwrap_or(head.len());
        let expected = KINDS.iter().filter_map(|(kind, _)| pair[1].rfind(&format!(": {kind}"))).max();
        Variable {
            name: head[..end].to_owned(),
            default: head[end..].strip_prefix('=').map(str::to_owned),
            is_required: head.ends_with("(required)"),
            expected: expected.map(|at| pair[1][at + 2..].to_owned()).unwrap_or_default(),
        }
    });
    variables.collect()
}

/// The required ones, such that the program starts if the ports are free.
fn good(anchors: &str) -> BTreeMap<String, OsString> {
    let pairs = [
        ("MESH_IDENTITY_ADDR", "127.0.0.1:8080"),
        ("MESH_DESTINATION_ADDR", "127.0.0.1:8086"),
        ("MESH_TRUST_ANCHORS", anchors),
        ("MESH_TOKEN_FILE", "/dev/null"),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

/// Values that no variable of this kind takes.
fn bad_values(variable: &Variable) -> Vec<OsString> {
    let kind = KINDS.iter().find(|(kind, _)| variable.expected.starts_with(kind));
    let (_, own) = kind.unwrap_or_else(|| panic!("of which kind is {variable:?}?"));
    let base = variable.default.clone().unwrap_or_else(|| match variable.expected.as_str() {
        "host:port" => "identity:8080".to_owned(),
        expected if expected.starts_with("IP addresses") => "10.0.0.7".to_owned(),
        _ => "/some/where".to_owned(),
    });
    let common: [OsString; 5] = [
        "".into(),
        "x".repeat(5000).into(),
        format!("{base}\nmesh-proxy: all is well").into(),
        format!("\u{1b}[2J{base}").into(),
        OsString::from_vec([b"\xff", base.as_bytes()].concat()),
    ];
    own.iter().map(OsString::from).chain(common).collect()
}

/// Two neighbours in another order, behind the prefix.
fn mistyped(name: &str) -> String {
    let mut bytes = name.as_bytes().to_vec();
    let at = (6..bytes.len()).find(|at| bytes[*at] != bytes[at - 1]).expect("two different letters");
    bytes.swap(at - 1, at);
    String::from_utf8(bytes).expect("ASCII")
}

fn cases(good: &BTreeMap<String, OsString>, variables: &[Variable]) -> Vec<Case> {
    let with = |name: &str, value: OsString| {
        let mut env = good.clone();
        env.insert(name.to_owned(), value);
        env
    };
    let mut cases = Vec::new();
    for variable in variables {
        let name = &variable.name;
        let bad = bad_values(variable).into_iter();
        cases.extend(bad.map(|value| Case { env: with(name, value), named: format!("{name}=\"") }));
        let typo = mistyped(name);
        let named = format!("{typo} is not known; did you mean {name}?");
        cases.push(Case { env: with(&typo, "1".into()), named });
        if variable.is_required {
            let mut env = good.clone();
            env.remove(name);
            cases.push(Case { env, named: format!("{name} is not set") });
        }
    }
    for unknown in ["MESH_", "MESH_FROBNICATE", "MESH_\u{1b}[2J", "MESH_A\nmesh-proxy: all is well"] {
        let shown = unknown.escape_debug().to_string();
        cases.push(Case { env: with(unknown, "1".into()), named: format!("{shown} is not known") });
    }
    cases
}

/// Runs the program on the calling thread's network, with nothing else in its environment.
fn run(env: &BTreeMap<String, OsString>) -> Output {
    let mut command = Command::new(bin("mesh-proxy"));
    let output = command.env_clear().envs(env).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What is wrong with how a case ended.
fn finding(case: &Case, output: &Output) -> Option<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.split_terminator('\n').collect();
    let one_line = matches!(lines.as_slice(), [line] if line.contains(&case.named) && line.len() <= LONGEST_LINE);
    let clean = !said.trim_end().chars().any(char::is_control) && output.stdout.is_empty();
    let held = output.status.code() == Some(USAGE) && one_line && clean;
    (!held).then(|| format!("{:?}: {} and {said:?}", case.named, output.status))
}

/// Occupies the proxy's ports: a proxy that listens before it has judged its configuration cannot end with 64.
fn occupy(host: &Host, variables: &[Variable]) -> Vec<TcpListener> {
    let defaults = variables.iter().filter(|variable| LISTENERS.contains(&variable.name.as_str()));
    let addrs = defaults.flat_map(|variable| variable.default.as_deref().unwrap_or_default().split(','));
    let mut listeners = Vec::new();
    for addr in addrs {
        // A socket for all IPv6 addresses takes IPv4's as well.
        match host.enter(|| TcpListener::bind(addr)) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            listener => listeners.push(listener.unwrap_or_else(|error| panic!("{addr}: {error}"))),
        }
    }
    listeners
}

#[test]
fn r42_each_bad_variable_is_one_line_that_names_it_and_nothing_starts() {
    let net = Net::new();
    let host = net.host("scratch");
    let dir = tempfile::tempdir().expect("a folder");
    init::ensure(dir.path(), "cluster.local", SystemTime::now()).expect("a CA");
    let anchors = dir.path().join(init::ANCHORS).display().to_string();
    let (good, variables) = (good(&anchors), variables());
    let _occupied = occupy(&host, &variables);
    // The proof that the ports tell: with nothing else wrong, the program fails over them.
    let started = host.enter(|| run(&good));
    let said = String::from_utf8_lossy(&started.stderr).into_owned();
    assert!(started.status.code() == Some(1) && said.contains("in use"), "{}: {said}", started.status);

    let cases = cases(&good, &variables);
    let findings: Vec<String> = thread::scope(|scope| {
        let share = cases.len().div_ceil(TOGETHER);
        let runs = cases.chunks(share).map(|cases| {
            let host = &host;
            let all = move || cases.iter().filter_map(|case| finding(case, &run(&case.env))).collect::<Vec<_>>();
            scope.spawn(move || host.enter(all))
        });
        let runs: Vec<_> = runs.collect();
        runs.into_iter().flat_map(|run| run.join().expect("no panic")).collect()
    });
    println!("{} variables, {} cases, {} findings", variables.len(), cases.len(), findings.len());
    assert!(cases.len() >= 150, "only {} cases", cases.len());
    assert!(findings.is_empty(), "{} of {}:\n{}", findings.len(), cases.len(), findings.join("\n"));
    let figure = format!("{0} of {0} on one line by name, exit 64, nothing listens", cases.len());
    record(42, "variables of the proxy", Who::Mesh, true, &figure);
}

#[test]
fn r42_all_bad_variables_are_named_at_once() {
    let variables = variables();
    let env: BTreeMap<_, _> =
        variables.iter().map(|variable| (variable.name.clone(), bad_values(variable).remove(0))).collect();
    let output = run(&env);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(USAGE), "{said}");
    assert_eq!(said.lines().count(), variables.len(), "{said}");
    for Variable { name, .. } in &variables {
        let lines = said.lines().filter(|line| line.starts_with(&format!("mesh-proxy: {name}=\""))).count();
        assert_eq!(lines, 1, "{name} in {said}");
    }
}

#[test]
fn r42_arguments_are_refused() {
    for argument in ["--port=4143", "start", "-v", ""] {
        let output = Command::new(bin("mesh-proxy")).env_clear().arg(argument).output().expect("mesh-proxy");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(USAGE), "{argument:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{argument:?}: {said}");
    }
}
