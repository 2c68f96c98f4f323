//! The rooms of the proxy: who may know whom, and what only one of them may touch.
//!
//! Invariant: [`TABLE`] is the design's table; an arrow that it does not list is a finding.
//! Non-goal: arrows to other crates; `crates` has those.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{File, Mention, Workspace};

/// Room, and what it may know beside `kit` and `mtls`.
const TABLE: &[(&str, &[&str])] = &[
    ("detect", &[]),
    ("model", &[]),
    ("resilience", &["model"]),
    ("metrics", &["model"]),
    ("trace", &[]),
    ("net", &[]),
    // Which protocol a request came in, and whose it is, are words of the model.
    ("http", &["net", "metrics", "model"]),
    // Not in the design's first table: detection over a live connection, which detect itself may not touch.
    ("sniff", &["detect", "net", "http"]),
    ("tap", &["model"]),
    ("balance", &["model", "net", "http", "resilience", "metrics"]),
    ("control", &["model", "net", "metrics", "resilience"]),
    ("health", &["model", "net", "metrics", "control"]),
    ("inbound", ABOVE),
    ("outbound", ABOVE),
    ("admin", &["metrics", "tap", "control"]),
    // Each room's own `Settings`, and nothing else of it: see `trades`.
    ("config", EVERYTHING),
    ("app", EVERYTHING),
    ("main", EVERYTHING),
    ("lib", EVERYTHING),
];

/// What the two stories may know: the rooms above them in the table, and never each other.
const ABOVE: &[&str] =
    &["sniff", "detect", "model", "resilience", "metrics", "trace", "net", "http", "tap", "balance", "control"];

/// Where `unsafe` may be: sockets, the heap, and a call to the kernel that no library has.
const UNSAFE: [&str; 3] = ["proxy/src/net/", "kit/src/memory", "kit/src/scheduling.rs"];

const EVERYTHING: &[&str] = &[
    "sniff",
    "detect",
    "model",
    "resilience",
    "metrics",
    "trace",
    "net",
    "http",
    "tap",
    "balance",
    "control",
    "health",
    "inbound",
    "outbound",
    "admin",
    "config",
    "app",
];

/// Rooms without a runtime and without a clock.
const PURE: &[&str] = &["detect", "model", "resilience"];

const ROOT: &str = "proxy/src/";

/// The arrows found, and those that the table does not list.
pub(crate) fn arrows(workspace: &Workspace) -> (String, Vec<String>) {
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut findings = Vec::new();
    for file in workspace.under(ROOT) {
        let (room, nesting) = room(file);
        let Some((room, allowed)) = TABLE.iter().find(|(name, _)| *name == room) else {
            findings.push(format!("{}: {room} is no room of the design", file.path));
            continue;
        };
        for mention in &file.paths {
            let Some(target) = target(mention, nesting).filter(|target| target != room) else {
                continue;
            };
            found.entry(room).or_default().insert(target);
            if !allowed.contains(&target) {
                findings.push(format!("{}:{}: {room} may not know {target}", file.path, mention.line));
            }
        }
    }
    let lines = found.iter().map(|(room, targets)| {
        let targets: Vec<_> = targets.iter().copied().collect();
        format!("  {room} -> {}", targets.join(", "))
    });
    (lines.collect::<Vec<_>>().join("\n"), findings)
}

/// What only one room may touch.
pub(crate) fn trades(workspace: &Workspace) -> Vec<String> {
    let names = metric_names(workspace);
    let mut findings = Vec::new();
    for file in workspace.under(ROOT) {
        let (room, _) = room(file);
        let mut find = |line: usize, what: String| findings.push(format!("{}:{line}: {what}", file.path));
        for mention in &file.paths {
            if let Some(what) = trespass(room, file, mention) {
                find(mention.line, what);
            }
        }
        if room != "metrics" {
            for (text, line) in file.strings.iter().filter(|(text, _)| names.contains(text)) {
                find(*line, format!("only metrics spells a metric's name, {text:?}"));
            }
        }
    }
    let may = |file: &&File| UNSAFE.iter().any(|place| file.path.starts_with(place));
    for file in workspace.files.iter().filter(|file| !may(file)) {
        for mention in file.paths.iter().filter(|mention| is_unsafe(mention)) {
            findings.push(format!("{}:{}: unsafe outside of {UNSAFE:?}", file.path, mention.line));
        }
    }
    findings
}

fn trespass(room: &str, file: &File, mention: &Mention) -> Option<String> {
    // A test of a pure room needs a moment to start from; it is the only clock reading that it may make.
    let is_test = mention.depth > 0 || file.path.ends_with("tests.rs");
    let segments: Vec<&str> = mention.segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        ["mesh_kit", "env", ..] if room != "config" => Some("only config reads the environment".to_owned()),
        ["mesh_proto", ..] if !matches!(room, "control" | "admin") => {
            Some("only control and admin see wire types".to_owned())
        }
        ["tokio", ..] if PURE.contains(&room) => Some(format!("{room} is pure: no tokio")),
        [.., "Instant" | "SystemTime", "now"] if PURE.contains(&room) && !is_test => {
            Some(format!("{room} is pure: no clock"))
        }
        ["metrics", "counter" | "gauge" | "histogram"] | ["counter" | "gauge" | "histogram"]
            if room != "metrics" && mention.is_macro =>
        {
            Some("only metrics makes handles".to_owned())
        }
        ["crate", target, .., last] if room == "config" && *target != "config" => {
            // Modules are how `net::listen::Settings` is named; types must be settings.
            let is_type = last.starts_with(char::is_uppercase) && !last.ends_with("Settings");
            is_type.then(|| format!("config knows only each room's settings, not {target}'s {last}"))
        }
        _ => None,
    }
}

fn is_unsafe(mention: &Mention) -> bool {
    let allows = matches!(mention.attribute.as_deref(), Some("allow" | "expect" | "cfg_attr"));
    mention.segments.iter().any(|word| word == "unsafe" || (word == "unsafe_code" && allows))
}

/// The literals of the metrics room that can only be names of metrics.
fn metric_names(workspace: &Workspace) -> BTreeSet<&String> {
    let endings = ["_total", "_seconds", "_bytes", "_info", "_open", "_in_flight", "_count"];
    let name = |text: &&String| {
        let words = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        words && endings.iter().any(|ending| text.ends_with(ending))
    };
    let files = workspace.under(ROOT).filter(|file| room(file).0 == "metrics");
    files.flat_map(|file| file.strings.iter().map(|(text, _)| text)).filter(name).collect()
}

/// The room of a file, and how deep its module lies under the crate's root.
fn room(file: &File) -> (&str, usize) {
    let inside = file.path.strip_prefix(ROOT).unwrap_or(&file.path).trim_end_matches(".rs");
    let inside = inside.trim_end_matches("/mod");
    (inside.split('/').next().unwrap_or(inside), inside.split('/').count())
}

/// The room that a path leads to, when it passes the crate's root.
fn target(mention: &Mention, nesting: usize) -> Option<&str> {
    let supers = mention.segments.iter().take_while(|word| *word == "super" || *word == "self").count();
    let climbs = mention.segments[..supers].iter().filter(|word| *word == "super").count();
    let after = match mention.segments.first().map(String::as_str) {
        Some("crate") => 1,
        Some("super" | "self") if climbs >= nesting + mention.depth => supers,
        _ => return None,
    };
    mention.segments.get(after).map(String::as_str).filter(|word| word.starts_with(|c: char| c.is_lowercase()))
}
