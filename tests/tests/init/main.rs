//! `mesh-init` in real namespaces with real rules: what it refuses, what it leaves behind, what it captures.
//!
//! Invariant: each test owns its namespaces, so all of them run side by side. Needs root.

#![allow(clippy::unwrap_used, reason = "helpers of tests; a panic is the report")]

mod arguments;
mod capture;
mod idempotence;
mod verification;

use std::process::Command;

use mesh_tests::bin;
use mesh_tests::netns::Host;

/// The programs that list rules, one for each family of each backend.
const SAVES: [&str; 4] = ["iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"];

/// What a run of mesh-init gave.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// mesh-init for `host`, with `args` parted by blanks.
fn mesh_init(host: &Host, args: &str) -> Command {
    let mut command = Command::new(bin("mesh-init"));
    command.arg("--netns").arg(host.path()).args(args.split_whitespace());
    command
}

fn run(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Runs mesh-init where it has to succeed.
fn apply(host: &Host, args: &str) -> Ran {
    let ran = run(&mut mesh_init(host, args));
    assert_eq!(ran.code, Some(0), "{args}: {ran:?}");
    ran
}

/// All rules of a host, without comments and counters.
fn rules(host: &Host) -> String {
    SAVES.map(|save| format!("## {save}\n{}", saved(host, save))).concat()
}

fn saved(host: &Host, save: &str) -> String {
    let ran = run(&mut host.command(save));
    assert_eq!(ran.code, Some(0), "{save}: {ran:?}");
    let lines = ran.stdout.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| format!("{}\n", line.split(" [").next().unwrap_or_default())).collect()
}

/// Rules of somebody else around ours, in every table that ours could harm.
fn add_foreign_rules(host: &Host, backend: &str) {
    for family in ["iptables", "ip6tables"] {
        for rule in [
            "-t nat -N FOREIGN",
            "-t nat -A FOREIGN -p udp -j ACCEPT",
            "-t nat -A PREROUTING -p udp -j FOREIGN",
            "-t nat -A OUTPUT -p udp -j FOREIGN",
            "-t nat -A OUTPUT -p icmp -m comment --comment MESH_OUTBOUND -j ACCEPT",
            "-A INPUT -p udp --dport 53 -j ACCEPT",
        ] {
            let ran = run(host.command(format!("{family}-{backend}")).arg("--wait=30").args(rule.split(' ')));
            assert_eq!(ran.code, Some(0), "{rule}: {ran:?}");
        }
    }
}
