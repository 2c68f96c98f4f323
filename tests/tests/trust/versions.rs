//! Which versions and suites of TLS are spoken, and whether sessions are taken up again, at each port of the mesh's own TLS.
//!
//! Invariant: OpenSSL and sslscan are the other end, since our own library cannot speak what must be refused.
//! Non-goal: TLS of the applications, which passes through.

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use mesh_tests::mesh::{INBOUND_PORT, Mesh};
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Bystander, Vitals, Who, count, record, torture};

use crate::mesh;

/// For a daemon to have counted what was refused.
const SOON: Duration = Duration::from_secs(20);

/// A port that speaks our TLS.
struct Port {
    name: &'static str,
    addr: SocketAddr,
}

fn ports(mesh: &Mesh) -> [Port; 3] {
    [
        Port { name: "tunnel", addr: mesh.get("web").at(INBOUND_PORT)[0] },
        Port { name: "identity", addr: mesh.control().identity_addr() },
        Port { name: "destination", addr: mesh.control().destination_addr() },
    ]
}

/// What OpenSSL is told to offer, all of which must be refused.
const OFFERS: &[(&str, &[&str])] = &[
    ("TLS 1.0", &["-tls1", "-cipher", "ALL:@SECLEVEL=0"]),
    ("TLS 1.1", &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]),
    ("TLS 1.2", &["-tls1_2", "-cipher", "ALL:@SECLEVEL=0"]),
    ("TLS 1.2 without encryption", &["-tls1_2", "-cipher", "eNULL:@SECLEVEL=0"]),
    ("TLS 1.2 without certificates", &["-tls1_2", "-cipher", "aNULL:@SECLEVEL=0"]),
    ("TLS 1.2 with CBC", &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"]),
    ("TLS 1.2 with a good suite", &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]),
    ("TLS 1.3 with CCM", &["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256:TLS_AES_128_CCM_8_SHA256"]),
    ("TLS 1.3 with a group of another kind", &["-tls1_3", "-groups", "ffdhe2048"]),
    ("TLS 1.3 with signatures by RSA alone", &["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"]),
];

/// OpenSSL's client, with nothing to say.
fn s_client(mesh: &Mesh, addr: SocketAddr, args: &[&str]) -> String {
    let mut command = mesh.get("outsider").host.command("openssl");
    command.args(["s_client", "-connect", &addr.to_string(), "-alpn", "h2"]).args(args);
    said(command.stdin(Stdio::null()))
}

fn said(command: &mut Command) -> String {
    let Output { stdout, stderr, .. } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr))
}

/// Handshakes that a port's daemon has counted as failed, whatever the reason.
fn failed(mesh: &Mesh, port: &Port) -> f64 {
    match port.name {
        "tunnel" => {
            let metrics = mesh.get("web").metrics();
            let all = |labels: &[(&str, &str)]| metrics.sum("mesh_tls_handshakes_total", labels);
            all(&[("direction", "inbound")]) - all(&[("direction", "inbound"), ("result", "ok")])
        }
        "identity" => mesh.control().identity_metrics().sum("mesh_identity_handshakes_failed_total", &[]),
        _ => {
            let page = mesh_tests::mesh::Metrics::parse(&mesh.control().destination_metrics());
            page.sum("mesh_destination_connections_refused_total", &[])
        }
    }
}

#[test]
fn r31_only_tls_1_3_with_its_strong_suites_is_spoken() {
    let (mut mesh, service) = mesh();
    mesh.start();
    let bystander = Bystander::start(&mesh.get("client").host, service);
    let vitals = Vitals::of(mesh.get("web").proxy().expect("a sidecar"));
    for port in ports(&mesh) {
        let before = failed(&mesh, &port);
        for (what, args) in OFFERS {
            let answer = s_client(&mesh, port.addr, args);
            assert!(answer.contains("CONNECTED"), "{}, {what}: {answer}", port.name);
            assert!(answer.contains("alert"), "{}, {what}: no alert: {answer}", port.name);
            assert!(answer.contains("no peer certificate available"), "{}, {what}: {answer}", port.name);
        }
        let due = before + f64::from(u8::try_from(OFFERS.len()).expect("a few"));
        until(SOON, || failed(&mesh, &port) >= due);
        assert_eq!(failed(&mesh, &port), due, "{}", port.name);
        // The control: what is left is spoken.
        let answer = s_client(&mesh, port.addr, &["-tls1_3"]);
        assert!(answer.contains("TLSv1.3") && !answer.contains("Cipher is (NONE)"), "{}: {answer}", port.name);
        scanned(&mesh, &port);
    }
    let beside = bystander.finish();
    vitals.finish(mesh.get("web").proxy().expect("a sidecar"), &[]);
    let figure =
        format!("{0} of {0} offers refused at each of 3 ports; sslscan finds TLS 1.3 alone, {beside}", OFFERS.len());
    record(31, "versions and suites", Who::Mesh, true, &figure);
}

/// What a scanner finds.
fn scanned(mesh: &Mesh, port: &Port) {
    let host = &mesh.get("outsider").host;
    let mut command = host.command("sslscan");
    let found = said(command.args(["--no-colour", "--no-check-certificate", &port.addr.to_string()]));
    for version in ["SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1", "TLSv1.2"] {
        assert!(found.contains(&format!("{version:<10}disabled")), "{}: {version}: {found}", port.name);
    }
    assert!(found.contains("TLSv1.3   enabled"), "{}: {found}", port.name);
    let accepted = found.lines().filter(|line| line.starts_with("Preferred") || line.starts_with("Accepted"));
    let suites: Vec<_> = accepted.filter_map(|line| line.split_whitespace().nth(4)).collect();
    let known = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];
    assert!(suites.len() == known.len() && suites.iter().all(|suite| known.contains(suite)), "{suites:?}: {found}");
    for weakness in ["vulnerable to heartbleed\n", "Compression enabled", "Insecure session renegotiation supported"] {
        assert!(!found.lines().any(|line| line.trim() == weakness.trim()), "{}: {found}", port.name);
    }
    if torture() {
        let mut command = host.command("testssl");
        let args = ["--quiet", "--color", "0", "--warnings", "batch", "-p", "-s", "-f", "-U"];
        let found = said(command.args(args).arg(port.addr.to_string()));
        let bad: Vec<_> =
            found.lines().filter(|line| line.contains("VULNERABLE") && !line.contains("not vulnerable")).collect();
        assert!(bad.is_empty(), "{}: {bad:#?}", port.name);
    }
}

#[test]
fn r32_openssl_is_never_given_a_session_to_resume() {
    let (mut mesh, _) = mesh();
    mesh.start();
    let kept = mesh.folder().join("session");
    let tries = count(3, 50);
    for port in ports(&mesh) {
        for _ in 0..tries {
            let answer =
                s_client(&mesh, port.addr, &["-tls1_3", "-sess_out", &kept.display().to_string(), "-reconnect"]);
            assert!(!answer.contains("Reused,") && !answer.contains("Post-Handshake New Session Ticket"), "{answer}");
            assert!(!kept.exists(), "{} gave a session: {answer}", port.name);
        }
    }
    record(
        32,
        "OpenSSL asks for sessions",
        Who::Mesh,
        true,
        &format!("0 tickets in {} handshakes at 3 ports", 3 * tries),
    );
}
