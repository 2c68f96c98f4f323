//! A workload that its own sidecar calls unwell: clients' sidecars leave it alone, until it is well again.
//!
//! Invariant: no request fails meanwhile. Non-goal: running the checks; the reports come from streams of the test's own, with the
//! workload's identity and address.

use std::net::SocketAddr;

use mesh_mtls::credentials::Credentials;
use mesh_proto::discovery as wire;
use mesh_tests::client::http::{Version, fetch};
use mesh_tests::client::within;
use mesh_tests::mesh::{App, Mesh, Metrics, SOON, Speaker};
use mesh_tests::netns::{Host, until};
use tokio::sync::mpsc;
use wire::watch_request::Kind;

const HTTP: u16 = 8000;
const WEBS: [&str; 3] = ["web-1", "web-2", "web-3"];

struct Webs {
    mesh: Mesh,
    service: SocketAddr,
    voices: Host,
}

async fn speak(addr: SocketAddr, credentials: Credentials, mut said: mpsc::Receiver<Kind>) {
    let mut speaker = Speaker::connect(addr, credentials).await;
    loop {
        tokio::select! {
            kind = said.recv() => match kind {
                Some(kind) => speaker.say(kind),
                None => return,
            },
            update = speaker.next() => assert!(update.is_some(), "destination has ended the stream"),
        }
    }
}

/// A stream of a workload's.
struct Voice(mpsc::Sender<Kind>);

impl Voice {
    fn say(&self, healthy: bool) {
        let detail = "port 8000: refused".to_owned();
        self.0.try_send(Kind::Health(wire::Health { healthy, detail })).expect("room");
    }
}

impl Webs {
    fn start() -> Self {
        let mut mesh = Mesh::new();
        mesh.workload("client").service_account("client").add();
        for name in WEBS {
            mesh.workload(name).of("web").app(App::demo("demo-http", HTTP, &[])).add();
        }
        let service = mesh.service("web", 80, HTTP).add().v4;
        // In turn, so that who gets nothing is out and not merely slow.
        let in_turn = "apiVersion: mesh.internal/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: web}\n\
                       spec: {targetRefs: [{name: web}], balancing: {policy: RoundRobin}}\n";
        mesh.manifests.write("policy", in_turn);
        mesh.start();
        let voices = mesh.host("voices");
        Self { mesh, service, voices }
    }

    fn voice(&self, workload: &str) -> Voice {
        let credentials = self.mesh.control().credentials(&self.voices, "web");
        let addr = self.mesh.control().destination_addr();
        let addresses = vec![self.mesh.get(workload).host.v4.octets().to_vec().into()];
        let (says, said) = mpsc::channel(16);
        let hello = Kind::Hello(wire::Hello { addresses, ..wire::Hello::default() });
        says.try_send(hello).expect("room");
        let _ends_with_the_voice = self.voices.run_in_thread(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime in a test").block_on(speak(addr, credentials, said));
        });
        Voice(says)
    }

    fn arrived(&self) -> [f64; 3] {
        WEBS.map(|name| self.mesh.get(name).metric("mesh_http_requests_total", &[("direction", "inbound")]))
    }

    /// How many of so many requests came to each; none of them fails.
    fn spread(&self, requests: usize) -> [f64; 3] {
        let before = self.arrived();
        for _ in 0..requests {
            let answer = within(&self.mesh.get("client").host, fetch(self.service, Version::H1, "/bytes?n=10"));
            assert_eq!(answer.unwrap_or_else(|error| panic!("client: {error}")).status.as_u16(), 200);
        }
        let after = self.arrived();
        std::array::from_fn(|place| after[place] - before[place])
    }

    fn metric(&self, name: &str) -> f64 {
        Metrics::parse(&self.mesh.control().destination_metrics()).sum(name, &[])
    }
}

#[test]
fn an_unwell_workload_is_left_alone_until_it_is_well_and_most_of_a_service_never() {
    let mut it = Webs::start();
    let all = |spread: [f64; 3]| spread.iter().all(|count| *count > 0.0);
    until(SOON, || all(it.spread(30)));
    let voices = WEBS.map(|name| it.voice(name));
    voices[1].say(false);
    until(SOON, || it.spread(30)[1] == 0.0);
    assert_eq!(it.spread(60)[1], 0.0, "it gets nothing any more");
    assert_eq!(it.metric("mesh_destination_unhealthy_workloads"), 1.0);
    voices[1].say(true);
    until(SOON, || all(it.spread(30)));
    // Most vanish at once: the checks are likelier to be wrong than all of them.
    voices.iter().for_each(|voice| voice.say(false));
    until(SOON, || it.metric("mesh_destination_unhealthy_workloads") == 3.0);
    until(SOON, || it.metric("mesh_destination_preserved_backends") == 1.0 && all(it.spread(30)));
    let destination = it.mesh.control_mut().destination();
    until(SOON, || destination.log().contains("more than half of the endpoints are not well"));
}
