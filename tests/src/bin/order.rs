//! `order`: which functions a sidecar runs, for the linker to lay them side by side. Usage: `order FILE`.
//!
//! Runs a pair of sidecars under valgrind: first a start and a while without work, then requests of each kind. What the
//! first part ran comes first in FILE, what only the second ran follows. `make order` builds what this needs: programs
//! with their symbols one folder up.
//! Invariant: the list follows from what ran, nothing is added by hand.
//! Non-goal: counting; how often a function runs does not matter to where it lies.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mesh_tests::client::http::{Connection, Version, get};
use mesh_tests::client::within;
use mesh_tests::mesh::{App, Mesh, SOON};

const SIDECARS: [&str; 2] = ["client", "web"];
const HEADER: &str = "\
# What a sidecar runs: its start and quiet times first, then requests. Written by `make order`, read by build.rs.
# Hashes are left out where the name alone says which function is meant. Another compiler, profile or dependency has other
# hashes: then the last part, the same names without them, takes in all functions of that name.
";
/// Long enough for pings, upkeep and a sweep of memory under valgrind.
const QUIET: Duration = Duration::from_secs(35);
const REQUESTS: usize = 50;

/// Functions in the order in which they were first seen.
type Names = Vec<String>;

fn main() -> anyhow::Result<()> {
    let file = std::env::args().nth(1).context("usage: order FILE")?;
    let here = std::env::current_exe()?;
    let here = here.parent().context("a folder")?;
    let proxy = here.parent().context("a folder above")?.join("mesh-proxy");
    let traces = tempfile::tempdir()?;
    fs::set_permissions(traces.path(), fs::Permissions::from_mode(0o777))?;
    wrap(&proxy, here, traces.path())?;
    let [quiet, busy] = run(traces.path())?;
    let all = symbols(&proxy)?;
    let first = shorten(&quiet, &quiet, &all);
    let rest = shorten(&busy, &[quiet, busy.clone()].concat(), &all);
    let by_name = first.iter().chain(&rest).map(|name| plain(name)).collect();
    println!("{} functions of a quiet sidecar, {} of a busy one", first.len(), rest.len());
    fs::write(file, format!("{HEADER}{}\n", once([first, rest, by_name].concat()).join("\n")))?;
    Ok(())
}

/// A program named `mesh-proxy` that runs the real one under valgrind.
fn wrap(proxy: &Path, here: &Path, traces: &Path) -> anyhow::Result<()> {
    let wrapper = here.join("mesh-proxy");
    let (traces, proxy) = (traces.display(), proxy.display());
    let options = "-q --tool=callgrind --dump-line=no --demangle=no";
    fs::write(&wrapper, format!("#!/bin/sh\nexec valgrind {options} --callgrind-out-file={traces}/%p {proxy}\n"))?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// What ran in quiet times, and with requests.
fn run(traces: &Path) -> anyhow::Result<[Names; 2]> {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    mesh.workload("web").of("web").app(App::demo("demo-http", 8000, &[])).add();
    let found = mesh.service("web", 80, 8000).add().v4;
    let opaque = mesh.service("bytes", 81, 8000).over("web").protocol("mesh.internal/opaque").add().v4;
    mesh.start();
    std::thread::sleep(QUIET);
    end(&mut mesh);
    let quiet = take(traces)?;
    for name in SIDECARS {
        mesh.get_mut(name).proxy_mut().restart();
    }
    SIDECARS.iter().for_each(|name| mesh.get(name).until_proxy_ready());
    for (addr, version) in [(found, Version::H1), (found, Version::H2), (opaque, Version::H1)] {
        ask(&mesh, addr, version)?;
    }
    for name in SIDECARS {
        let _ = (mesh.get(name).metrics(), mesh.get(name).state());
    }
    end(&mut mesh);
    Ok([quiet, take(traces)?])
}

/// Only a sidecar that ends by itself leaves its trace.
fn end(mesh: &mut Mesh) {
    for name in SIDECARS {
        mesh.get_mut(name).proxy_mut().terminate(4 * SOON);
    }
}

fn ask(mesh: &Mesh, addr: SocketAddr, version: Version) -> anyhow::Result<()> {
    within(&mesh.get("client").host, async {
        let mut connection = Connection::open(addr, version).await?;
        for size in (0..REQUESTS).map(|n| if n % 10 == 0 { 1 << 20 } else { 100 }) {
            let answer = connection.fetch(get(addr, version, &format!("/bytes?n={size}"))).await?;
            ensure!(answer.status == 200 && answer.body.len() == size, "{answer:?}");
        }
        Ok(())
    })
}

/// The functions of all traces, which are removed.
fn take(traces: &Path) -> anyhow::Result<Names> {
    let mut names = Names::new();
    for trace in fs::read_dir(traces)? {
        let path = trace?.path();
        for line in fs::read_to_string(&path)?.lines() {
            let called = line.strip_prefix('c').unwrap_or(line).strip_prefix("fn=");
            names.extend(called.and_then(name_of).map(ToOwned::to_owned));
        }
        fs::remove_file(path)?;
    }
    let names = once(names);
    ensure!(names.len() > 100, "valgrind has seen no more than {} functions", names.len());
    Ok(names)
}

/// `(12) name'2`: a number, and at its first use the name, with the depth of a recursion.
fn name_of(text: &str) -> Option<&str> {
    let (_, name) = text.split_once(' ')?;
    name.split('\'').next().filter(is_whole)
}

/// Not the part of a function that its profile calls cold: that one lies where such parts do.
fn is_whole(name: &&str) -> bool {
    !name.ends_with(".cold")
}

/// The program's functions by their name without hashes.
fn symbols(proxy: &Path) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
    let output = Command::new("nm").arg(proxy).output().context("nm")?;
    let text = String::from_utf8(output.stdout)?;
    let mut symbols = BTreeMap::<_, BTreeSet<_>>::new();
    for line in text.lines() {
        if let [_, "t" | "T" | "w" | "W", name] = line.split(' ').collect::<Vec<_>>()[..]
            && is_whole(&name)
        {
            symbols.entry(plain(name)).or_default().insert(name.to_owned());
        }
    }
    ensure!(symbols.len() > 100, "{} has no symbols", proxy.display());
    Ok(symbols)
}

/// `names` as patterns: without hashes where that means no function that `ran` does not know.
fn shorten(names: &[String], ran: &[String], all: &BTreeMap<String, BTreeSet<String>>) -> Names {
    let ran: BTreeSet<_> = ran.iter().collect();
    let pattern = |name: &String| {
        let plain = plain(name);
        let same = all.get(&plain)?;
        same.contains(name).then(|| if same.iter().all(|name| ran.contains(name)) { plain } else { name.clone() })
    };
    once(names.iter().filter_map(pattern).collect())
}

/// Each name where it comes first.
fn once(names: Names) -> Names {
    let mut seen = BTreeSet::new();
    names.into_iter().filter(|name| seen.insert(name.clone())).collect()
}

/// A name without what a new compiler or a new version of a crate would change.
fn plain(name: &str) -> String {
    if name.contains('*') {
        return name.to_owned();
    }
    // `_ZN..17h0123456789abcdefE`, and perhaps `.llvm.` with a number.
    if name.starts_with("_ZN") {
        return name.rfind("17h").map_or_else(|| name.to_owned(), |at| format!("{}*", &name[..at]));
    }
    // `_RNv..Cs1a2B3c4D5e6_4core..`: the crate's own hash.
    if name.starts_with("_R") {
        let mut parts = name.split("Cs");
        let first = parts.next().unwrap_or_default().to_owned();
        return parts.fold(first, |text, part| match part.split_once('_') {
            Some((hash, rest)) if (8..16).contains(&hash.len()) => format!("{text}Cs*_{rest}"),
            _ => format!("{text}Cs{part}"),
        });
    }
    // `aws_lc_0_47_0_name`.
    let version = |text: &str| text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_').to_owned();
    name.strip_prefix("aws_lc_").map_or_else(|| name.to_owned(), |rest| format!("aws_lc_*_{}", version(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cold_parts_are_no_functions() {
        assert_eq!(name_of("(12) _ZN4mesh3run17h0123456789abcdefE'2"), Some("_ZN4mesh3run17h0123456789abcdefE"));
        assert_eq!(name_of("(12) _ZN4mesh3run17h0123456789abcdefE.cold"), None);
    }

    #[test]
    fn names_lose_what_changes_with_versions() {
        let cases = [
            ("_ZN2h25proto4poll17h7e30702058b55da8E", "_ZN2h25proto4poll*"),
            ("_ZN2h25proto4poll17h7e30702058b55da8E.llvm.123", "_ZN2h25proto4poll*"),
            ("_RNvNtNtCsgEmfK2I1SDS_4core3num3fmt", "_RNvNtNtCs*_4core3num3fmt"),
            ("aws_lc_0_47_0_EVP_sha256", "aws_lc_*_EVP_sha256"),
            ("_ZN3tls17handshake_to_peer*", "_ZN3tls17handshake_to_peer*"),
            ("main", "main"),
        ];
        for (name, expected) in cases {
            assert_eq!(plain(name), expected);
        }
    }

    #[test]
    fn a_hash_stays_where_the_name_alone_would_mean_too_much() {
        let [poll, other, read] = ["_ZN4poll17h1E", "_ZN4poll17h2E", "_ZN4read17h3E"].map(str::to_owned);
        let all = [("_ZN4poll*", vec![&poll, &other]), ("_ZN4read*", vec![&read])];
        let all = all.map(|(plain, names)| (plain.to_owned(), names.into_iter().cloned().collect()));
        let ran = [read, poll, "of_a_library".to_owned()];
        assert_eq!(shorten(&ran, &ran, &all.into()), ["_ZN4read*", "_ZN4poll17h1E"]);
    }
}
