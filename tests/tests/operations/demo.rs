//! The demo that is broken off, and the demo of somebody who may not run it.
//!
//! Invariant: each run has a folder of its own for temporary files, and namespaces that carry its process id.
//! Non-goal: its steps; `make demo` is the test of those.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::thread;
use std::time::Duration;

use mesh_tests::bin;
use mesh_tests::netns::{Proc, until};
use nix::sys::signal::Signal;

/// For a whole mesh to start or to go, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// Namespaces that belong to a process.
fn namespaces(owner: &str) -> Vec<String> {
    let output = Command::new("ip").args(["netns", "list"]).output().expect("iproute2");
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let ours = |line: &&str| line.starts_with(&format!("mesh-test-{owner}-"));
    listed.lines().filter(ours).map(str::to_owned).collect()
}

/// Sends `signal` while the demo is at its first step.
fn break_off(signal: Signal, keep: &str) {
    let dir = tempfile::tempdir().expect("a folder under the temporary one");
    // Unprivileged proxies read files in there.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("our own folder");
    let mut demo = Proc::spawn(Command::new(bin("demo")).env("TMPDIR", dir.path()).env("KEEP", keep));
    demo.wait_for_line("1. ", SOON);
    let pid = demo.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("a running demo");
    let [second] = children.split_whitespace().collect::<Vec<_>>()[..] else { panic!("children: {children:?}") };
    assert!(namespaces(second).len() > 5 && fs::read_dir(dir.path()).is_ok_and(|mut entries| entries.next().is_some()));
    demo.signal(signal);
    let status = demo.wait(SOON);
    assert_eq!(status.code(), Some(130), "{signal}: {status}\n{}", demo.output());
    // The kernel takes a namespace off the list at once, and `demo` waits for its processes.
    assert_eq!(namespaces(second), Vec::<String>::new(), "{signal}");
    let left: Vec<_> = fs::read_dir(dir.path()).expect("our own folder").flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{signal}: {left:?}");
    until(SOON, || !std::path::Path::new("/proc").join(second).exists());
}

#[test]
fn a_demo_that_is_broken_off_leaves_nothing_behind_and_is_no_success() {
    // With KEEP=1 the verdict counts, of which there is none yet.
    let runs = [(Signal::SIGINT, ""), (Signal::SIGQUIT, "1")];
    let runs = runs.map(|(signal, keep)| thread::spawn(move || break_off(signal, keep)));
    for run in runs {
        run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

#[test]
fn without_root_the_demo_says_that_it_needs_it() {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(bin("demo"));
    let mut demo = Proc::spawn(&mut command);
    assert_eq!(demo.wait(SOON).code(), Some(77), "{}", demo.output());
    demo.wait_for_line("needs root: sudo make demo", SOON);
}
