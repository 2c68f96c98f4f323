//! The crates: who may depend on whom.
//!
//! Invariant: [`TABLE`] is the design's table; dependencies of tests are free, those of the product are not.
//! Non-goal: crates of others.

use std::fs;

use crate::source::Workspace;

/// Crate folder, and the crates of ours that it may depend on.
const TABLE: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("kit", &[]),
    ("mtls", &["proto", "kit"]),
    ("init", &[]),
    ("proxy", &["kit", "proto", "mtls"]),
    ("destination", &["kit", "proto", "mtls"]),
    ("identity", &["kit", "proto", "mtls"]),
    ("injector", &["kit", "init"]),
    ("cli", &["proto", "mtls", "injector", "init"]),
    ("tests", ALL),
    ("benches", ALL),
];

const ALL: &[&str] = &["proto", "kit", "mtls", "init", "proxy", "destination", "identity", "injector", "cli", "tests"];

/// The arrows found, and those that the table does not list.
pub(crate) fn arrows(workspace: &Workspace) -> (String, Vec<String>) {
    let (mut lines, mut findings) = (Vec::new(), Vec::new());
    for folder in members(workspace) {
        let Some((_, allowed)) = TABLE.iter().find(|(name, _)| *name == folder) else {
            findings.push(format!("{folder} is no crate of the design"));
            continue;
        };
        let found = dependencies(workspace, &folder);
        for name in found.iter().filter(|name| !allowed.contains(&name.as_str())) {
            findings.push(format!("{folder} may not depend on {name}"));
        }
        lines.push(format!("  {folder} -> {}", found.join(", ")));
    }
    (lines.join("\n"), findings)
}

fn members(workspace: &Workspace) -> Vec<String> {
    let manifest = fs::read_to_string(workspace.root.join("Cargo.toml")).expect("the workspace's manifest");
    let list = manifest.split_once("members = [").and_then(|(_, rest)| rest.split_once(']')).map(|(list, _)| list);
    let names = list.expect("a list of members").split(',').map(|name| name.trim().trim_matches('"').to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

/// Our own crates in `[dependencies]`, without their prefix.
fn dependencies(workspace: &Workspace, folder: &str) -> Vec<String> {
    let path = workspace.root.join(folder).join("Cargo.toml");
    let manifest = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut found = Vec::new();
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.contains("dependencies") && !line.contains("dev-");
        }
        let key: String = line.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        if let Some(name) = key.strip_prefix("mesh-").filter(|_| inside) {
            found.push(name.to_owned());
        }
    }
    found
}
