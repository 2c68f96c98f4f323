//! Names of the control plane that a resolver does not know, or not yet, or never answers for.
//!
//! Invariant: a resolver of the test's own (dnsmasq) on the control plane's host, and a `resolv.conf` that only the sidecar sees.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mesh_tests::bin;
use mesh_tests::client;
use mesh_tests::mesh::{Daemon, Mesh, PROXY_UID};
use mesh_tests::netns::{Host, Proc, until};
use mesh_tests::yardstick::{Process, Who, log_is_safe, record};
use nix::unistd::Uid;

/// A lookup that nobody answers takes glibc up to 10 s, and another one has to follow.
const SOON: Duration = Duration::from_secs(90);

/// The longest name that DNS can carry, and one that is longer.
fn long(labels: usize) -> String {
    vec!["a".repeat(63); labels].join(".")
}

fn resolver(host: &Host) -> Proc {
    let mut command = host.command("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
        "--pid-file=",
    ]);
    command.args(["--local=/#/", "--log-facility=-", "--bind-interfaces"]).arg(format!("--listen-address={}", host.v4));
    for name in ["identity.mesh.test", "destination.mesh.test"] {
        command.arg(format!("--host-record={name},{}", host.v4));
    }
    Proc::spawn(&mut command)
}

/// A sidecar on a host of its own, without redirection: what it asks and is told is what this is about.
fn sidecar(mesh: &Mesh, host: &Host, names: [&str; 2]) -> Daemon {
    let conf = mesh.folder().join("resolv.conf");
    fs::write(&conf, format!("nameserver {}\noptions timeout:1 attempts:1\n", mesh.control().host().v4))
        .expect("a file");
    let token = mesh.control().token("default", "client", Uid::from_raw(PROXY_UID));
    let system = |name: &str| format!("spiffe://cluster.local/ns/mesh-system/sa/{name}");
    let env: BTreeMap<&str, String> = [
        ("MESH_ADMIN_LISTEN", "127.0.0.1:4191".to_owned()),
        ("MESH_IDENTITY_ADDR", format!("{}:8080", names[0])),
        ("MESH_IDENTITY_ID", system("identity")),
        ("MESH_DESTINATION_ADDR", format!("{}:8086", names[1])),
        ("MESH_DESTINATION_ID", system("destination")),
        ("MESH_TRUST_ANCHORS", mesh.control().anchors().display().to_string()),
        ("MESH_TOKEN_FILE", token.display().to_string()),
    ]
    .into();
    let host = host.clone();
    Daemon::start("sidecar", move || with_resolver(&host, &conf, &env))
}

fn with_resolver(host: &Host, conf: &Path, env: &BTreeMap<&str, String>) -> Command {
    let mut command = host.command("unshare");
    let then =
        "mount --bind \"$0\" /etc/resolv.conf && exec setpriv --reuid=\"$1\" --regid=\"$1\" --clear-groups \"$2\"";
    command.args(["--mount", "sh", "-c", then]).arg(conf).arg(PROXY_UID.to_string()).arg(bin("mesh-proxy"));
    command.envs(env);
    command
}

fn admin(host: &Host, path: &str) -> Option<(u16, String)> {
    let addr: SocketAddr = ([127, 0, 0, 1], 4191).into();
    host.enter(|| client::request("GET", addr, path).ok())
}

fn is_ready(host: &Host) -> bool {
    admin(host, "/ready").is_some_and(|(code, _)| code == 200)
}

fn is_connected(host: &Host) -> bool {
    admin(host, "/metrics").is_some_and(|(_, page)| page.lines().any(|line| line == "mesh_discovery_connected 1"))
}

/// It lives, spends next to nothing, and its log is fit to be read.
fn is_calm(sidecar: &Daemon) {
    let process = Process(sidecar.pid().expect("a sidecar that runs"));
    let before = process.cpu();
    std::thread::sleep(Duration::from_secs(2));
    let spent = process.cpu().saturating_sub(before);
    assert!(spent < Duration::from_millis(100), "{spent:?} of 2 s");
    log_is_safe("sidecar", &sidecar.log(), &[]);
}

#[test]
fn r62_f20_names_that_fail_are_asked_for_again_and_what_is_up_stays_up() {
    let mut mesh = Mesh::new();
    mesh.manifests.write("none", "");
    mesh.start();
    let (control, host) = (mesh.control().host().clone(), mesh.host("sidecar"));
    // Nobody answers: a socket that is silent.
    let silent = control.enter(|| UdpSocket::bind((control.v4, 53))).expect("port 53 of a namespace");
    let sidecar = sidecar(&mesh, &host, ["identity.mesh.test", "destination.mesh.test"]);
    sidecar.wait_for_line("lookup", SOON);
    assert!(!is_ready(&host) && admin(&host, "/live").is_some());
    is_calm(&sidecar);
    drop(silent);
    let dns = resolver(&control);
    until(SOON, || is_ready(&host) && is_connected(&host));
    // The resolver goes: what is connected stays so.
    drop(dns);
    is_calm(&sidecar);
    assert!(is_ready(&host) && is_connected(&host));
    // Then its peer goes as well: named, asked for again, and found when the resolver is back.
    mesh.control_mut().destination().restart();
    until(SOON, || !is_connected(&host));
    is_calm(&sidecar);
    let _dns = resolver(&control);
    until(SOON, || is_connected(&host));
    record(
        62,
        "F20, a resolver that is silent, dies and returns",
        Who::Mesh,
        true,
        "connected stays, lost is found again",
    );
}

#[test]
fn r62_f20_names_that_nobody_has_or_can_have_are_named_and_nothing_panics() {
    let mut mesh = Mesh::new();
    mesh.manifests.write("none", "");
    mesh.start();
    let (control, host) = (mesh.control().host().clone(), mesh.host("sidecar"));
    let _dns = resolver(&control);
    let (longest, too_long) = (long(4), long(5));
    let names = ["nobody.mesh.test", &longest[..253], &longest, &too_long, "a..b", "-"];
    for name in names {
        let identity = control.v4.to_string();
        let sidecar = sidecar(&mesh, &host, [&identity, name]);
        sidecar.wait_for_line("lookup", SOON);
        // Without destination a sidecar is ready, and passes through.
        until(SOON, || is_ready(&host));
        assert!(!is_connected(&host));
        is_calm(&sidecar);
    }
    record(62, "F20, names that nobody has", Who::Mesh, true, &format!("{0} of {0} named, 0 panics", names.len()));
}
