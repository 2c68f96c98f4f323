//! The control plane absent, at the start and in mid-flight.
//!
//! Invariant: what was known is served without a failed request; what is unknown is passed through, but no peer that is
//! known to be meshed is ever spoken to in plaintext.
//! Non-goal: expired certificates; `expiry` has them.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mesh_tests::client::http::{Answer, Version, fetch};
use mesh_tests::client::load::Load;
use mesh_tests::client::{PATIENCE, within};
use mesh_tests::mesh::{App, Mesh, SOON};
use mesh_tests::netns::{Attempts, until};
use mesh_tests::yardstick::{Stopwatch, Who, count, record};

use super::{HTTP, PAUSE, absence, absent, answers, endpoints, load, mesh, replica, unharmed};

/// For a removed endpoint to be gone, once destination is back.
const GONE: Duration = Duration::from_secs(5);

fn get(mesh: &Mesh, from: &str, addr: SocketAddr) -> io::Result<Answer> {
    within(&mesh.get(from).host, fetch(addr, Version::H1, "/bytes?n=100"))
}

/// Status, and the reason word of the mesh's own answers.
fn status(mesh: &Mesh, from: &str, addr: SocketAddr) -> (u16, String) {
    let answer = get(mesh, from, addr).unwrap_or_else(|error| panic!("{from} to {addr}: {error}"));
    let said = answer.headers.get("mesh-error").map(|said| String::from_utf8_lossy(said.as_bytes()).into_owned());
    (answer.status.as_u16(), said.and_then(|said| said.split(';').next().map(str::to_owned)).unwrap_or_default())
}

/// Requests that came to the app of `workload` without the mesh's TLS.
fn in_plaintext(mesh: &Mesh, workload: &str) -> f64 {
    mesh.get(workload).metric("mesh_http_requests_total", &[("direction", "inbound"), ("tls", "none")])
}

#[test]
fn r52_f1_without_destination_a_new_sidecar_is_ready_and_passes_through() {
    let (mut mesh, service) = mesh(&["web"]);
    mesh.workload("plain").plain().app(App::demo("demo-http", HTTP, &[])).add();
    mesh.start();
    mesh.control_mut().destination().kill();
    // Waits until it is ready.
    mesh.workload("late").service_account("client").add();
    let [plain, _] = mesh.get("plain").at(HTTP);
    let begin = std::time::Instant::now();
    assert_eq!(status(&mesh, "late", plain).0, 200);
    let waited = begin.elapsed();
    assert!(waited <= Duration::from_secs(3), "the first connection waited for {waited:?}");
    let load = Load::start(&mesh.get("late").host, plain, 8, PAUSE);
    absent(&load, 200);
    let passed = unharmed(load).answered;
    // The address of a service is nobody's: an error with a name, in time.
    let begin = std::time::Instant::now();
    assert_eq!(status(&mesh, "late", service), (503, "connect_failed".to_owned()));
    assert!(begin.elapsed() <= PATIENCE / 2, "named after {:?}", begin.elapsed());
    mesh.control_mut().destination().restart();
    mesh.control().until_both_ready();
    until(SOON, || status(&mesh, "late", service).0 == 200);
    let figure = format!("first after {waited:.1?}, 0 of {passed} passed through failed");
    record(52, "F1, destination absent at the start", Who::Mesh, true, &figure);
}

#[test]
fn r52_f2_f3_destination_goes_in_midflight_and_returns_with_other_data() {
    let (mut mesh, service) = mesh(&["web-1", "web-2"]);
    mesh.start();
    let load = load(&mesh, service);
    answers(&load, 200);
    let of = |mesh: &Mesh, names: &[&str]| {
        let mut addrs: Vec<_> = names.iter().map(|name| mesh.get(name).at(HTTP)[0].to_string()).collect();
        addrs.sort();
        addrs
    };
    assert_eq!(endpoints(&mesh, "client", service), of(&mesh, &["web-1", "web-2"]));
    let attempts = Attempts::count(mesh.control().host(), mesh.control().destination_addr().port());
    mesh.control_mut().destination().kill();
    let (gone, sidecars) = (Instant::now(), 3);
    let disconnected = || mesh.get("client").metric("mesh_discovery_connected", &[]) == 0.0;
    until(SOON, disconnected);
    absent(&load, 1000);
    assert_eq!(endpoints(&mesh, "client", service), of(&mesh, &["web-1", "web-2"]), "what was known is kept");
    // Pauses grow to 4 s and are drawn at random.
    let (tried, most) = (attempts.so_far(), sidecars * (8 + gone.elapsed().as_secs()));
    assert!(tried <= most, "{tried} attempts of {sidecars} sidecars in {:?}", gone.elapsed());
    // It comes back to a folder in which one endpoint is gone and another is new.
    mesh.withdraw("web-2");
    replica(&mut mesh, "web-3");
    mesh.control_mut().destination().restart();
    mesh.control().until_both_ready();
    let ready = Stopwatch::start();
    until(SOON, || endpoints(&mesh, "client", service) == of(&mesh, &["web-1", "web-3"]));
    let known = ready.apart();
    assert!(known <= GONE, "what was removed was known for {known:?}");
    let inbound = |name: &str| mesh.get(name).metric("mesh_http_requests_total", &[("direction", "inbound")]);
    // What was on its way has arrived.
    answers(&load, 50);
    let removed = inbound("web-2");
    answers(&load, 400);
    assert_eq!(inbound("web-2").to_bits(), removed.to_bits(), "a removed endpoint was asked");
    assert!(inbound("web-3") > 0.0, "the new endpoint was not asked");
    let report = unharmed(load);
    let figure = format!("0 of {} failed, all known {known:.1?} after the return", report.answered);
    record(52, "F2, F3, destination absent in mid-flight", Who::Mesh, true, &figure);
}

#[test]
fn r52_destination_and_identity_go_together_and_known_peers_are_served() {
    let (mut mesh, service) = mesh(&["web-1", "web-2"]);
    mesh.start();
    let load = load(&mesh, service);
    answers(&load, 200);
    mesh.control_mut().kill();
    absent(&load, 1000);
    mesh.control_mut().restart();
    until(SOON, || mesh.get("client").metric("mesh_discovery_connected", &[]) > 0.0);
    answers(&load, 200);
    let report = unharmed(load);
    assert_eq!(in_plaintext(&mesh, "web-1") + in_plaintext(&mesh, "web-2"), 0.0);
    let figure = format!("0 of {} failed, 0 in plaintext", report.answered);
    record(52, "F2, F5, the whole control plane absent", Who::Mesh, true, &figure);
}

/// One after the other is ended and started again, as an upgrade does, while sidecars come that need both.
#[test]
fn r52_f16_destination_and_identity_are_replaced_again_and_again_without_a_failed_request() {
    let (mut mesh, service) = mesh(&["web-1", "web-2"]);
    mesh.start();
    let load = load(&mesh, service);
    answers(&load, 200);
    let rounds = count(3, 30);
    for round in 0..rounds {
        let status = mesh.control_mut().destination().terminate(SOON);
        assert!(status.success(), "destination: {status}");
        answers(&load, 100);
        mesh.control_mut().destination().restart();
        mesh.control().until_both_ready();
        let status = mesh.control_mut().identity().terminate(SOON);
        assert!(status.success(), "identity: {status}");
        answers(&load, 100);
        mesh.control_mut().identity().restart();
        mesh.control().until_both_ready();
        until(SOON, || mesh.get("client").metric("mesh_discovery_connected", &[]) > 0.0);
        // What changes is known, and who is new gets a certificate.
        let name = format!("new-{round}");
        replica(&mut mesh, &name);
        until(SOON, || endpoints(&mesh, "client", service).len() == 3);
        mesh.withdraw(&name);
        until(SOON, || endpoints(&mesh, "client", service).len() == 2);
    }
    let report = unharmed(load);
    assert_eq!(in_plaintext(&mesh, "web-1") + in_plaintext(&mesh, "web-2"), 0.0);
    let figure = format!("{rounds} rounds, 0 of {} failed", report.answered);
    record(52, "F16, both replaced in turns", Who::Mesh, true, &figure);
}

fn accepts(mesh: &Mesh, name: &str, addr: SocketAddr) -> bool {
    mesh.get(name).host.enter(|| TcpStream::connect_timeout(&addr, PATIENCE).is_ok())
}

#[test]
fn r52_f4_without_identity_a_new_sidecar_listens_but_is_not_ready_and_nobody_falls_back_to_plaintext() {
    let (mut mesh, service) = mesh(&["web"]);
    mesh.start();
    assert_eq!(status(&mesh, "client", service).0, 200);
    mesh.control_mut().identity().kill();
    mesh.get_mut("web").proxy_mut().restart();
    until(SOON, || mesh.get("web").admin("GET", "/live").is_ok_and(|(code, _)| code == 200));
    // It listens before it is certified.
    assert!(accepts(&mesh, "web", ([127, 0, 0, 1], 4140).into()));
    assert!(accepts(&mesh, "web", ([127, 0, 0, 1], 4143).into()));
    let (code, waiting) = mesh.get("web").admin("GET", "/ready").expect("an answer");
    assert_eq!(code, 503, "{waiting}");
    // Retries go on, and are counted by their reason.
    let failures = || mesh.get("web").metric("mesh_identity_renewals_total", &[]);
    let before = failures();
    until(SOON, || failures() >= before + 2.0);
    let (counted, due) = (failures(), absence().as_secs() / 10);
    std::thread::sleep(absence());
    let tried = failures() - counted;
    assert!(tried + 1.0 >= due as f64, "{tried} attempts in {:?}", absence());
    assert_eq!(mesh.get("web").admin("GET", "/ready").expect("an answer").0, 503);
    assert_eq!(mesh.get("web").metric("mesh_identity_renewals_total", &[("result", "ok")]), 0.0);
    // The client knows that the peer is meshed.
    assert_eq!(status(&mesh, "client", service), (503, "peer_identity".to_owned()));
    assert_eq!(in_plaintext(&mesh, "web"), 0.0, "fell back to plaintext");
    // The other way round: a client's sidecar that cannot prove itself reaches no service.
    mesh.get_mut("client").proxy_mut().restart();
    until(SOON, || mesh.get("client").admin("GET", "/live").is_ok_and(|(code, _)| code == 200));
    let (code, reason) = status(&mesh, "client", service);
    assert_eq!(code, 503, "{reason}");
    assert_eq!(in_plaintext(&mesh, "web"), 0.0, "fell back to plaintext");
    mesh.control_mut().identity().restart();
    for name in ["web", "client"] {
        mesh.get(name).until_proxy_ready();
    }
    until(SOON, || status(&mesh, "client", service).0 == 200);
    assert_eq!(in_plaintext(&mesh, "web"), 0.0, "fell back to plaintext");
}
