//! One mesh whose manifests go wrong one by one, under requests.
//!
//! Invariant: no request notices a rejection. Non-goal: each finding; the crate's own tests have them.

use std::net::SocketAddr;
use std::process::Command;

use mesh_tests::client::http::{Version, fetch};
use mesh_tests::client::{self, within};
use mesh_tests::mesh::{App, Mesh, Metrics, SOON};
use mesh_tests::netns::until;
use serde_json::Value;

const HTTP: u16 = 8000;
const ADMIN: u16 = 9996;

struct Rejections {
    mesh: Mesh,
    service: SocketAddr,
}

impl Rejections {
    fn start() -> Self {
        let mut mesh = Mesh::new();
        // `/state` is for the same host alone.
        mesh.control_mut().destination_args(&["--admin=127.0.0.1:9996"]);
        mesh.workload("client").service_account("client").add();
        mesh.workload("web").of("web").app(App::demo("demo-http", HTTP, &[])).add();
        let service = mesh.service("web", 80, HTTP).add().v4;
        mesh.start();
        Self { mesh, service }
    }

    fn status(&self, path: &str) -> u16 {
        let answer = within(&self.mesh.get("client").host, fetch(self.service, Version::H1, path));
        answer.unwrap_or_else(|error| panic!("client: {error}")).status.as_u16()
    }

    fn state(&self) -> Value {
        let host = self.mesh.control().host();
        let addr = SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), ADMIN);
        let (_, body) = host.enter(|| client::request("GET", addr, "/state")).expect("destination's admin port");
        serde_json::from_str(&body).expect("JSON")
    }

    /// `kind/name: in force or not, reasons of trouble`.
    fn shown(&self) -> Vec<String> {
        let state = self.state();
        let objects = state["status"]["objects"].as_array().expect("objects").clone();
        let shown = objects.iter().map(|object| {
            let conditions = object["conditions"].as_array().expect("conditions");
            let troubles = conditions.iter().filter(|condition| condition["status"] == false);
            let troubles: Vec<_> = troubles.filter_map(|condition| condition["reason"].as_str()).collect();
            let word = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
            format!("{}/{} {} {}", word("kind"), word("name"), object["in_force"], troubles.join(" "))
        });
        shown.collect()
    }

    fn until_shown(&self, wanted: &[&str]) {
        until(SOON, || self.shown() == wanted);
    }

    fn rejections(&self, reason: &str) -> f64 {
        let metrics = Metrics::parse(&self.mesh.control().destination_metrics());
        metrics.sum("mesh_destination_rejections", &[("reason", reason)])
    }

    fn validated(&self) -> (bool, String) {
        let output = Command::new(mesh_tests::bins::bin("mesh-destination"))
            .arg("validate")
            .arg(self.mesh.manifests.path())
            .output();
        let output = output.expect("mesh-destination");
        (output.status.success(), String::from_utf8(output.stdout).expect("text"))
    }
}

/// Answers 301 to what begins with the prefix.
fn route(name: &str, prefix: &str, rest: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: web}}]\n  rules:\n  - matches: [{{path: {{value: {prefix}}}}}]\n    \
         filters: [{{type: RequestRedirect, requestRedirect: {{statusCode: 301, hostname: example.com}}}}]\n{rest}---\n"
    )
}

fn policy(name: &str, created: u8, spec: &str) -> String {
    format!(
        "apiVersion: mesh.internal/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, creationTimestamp: '2026-01-0{created}T00:00:00Z'}}\n\
         spec: {{targetRefs: [{{name: web}}], {spec}}}\n---\n"
    )
}

#[test]
fn what_is_rejected_is_rejected_alone_and_says_so() {
    let mut it = Rejections::start();
    let all = "  - backendRefs: [{name: web, port: 80}]\n";
    it.mesh.manifests.write("steer", &(route("r", "/moved", all) + &policy("p", 1, "timeouts: {request: 30s}")));
    it.until_shown(&["HTTPRoute/r true ", "TrafficPolicy/p true "]);
    until(SOON, || it.status("/moved") == 301);
    assert_eq!((it.status("/bytes?n=1"), it.validated().0), (200, true));

    // The route goes wrong beside another that is new, the policy gets a younger twin and a stranger.
    let wrong = route("r", "/moved", all).replace("statusCode: 301", "statusCode: 399");
    let other = route("other", "/other", "");
    let policies = policy("p", 1, "timeouts: {request: -1s}") + &policy("twin", 2, "limits: {requests: 5}");
    it.mesh.manifests.write("steer", &(wrong.clone() + &other + &policies));
    it.until_shown(&[
        "HTTPRoute/r true UnsupportedValue",
        "TrafficPolicy/p true Invalid",
        "TrafficPolicy/twin false Conflicted",
        "HTTPRoute/other true ",
    ]);
    until(SOON, || it.status("/other") == 301);
    assert_eq!((it.status("/moved"), it.status("/bytes?n=1")), (301, 200), "the last good version stays");
    for reason in ["UnsupportedValue", "Invalid", "Conflicted"] {
        assert!((it.rejections(reason) - 1.0).abs() < f64::EPSILON, "{reason}");
    }
    let (is_usable, findings) = it.validated();
    assert!(!is_usable && findings.contains("399 is none of 301, 302, 303, 307, 308"), "{findings}");
    assert!(findings.contains("is older and for the same target") || findings.contains("is no duration"), "{findings}");

    // A restart finds no good version, and serves all the same.
    it.mesh.control_mut().destination().restart();
    it.mesh.control().until_both_ready();
    it.until_shown(&[
        "HTTPRoute/r false UnsupportedValue",
        "TrafficPolicy/p false Invalid",
        "HTTPRoute/other true ",
        "TrafficPolicy/twin true ",
    ]);
    until(SOON, || it.status("/moved") == 404);
    assert_eq!(it.status("/other"), 301);

    // Repaired.
    it.mesh.manifests.write("steer", &(route("r", "/moved", all) + &policy("p", 1, "timeouts: {request: 30s}")));
    it.until_shown(&["HTTPRoute/r true ", "TrafficPolicy/p true "]);
    until(SOON, || it.status("/moved") == 301);
    assert_eq!(it.rejections("Invalid"), 0.0);
}
