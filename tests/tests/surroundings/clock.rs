//! A sidecar whose clock is not that of its peers.
//!
//! Invariant: only the wall clock is faked, as when somebody sets it; timers go on. Non-goal: clocks that run too fast.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_tests::bin;
use mesh_tests::client::http::{Version, fetch};
use mesh_tests::client::within;
use mesh_tests::mesh::{App, Mesh};
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Bystander, Process, Who, log_is_safe, record};

use crate::HTTP;

/// For a sidecar to have seen that its clock was set, or to have asked identity again.
const SOON: Duration = Duration::from_secs(60);

fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let known = folders.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|path| path.exists());
    known.expect("faketime is installed")
}

/// Adds a client whose clock says what the file says.
fn add(mesh: &mut Mesh, name: &str, offset: &str) {
    let file = mesh.folder().join(format!("clock-{name}"));
    set(&file, offset);
    // The library makes files of its own as whoever loads it first, so that has to be the proxy.
    let script = mesh.folder().join(format!("proxy-{name}"));
    let text = format!(
        "#!/bin/sh\nexec env LD_PRELOAD={} FAKETIME_TIMESTAMP_FILE={} FAKETIME_CACHE_DURATION=1 FAKETIME_DONT_FAKE_MONOTONIC=1 \\\n\
         DONT_FAKE_MONOTONIC=1 {}\n",
        library().display(),
        file.display(),
        bin("mesh-proxy").display()
    );
    fs::write(&script, text)
        .and_then(|()| fs::set_permissions(&script, fs::Permissions::from_mode(0o755)))
        .expect("a script");
    mesh.workload(name).service_account("client").program(&script).add();
}

fn set(file: &Path, offset: &str) {
    let hidden = file.with_extension("new");
    let written = fs::write(&hidden, format!("{offset}\n")).and_then(|()| fs::rename(&hidden, file));
    written.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

fn jump(mesh: &Mesh, name: &str, offset: &str) {
    set(&mesh.folder().join(format!("clock-{name}")), offset);
}

/// Status and reason of a request.
fn ask(mesh: &Mesh, name: &str, addr: SocketAddr) -> (u16, String) {
    let answer = within(&mesh.get(name).host, fetch(addr, Version::H1, "/"));
    let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}"));
    let said = answer.headers.get("mesh-error").map(|said| String::from_utf8_lossy(said.as_bytes()).into_owned());
    (answer.status.as_u16(), said.unwrap_or_default())
}

fn is_ready(mesh: &Mesh, name: &str) -> bool {
    mesh.get(name).admin("GET", "/ready").is_ok_and(|(code, _)| code == 200)
}

/// CPU of the sidecar over two seconds, in per cent.
fn busy(mesh: &Mesh, name: &str) -> f64 {
    let proxy = Process(mesh.get(name).proxy().and_then(mesh_tests::mesh::Daemon::pid).expect("a sidecar that runs"));
    let before = proxy.cpu();
    std::thread::sleep(Duration::from_secs(2));
    proxy.cpu().saturating_sub(before).as_secs_f64() / 2.0 * 100.0
}

fn renewals(mesh: &Mesh, name: &str, result: &str) -> f64 {
    mesh.get(name).metric("mesh_identity_renewals_total", &[("result", result)])
}

#[test]
fn r62_f6_clocks_that_differ_a_little_do_no_harm_and_those_that_differ_more_are_named() {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    mesh.workload("web").of("web").app(App::demo("demo-http", HTTP, &[])).add();
    let service = mesh.service("web", 80, HTTP).add().v4;
    for (name, offset) in [("slow", "-10"), ("fast", "+10"), ("ahead", "+1h"), ("jumps", "+0"), ("behind", "+0")] {
        add(&mut mesh, name, offset);
    }
    mesh.start();
    let bystander = Bystander::start(&mesh.get("client").host, service);
    // Certificates are back-dated by 20 s, and last for a day.
    for name in ["slow", "fast", "ahead"] {
        for _ in 0..10 {
            assert_eq!(ask(&mesh, name, service), (200, String::new()), "{name}");
        }
    }
    // A start an hour behind: nobody's certificate is valid yet.
    jump(&mesh, "behind", "-1h");
    mesh.get_mut("behind").proxy_mut().restart();
    until(SOON, || mesh.get("behind").admin("GET", "/ready").is_ok());
    until(SOON, || renewals(&mesh, "behind", "not_yet_valid") >= 1.0);
    assert!(!is_ready(&mesh, "behind"));
    let spent = busy(&mesh, "behind");
    assert!(spent < 5.0, "{spent} % of a processor");
    let tried: f64 = renewals(&mesh, "behind", "not_yet_valid");
    assert!(tried <= 30.0, "{tried} attempts");
    let log = || mesh.get("behind").proxy().expect("a sidecar").log();
    until(SOON, || log().contains("not_yet_valid"));
    log_is_safe("behind", &log(), &[]);
    jump(&mesh, "behind", "+0");
    until(SOON, || is_ready(&mesh, "behind"));
    assert_eq!(ask(&mesh, "behind", service).0, 200);
    // A jump of more than a certificate's life: it is over for everybody, says this sidecar.
    jump(&mesh, "jumps", "+25h");
    until(SOON, || ask(&mesh, "jumps", service).0 == 503);
    let (_, said) = ask(&mesh, "jumps", service);
    assert!(said.starts_with("peer_identity;"), "{said}");
    let spent = busy(&mesh, "jumps");
    assert!(spent < 5.0, "{spent} % of a processor");
    jump(&mesh, "jumps", "+0");
    until(SOON, || ask(&mesh, "jumps", service).0 == 200);
    let beside = bystander.finish();
    let figure = format!(
        "+-10 s and +1 h: 30 of 30; -1 h named not_yet_valid, +25 h named peer_identity, both recover; {beside}"
    );
    record(62, "F6, clocks", Who::Mesh, true, &figure);
}
