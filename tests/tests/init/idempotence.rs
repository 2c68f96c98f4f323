//! R40: running again changes nothing, cleaning up leaves nothing, a failure leaves what was there.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use mesh_tests::netns::{Host, Net};
use mesh_tests::yardstick::{Who, record};
use nix::fcntl::{Flock, FlockArg};

use crate::{Ran, add_foreign_rules, apply, mesh_init, rules, run, saved};

const BACKENDS: [&str; 2] = ["nft", "legacy"];
const OPTIONS: &str = "--skip-inbound-ports 22,8000-8100 --skip-outbound-ports 25 --skip-subnets 10.0.0.0/8,fd00::/8";

#[test]
fn r40_one_two_and_ten_runs_are_equal_and_cleanup_leaves_what_others_had() {
    let net = Net::new();
    for backend in BACKENDS {
        let host = net.host(backend);
        add_foreign_rules(&host, backend);
        let before = rules(&host);
        let args = format!("{OPTIONS} --backend {backend}");
        apply(&host, &args);
        let once = rules(&host);
        assert_eq!(once.matches("-j MESH_OUTBOUND").count(), 2, "both families have their jump:\n{once}");
        for run in 2..=10 {
            assert!(apply(&host, &args).stderr.contains("nothing to do"), "run {run}");
            assert_eq!(rules(&host), once, "{backend}, run {run}");
        }
        apply(&host, "--cleanup");
        assert_eq!(rules(&host), before, "{backend}");
        apply(&host, "--cleanup");
        assert_eq!(rules(&host), before, "{backend}, cleaned twice");
    }
    record(40, "1, 2 and 10 runs, then cleanup", Who::Mesh, true, "equal after each, others' rules stay");
}

#[test]
fn r40_cleanup_of_a_fresh_namespace_leaves_no_chain_and_no_rule() {
    let net = Net::new();
    for backend in BACKENDS {
        let host = net.host(backend);
        apply(&host, &format!("--backend {backend}"));
        apply(&host, "--cleanup");
        let left = rules(&host);
        assert!(!left.contains("MESH") && !left.contains("-A "), "{backend}:\n{left}");
    }
}

#[test]
fn r40_other_options_replace_the_rules_and_the_first_come_back_the_same() {
    let net = Net::new();
    let host = net.host("workload");
    add_foreign_rules(&host, "nft");
    apply(&host, OPTIONS);
    let first = rules(&host);
    apply(&host, "--inbound-ports 80 --proxy-uid 3000");
    let second = rules(&host);
    assert!(second.contains("--uid-owner 3000") && !second.contains("8000:8100"), "{second}");
    assert_eq!(second.matches("-j MESH_INBOUND").count(), 2, "{second}");
    apply(&host, OPTIONS);
    assert_eq!(rules(&host), first);
}

#[test]
fn r40_ten_at_once_leave_what_one_leaves() {
    let net = Net::new();
    let [host, single] = ["crowd", "single"].map(|name| net.host(name));
    apply(&single, OPTIONS);
    // Who waits is not served in turn.
    let patient = format!("{OPTIONS} --wait 120");
    let runs: Vec<_> = (0..10).map(|_| mesh_init(&host, &patient).stderr(Stdio::null()).spawn().unwrap()).collect();
    for mut run in runs {
        assert!(run.wait().unwrap().success());
    }
    assert_eq!(rules(&host), rules(&single));
}

#[test]
fn a_namespace_that_another_run_works_on_is_waited_for_and_then_left_alone() {
    let net = Net::new();
    let host = net.host("workload");
    let before = rules(&host);
    let namespace = fs::File::open(host.path()).unwrap();
    let lock = Flock::lock(namespace, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno).unwrap();
    let ran = run(&mut mesh_init(&host, "--wait 1"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("another mesh-init") && ran.stderr.contains("--wait"), "{ran:?}");
    assert_eq!(rules(&host), before);
    drop(lock);
    apply(&host, "--wait 1");
}

#[test]
fn r40_our_rules_are_in_one_backend_at_most() {
    let net = Net::new();
    let host = net.host("workload");
    for (backend, other) in [("nft", "legacy"), ("legacy", "nft")] {
        apply(&host, &format!("--backend {backend}"));
        assert!(saved(&host, &format!("iptables-{backend}-save")).contains("MESH"));
        assert!(saved(&host, &format!("ip6tables-{backend}-save")).contains("MESH"));
        assert!(!saved(&host, &format!("iptables-{other}-save")).contains("MESH"));
        assert!(!saved(&host, &format!("ip6tables-{other}-save")).contains("MESH"));
    }
    assert!(apply(&host, "").stderr.contains("backend legacy"), "auto stays where our rules are");
    apply(&host, "--ipv6 off");
    assert!(!saved(&host, "ip6tables-legacy-save").contains("MESH"));
}

#[test]
fn auto_follows_the_backend_that_has_rules() {
    let net = Net::new();
    for backend in BACKENDS {
        let host = net.host(backend);
        add_foreign_rules(&host, backend);
        let said = apply(&host, "").stderr;
        assert!(said.contains(&format!("backend {backend}: rules are there")), "{said}");
    }
}

#[test]
fn more_than_fifteen_ports_take_several_rules_that_iptables_accepts() {
    let net = Net::new();
    for backend in BACKENDS {
        let host = net.host(backend);
        let singles: Vec<String> = (0..32).map(|n| (1001 + 2 * n).to_string()).collect();
        let ranges: Vec<String> = (0..16).map(|n| format!("{}-{}", 2001 + 20 * n, 2010 + 20 * n)).collect();
        let args = format!("--backend {backend} --skip-inbound-ports {},{}", singles.join(","), ranges.join(","));
        apply(&host, &args);
        let inbound = saved(&host, &format!("iptables-{backend}-save"));
        // 32 + 2 * 16 slots, a range never torn, and one rule for the proxy's own ports.
        assert_eq!(inbound.matches("-A MESH_INBOUND -p tcp -m multiport").count(), 6, "{inbound}");
        assert!(apply(&host, &args).stderr.contains("nothing to do"));
    }
}

#[test]
fn a_dry_run_prints_what_a_run_applies_and_changes_nothing() {
    let net = Net::new();
    for backend in BACKENDS {
        let [by_hand, by_us] = ["hand", "us"].map(|name| net.host(&format!("{backend}-{name}")));
        let args = format!("{OPTIONS} --backend {backend}");
        let before = rules(&by_hand);
        let printed = apply(&by_hand, &format!("{args} --dry-run")).stdout;
        assert_eq!(rules(&by_hand), before);
        apply_printed(&by_hand, &printed);
        apply(&by_us, &args);
        assert_eq!(rules(&by_hand), rules(&by_us));
        assert!(apply(&by_us, &format!("{args} --dry-run")).stdout.contains("nothing to do"));
    }
}

#[test]
fn r40_a_family_that_fails_takes_the_other_one_back() {
    let net = Net::new();
    for backend in BACKENDS {
        for before in ["none", "foreign", "other-options"] {
            let host = net.host(&format!("{backend}-{before}"));
            if before != "none" {
                add_foreign_rules(&host, backend);
            }
            if before == "other-options" {
                apply(&host, &format!("--backend {backend} --skip-inbound-ports 2222"));
            }
            let rules_before = our_rules_and_foreign(&host);
            let fakes = Fakes::new();
            fakes.add(&format!("ip6tables-{backend}-restore"), "echo planted failure >&2; exit 4");
            let ran = fakes.run(&host, &format!("{OPTIONS} --backend {backend}"));
            assert_eq!(ran.code, Some(1), "{ran:?}");
            assert!(ran.stderr.contains("planted failure") && ran.stderr.contains("as they were"), "{ran:?}");
            assert_eq!(our_rules_and_foreign(&host), rules_before, "{backend}, {before}");
        }
    }
    record(40, "one family fails", Who::Mesh, true, "the other one is rolled back");
}

#[test]
fn r40_a_program_that_fails_after_its_work_is_taken_back_too() {
    let net = Net::new();
    let host = net.host("workload");
    add_foreign_rules(&host, "nft");
    let before = rules(&host);
    let fakes = Fakes::new();
    fakes.add("ip6tables-nft-restore", "mkdir $0.once || exec $REAL \"$@\"; $REAL \"$@\"; exit 1");
    assert_eq!(fakes.run(&host, "--backend nft").code, Some(1));
    assert_eq!(rules(&host), before);
}

#[test]
fn r40_a_rollback_that_fails_says_so_by_exit_status_and_word() {
    let net = Net::new();
    let host = net.host("workload");
    let fakes = Fakes::new();
    fakes.add("iptables-nft-restore", "mkdir $0.once || { echo no way back >&2; exit 1; }; exec $REAL \"$@\"");
    fakes.add("ip6tables-nft-restore", "exit 4");
    let ran = fakes.run(&host, "--backend nft");
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.stderr.contains("no way back") && ran.stderr.contains("--cleanup"), "{ran:?}");
    apply(&host, "--cleanup");
    assert!(!rules(&host).contains("MESH"));
}

#[test]
fn a_family_that_cannot_be_read_is_a_failure_before_any_change() {
    let net = Net::new();
    let host = net.host("workload");
    let before = rules(&host);
    let fakes = Fakes::new();
    fakes.add("ip6tables-nft-save", "echo planted failure >&2; exit 1");
    let ran = fakes.run(&host, "--backend nft");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("planted failure") && ran.stderr.contains("--ipv6 off"), "{ran:?}");
    assert_eq!(rules(&host), before);
    assert_eq!(fakes.run(&host, "--backend nft --ipv6 off").code, Some(0));
}

/// Programs that stand before the real ones in the search path.
struct Fakes(tempfile::TempDir);

impl Fakes {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A shell script that may call the program it stands for as `$REAL`.
    fn add(&self, name: &str, script: &str) {
        let path = self.0.path().join(name);
        let real = ["/usr/sbin", "/sbin", "/usr/bin"].map(|folder| Path::new(folder).join(name));
        let real = real.iter().find(|path| path.exists()).expect("the real program");
        // A file that a forked child still holds open for writing cannot be run: let another process write it.
        let script = format!("#!/bin/sh\nREAL={}\n{script}\n", real.display());
        let mut writer = Command::new("tee").arg(&path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        writer.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, host: &Host, args: &str) -> Ran {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.0.path().display());
        run(mesh_init(host, args).env("PATH", path))
    }
}

/// The rules without the built-in chains, which iptables makes on first use and keeps.
fn our_rules_and_foreign(host: &Host) -> String {
    let built_in = |line: &&str| line.starts_with(':') && line.ends_with(" ACCEPT");
    let frame = |line: &&str| *line == "*nat" || *line == "COMMIT";
    let rules = rules(host);
    rules.lines().filter(|line| !built_in(line) && !frame(line)).map(|line| format!("{line}\n")).collect()
}

/// Feeds each printed transaction to the command in the comment before it.
fn apply_printed(host: &Host, printed: &str) {
    for part in printed.split("# ").skip(1) {
        let (command, transaction) = part.split_once('\n').unwrap();
        let words: Vec<&str> = command.split(' ').collect();
        let mut child = host.command(words[0]).args(&words[1..]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(transaction.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{part}");
    }
}
