//! What the programs are made of: versions of others' crates, and who may be unsafe.
//!
//! Invariant: holds without a network, on what the lock files say. Advisories that came later are `make deny`'s.

use std::fs;

use crate::source::Workspace;

/// The first version of a crate without what was known against it on 2026-11-20, as in `deny.toml`.
const FLOORS: &[(&str, [u64; 3])] = &[
    ("h2", [0, 4, 20]),
    ("hyper", [1, 12, 0]),
    ("rustls", [0, 23, 46]),
    ("rustls-webpki", [0, 103, 16]),
    ("tokio", [1, 54, 1]),
];

/// The crate that declares functions of the C library's allocator, where `unsafe` cannot be forbidden but is denied.
const MAY_BE_UNSAFE: &str = "kit/";

/// Packages in a lock file that are older than their floor, or come from somewhere else than the registry.
pub(crate) fn floors(workspace: &Workspace) -> Vec<String> {
    let mut findings = Vec::new();
    for lock in ["Cargo.lock", "fuzz/Cargo.lock"] {
        let text = fs::read_to_string(workspace.root.join(lock)).unwrap_or_else(|error| panic!("{lock}: {error}"));
        let packages = packages(&text);
        for (name, floor) in FLOORS {
            let mut versions = packages.iter().filter(|(package, ..)| package == name).peekable();
            assert!(versions.peek().is_some(), "{lock} has no {name}");
            for (_, version, _) in versions.filter(|(_, version, _)| numbers(version) < *floor) {
                findings.push(format!("{lock}: {name} {version} is older than {floor:?}"));
            }
        }
        for (name, _, source) in &packages {
            let ours = name.starts_with("mesh-") && source.is_none();
            let registry = source.is_some_and(|source| source.starts_with("registry+"));
            if !ours && !registry {
                findings.push(format!("{lock}: {name} comes from {source:?}"));
            }
        }
    }
    let manifest = fs::read_to_string(workspace.root.join("deny.toml")).expect("deny.toml");
    let listed = |(name, [a, b, c]): &&(&str, [u64; 3])| {
        manifest.contains(&format!("name = \"{name}\", version = \"<{a}.{b}.{c}\""))
    };
    findings.extend(FLOORS.iter().filter(|floor| !listed(floor)).map(|(name, _)| format!("deny.toml lacks {name}")));
    findings
}

/// Roots of crates without `#![forbid(unsafe_code)]`.
pub(crate) fn unforbidden(workspace: &Workspace) -> Vec<String> {
    let is_root = |path: &str| {
        let root =
            ["src/lib.rs", "src/main.rs"].iter().any(|root| path.split_once('/').is_some_and(|(_, p)| p == *root));
        let program = path.split_once("/src/bin/").is_some_and(|(_, p)| !p.contains('/') || p.ends_with("/main.rs"));
        (root || program) && !path.starts_with(MAY_BE_UNSAFE)
    };
    let roots = workspace.files.iter().filter(|file| is_root(&file.path));
    let open = roots.filter(|file| !file.text.contains("\n#![forbid(unsafe_code)]\n"));
    open.map(|file| format!("{}: does not forbid unsafe code", file.path)).collect()
}

/// Lines of the Makefile that build a release of the sidecar beside other packages. Its libraries would have the features that
/// those ask for as well, and so other names than in `proxy/profile.profdata`: the compiler says nothing, and follows no profile.
pub(crate) fn beside_others(workspace: &Workspace) -> Vec<String> {
    let makefile = fs::read_to_string(workspace.root.join("Makefile")).expect("Makefile");
    let builds: Vec<_> = makefile.lines().filter(|line| line.contains("-p mesh-proxy")).collect();
    assert!(builds.len() >= 3, "the Makefile builds it, for the profile and for the order too: {builds:?}");
    let beside = builds.iter().filter(|line| line.contains("$(PROGRAMS)") || line.matches(" -p ").count() > 1);
    let programs = makefile.lines().filter(|line| line.starts_with("PROGRAMS") && line.contains("mesh-proxy"));
    beside.copied().chain(programs).map(|line| format!("Makefile: {line}")).collect()
}

/// Name, version and source of each package.
fn packages(lock: &str) -> Vec<(&str, &str, Option<&str>)> {
    let value = |block: &'_ str, key: &str| -> Option<std::ops::Range<usize>> {
        let start = block.find(&format!("\n{key} = \""))? + key.len() + 5;
        Some(start..start + block[start..].find('"')?)
    };
    let blocks = lock.split("[[package]]").skip(1);
    let package = |block| {
        let text = |key| value(block, key).map(|range| &block[range]);
        Some((text("name")?, text("version")?, text("source")))
    };
    blocks.filter_map(package).collect()
}

fn numbers(version: &str) -> [u64; 3] {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0));
    [(); 3].map(|()| parts.next().unwrap_or(0))
}
