//! Certificates that run out while the CA is away.
//!
//! Invariant: the shortest life that identity issues is lived to its end: traffic goes on to the last second, fails by
//! name afterwards, and recovers with the CA.
//! Non-goal: clocks that jump.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use mesh_tests::client::http::{Version, fetch};
use mesh_tests::client::within;
use mesh_tests::mesh::Mesh;
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Who, log_is_safe, record};

use super::{answers, load, mesh};

const LIFE: Duration = Duration::from_secs(30);
/// For the CA to be back, all sidecars to ask it again, after pauses of up to 10 s, and tunnels after 3 s more, and a request to pass.
const RECOVERY: Duration = Duration::from_secs(20);

/// When the certificate in use ends.
fn expiry(mesh: &Mesh, name: &str) -> SystemTime {
    let seconds = mesh.get(name).metric("mesh_identity_certificate_expiry_timestamp_seconds", &[]);
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)
}

fn wait_for(moment: SystemTime) {
    if let Ok(left) = moment.duration_since(SystemTime::now()) {
        assert!(left <= LIFE, "{left:?} is longer than a certificate lives");
        thread::sleep(left);
    }
}

/// Status and `mesh-error` of a request. A client that a busy machine keeps from speaking at once may be one of a server that
/// speaks first: it is reset where an answer in HTTP would have said why.
fn ask(mesh: &Mesh, name: &str, addr: SocketAddr) -> (u16, String) {
    let ask = || within(&mesh.get(name).host, fetch(addr, Version::H1, "/bytes?n=100"));
    let was_late = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionReset;
    let answer = (0..5).map(|_| ask()).find(|answer| !answer.as_ref().is_err_and(was_late));
    let answer = answer.expect("an answer in one of five").unwrap_or_else(|error| panic!("{name}: {error}"));
    let said = answer.headers.get("mesh-error").map(|said| String::from_utf8_lossy(said.as_bytes()).into_owned());
    (answer.status.as_u16(), said.unwrap_or_default())
}

/// How long before the first of them ends handshakes are tried, each of a sidecar that has no tunnel yet.
const BEFORE: [(&str, Duration); 2] = [("early", Duration::from_secs(5)), ("late", Duration::from_secs(1))];

/// Handshakes succeed, although renewals have failed for a while. A busy machine may bring the last one about too late.
fn handshakes_before(mesh: &Mesh, service: SocketAddr, end: SystemTime) {
    for (name, before) in BEFORE {
        wait_for(end - before);
        let (status, said) = ask(mesh, name, service);
        let is_over = SystemTime::now() >= end;
        assert!(status == 200 || (is_over && name == "late"), "{name}, {before:?} before the end: {status} {said}");
    }
}

/// Also R52's F5: identity down at renewal.
#[test]
fn r53_f5_certificates_serve_to_their_last_second_and_recover_with_the_ca() {
    let (mut mesh, service) = mesh(&["web"]);
    // Each of them opens its first tunnel at a moment of its own.
    for name in ["early", "late", "too-late"] {
        mesh.workload(name).service_account("client").add();
    }
    mesh.control_mut().identity_args(&["--leaf-lifetime=30s"]);
    mesh.start();
    let renewed =
        |mesh: &Mesh, result: &str| mesh.get("client").metric("mesh_identity_renewals_total", &[("result", result)]);
    mesh.control_mut().identity().kill();
    let names = ["client", "early", "late", "too-late", "web"];
    let ends = names.map(|name| expiry(&mesh, name));
    let (first, last) = (*ends.iter().min().expect("five"), *ends.iter().max().expect("five"));
    let load = load(&mesh, service);
    answers(&load, 100);
    handshakes_before(&mesh, service, first);
    let report = load.stop();
    assert_eq!(report.failed, 0, "before the end: {:#?}", report.failures);
    assert_eq!(ends, names.map(|name| expiry(&mesh, name)), "a certificate without a CA");
    let failures = mesh.get("client").metrics().sum("mesh_identity_renewals_total", &[]) - renewed(&mesh, "ok");
    assert!(failures >= 1.0, "no renewal was tried");
    // After the end every handshake fails, and says why.
    wait_for(last + Duration::from_secs(1));
    for _ in 0..5 {
        let (status, said) = ask(&mesh, "too-late", service);
        assert_eq!(status, 503, "{said}");
        assert!(said.starts_with("peer_identity;"), "{said}");
    }
    let before = renewed(&mesh, "ok");
    mesh.control_mut().identity().restart();
    let back = Instant::now();
    until(RECOVERY, || ask(&mesh, "too-late", service).0 == 200);
    until(RECOVERY, || renewed(&mesh, "ok") > before);
    assert_eq!(ask(&mesh, "client", service).0, 200);
    for name in names {
        let proxy = mesh.get(name).proxy().expect("a sidecar");
        log_is_safe(name, &proxy.log(), &[]);
    }
    let figure = format!(
        "{} answered to the last second, 5 of 5 handshakes afterwards refused as peer_identity, well {:.1?} after the CA",
        report.answered,
        back.elapsed()
    );
    record(53, "certificates that run out", Who::Mesh, true, &figure);
}
