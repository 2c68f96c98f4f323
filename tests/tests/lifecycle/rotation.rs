//! A change of trust anchors under everybody's feet.
//!
//! Invariant: no request fails, no conversation breaks, no program is restarted, and at each step new connections work.
//! Non-goal: what identity makes of files that are wrong; its own tests have that.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use mesh_tests::client::http::{Version, fetch};
use mesh_tests::client::within;
use mesh_tests::mesh::{Mesh, Pending, Rotation, SOON};
use mesh_tests::netns::{Host, until};

use super::conversations::{Conversations, Kind};
use super::{GRPC, TCP, answers, load, mesh, unharmed};

/// Between two looks at the certificates.
const LOOK: Duration = Duration::from_millis(100);

/// Those who open their first tunnel once the step of this number has been taken.
const NEWCOMERS: [&str; 4] = ["newcomer-0", "newcomer-1", "newcomer-2", "newcomer-3"];

fn first_request(mesh: &Mesh, step: usize, addr: SocketAddr) {
    let name = NEWCOMERS[step];
    let answer = within(&mesh.get(name).host, fetch(addr, Version::H1, "/bytes?n=100"));
    let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(answer.status, 200, "{name}: {:?}", answer.headers);
}

/// Waits until every sidecar shows a certificate of this issuer.
fn until_issued(mesh: &Mesh, onlooker: &Host, issuer: &[u8]) {
    let mut pending = Pending::of(mesh);
    until(SOON, || {
        let have = pending.have_issuer(mesh, onlooker, issuer);
        if !have {
            thread::sleep(LOOK);
        }
        have
    });
}

fn pids(mesh: &Mesh) -> Vec<Option<u32>> {
    mesh.programs().map(|program| program.pid()).collect()
}

#[test]
fn trust_anchors_change_under_load_without_a_failed_request_and_without_a_restart() {
    let (mut mesh, http) = mesh(&["web-1", "web-2"]);
    let grpc = mesh.service("web-grpc", GRPC, GRPC).over("web").add().v4;
    let tcp = mesh.service("web-tcp", TCP, TCP).over("web").add().v4;
    for name in NEWCOMERS {
        mesh.workload(name).service_account("client").add();
    }
    let onlooker = mesh.host("onlooker");
    mesh.start();
    let (load, pids_before) = (load(&mesh, http), pids(&mesh));
    let kinds = [(Kind::Http2, http), (Kind::Grpc, grpc), (Kind::Tcp, tcp), (Kind::WebSocket, http)];
    let conversations = Conversations::start(&mesh.get("client").host, &kinds);
    answers(&load, 200);
    first_request(&mesh, 0, http);
    let rotation = Rotation::begin(&mesh.control().issuer_dir());
    assert!(!Pending::of(&mesh).have_issuer(&mesh, &onlooker, &rotation.next_issuer()), "the new issuer is in use");

    let mut pending = Pending::of(&mesh);
    assert_eq!(pending.count(), 3 + NEWCOMERS.len());
    rotation.trust_both();
    until(SOON, || pending.have_new_anchors(&mesh));
    first_request(&mesh, 1, http);
    answers(&load, 200);

    rotation.issue_from_next();
    until_issued(&mesh, &onlooker, &rotation.next_issuer());
    first_request(&mesh, 2, http);
    answers(&load, 200);

    let mut pending = Pending::of(&mesh);
    rotation.trust_next_only();
    until(SOON, || pending.have_new_anchors(&mesh));
    first_request(&mesh, 3, http);
    let now = conversations.least();
    until(SOON, || conversations.least() >= now + 20);
    answers(&load, 200);

    let broken = conversations.stop();
    unharmed(load);
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(pids_before.iter().all(Option::is_some));
    assert_eq!(pids(&mesh), pids_before, "a program was restarted");
    for program in mesh.programs() {
        let pid = program.pid().map(|pid| pid.to_string()).unwrap_or_default();
        assert!(std::path::Path::new("/proc").join(pid).join("exe").exists(), "{} has ended", program.name());
    }
}
