//! Signals that come while the rules are being put in place.
//!
//! Invariant: nothing real is touched: the iptables programs are scripts that write down what they are given, and the
//! first of them waits until the test lets it go. Non-goal: the rules themselves.

#![allow(clippy::unwrap_used, reason = "helpers of tests; a panic is the report")]

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

/// Says on the one FIFO that it has begun, and goes on when the other one ends.
const IPV4: &str = r#"echo begun > "$HOME/begun"; read -r go < "$HOME/go"; echo v4 >> "$HOME/done""#;
const IPV6: &str = r#"echo v6 >> "$HOME/done""#;

fn script(home: &Path, name: &str, body: &str) {
    let path = home.join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_signal_between_the_families_waits_until_both_are_done() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let home = tempfile::tempdir().unwrap();
        for save in ["iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"] {
            script(home.path(), save, "");
        }
        script(home.path(), "iptables-nft-restore", IPV4);
        script(home.path(), "ip6tables-nft-restore", IPV6);
        for fifo in ["begun", "go"] {
            mkfifo(&home.path().join(fifo), Mode::S_IRWXU).unwrap();
        }
        // Whoever started the tests in the background made all that they start ignore SIGINT.
        let mut command = Command::new("/usr/bin/env");
        command
            .args(["--default-signal=INT", env!("CARGO_BIN_EXE_mesh-init"), "--backend", "nft", "--ipv6", "on"])
            .env("PATH", home.path())
            .env("HOME", home.path());
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        fs::read(home.path().join("begun")).unwrap();
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        drop(File::options().write(true).open(home.path().join("go")).unwrap());
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        let done = fs::read_to_string(home.path().join("done")).unwrap_or_default();
        assert_eq!(done, "v4\nv6\n", "{signal}: {said}");
        assert_eq!(ended.status.signal(), Some(signal as i32), "honoured afterwards: {said}");
    }
}
