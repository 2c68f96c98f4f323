//! The bench itself: a valid cell of the mesh, and plaintext that is seen where there are no sidecars.
//!
//! Invariant: one rig, the mesh's own programs and ours: nothing that only `make bench` installs.
//! Non-goal: figures.

use std::net::SocketAddr;

use mesh_benches::peers::{Peer, Side};
use mesh_benches::rig::{self, Rig};
use mesh_benches::scenario::{self, Scenario};
use mesh_benches::tasks::Stage;
use mesh_benches::wire::{Look, Sight};
use mesh_tests::client;

#[test]
fn a_cell_of_the_mesh_is_valid_and_plaintext_is_seen() {
    let rig = Rig::new().unwrap();
    for name in ["h1-rate", "tcp-churn"] {
        a_valid_cell(&rig, &scenario::named(&[name.to_owned()]).unwrap()[0]);
    }
    rig.redirect(Peer::Direct).unwrap();
    assert_eq!(ask(&rig, (rig::SERVICE, rig::HTTP).into()), None, "nobody answers for a service without a sidecar");
    let sight = ask(&rig, rig.target(Peer::Direct, rig::HTTP)).unwrap();
    assert!(sight.other >= 2 && sight.words >= 2 && sight.tls == 0, "{sight:?}");
}

fn a_valid_cell(rig: &Rig, scenario: &Scenario) {
    let stage = Stage { rig, peer: Peer::Mesh, scenario, seconds: 1 };
    let cell = stage.run(1).expect("the mesh is in each scenario");
    assert_eq!(cell.problems, Vec::<String>::new(), "{}", cell.scenario);
    for figure in ["cpu_us", "client_cpu_us", "server_cpu_us", "per_second", "p99_us", "anon_peak_kib", "pss_idle_kib"]
    {
        assert!(cell.figures[figure] > 0.0, "{}: {figure} of {:?}", cell.scenario, cell.figures);
    }
}

/// What the wire shows of a request, if it is answered.
fn ask(rig: &Rig, target: SocketAddr) -> Option<Sight> {
    let host = rig.host(Side::Client);
    let look = Look::start(host).expect("root");
    let answer = host.enter(|| client::request("GET", target, "/b/100"));
    let sight = look.stop();
    answer.is_ok_and(|(code, _)| code == 200).then_some(sight)
}
