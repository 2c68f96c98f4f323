//! Sidecars with two workers: each accepts by itself, while certificate, discovery and metrics are shared.
//!
//! Invariant: enough connections that both workers have some.
//! Non-goal: how much faster it is.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mesh_tests::client::http::{Version, fetch};
use mesh_tests::client::within;
use mesh_tests::mesh::{App, Mesh, SOON};
use mesh_tests::netns::until;

use super::cells::Conversation::{self, ClientFirst, Grpc, Http1, Http2, ServerFirst, WebSocket};

const APP: u16 = 8000;
/// Connections of each kind at a time. That one of two workers gets none of them all is unlikely (2 to the power of -47).
const EACH: usize = 8;

/// A client and a server with two workers each, not started.
fn mesh(apps: impl Iterator<Item = App>) -> Mesh {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").env("MESH_WORKERS", "2").add();
    let server = mesh.workload("meshed").of("meshed").env("MESH_WORKERS", "2");
    // Many connections at once on a machine that has other work too: its patience is not what is tested.
    let server = server.env("MESH_INBOUND_CONNECT_TIMEOUT", "10s");
    apps.fold(server, |spec, app| spec.app(app)).add();
    mesh
}

#[test]
fn two_workers_hold_every_conversation_share_their_metrics_and_end_at_once_when_idle() {
    const KINDS: [Conversation; 6] = [Http1, Http2, Grpc, ClientFirst, ServerFirst, WebSocket];
    let mut mesh = mesh(super::apps());
    let services = KINDS.map(|kind| {
        let name = format!("{kind}").to_lowercase();
        (kind, mesh.service(&name, kind.port(), kind.port()).over("meshed").add().v4)
    });
    mesh.start();
    let held = within(&mesh.get("client").host, async {
        let all = services.into_iter().flat_map(|service| [service; EACH]);
        join_all(all.map(|(kind, addr)| async move { (kind, kind.hold(addr).await) })).await
    });
    let failed: Vec<_> = held.into_iter().filter(|(_, result)| result.is_err()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    // One page for all workers, whoever renders it.
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let each = EACH as f64;
    let target = format!("default/serverfirst:{}", ServerFirst.port());
    let opened = "mesh_tcp_connections_opened_total";
    let outbound = mesh.get("client").metric(opened, &[("direction", "outbound"), ("target", &target)]);
    assert_eq!(outbound.to_bits(), each.to_bits());
    // Opaque there: both kinds of TCP, and what WebSocket becomes. A client of HTTP that is late to speak on a busy machine has one
    // opened as well, on which nothing comes.
    let inbound = mesh.get("meshed").metric(opened, &[("direction", "inbound")]);
    assert!((3.0 * each..=6.0 * each).contains(&inbound), "{inbound}");
    let state = mesh.get("client").state();
    let workers = state["workers"].as_array().expect("workers");
    let busy = workers.iter().filter(|worker| worker.to_string().contains("default/"));
    assert_eq!((workers.len(), busy.count()), (2, 2), "{state}");
    for name in ["client", "meshed"] {
        until(SOON, || mesh.get(name).metric("mesh_tcp_connections_open", &[]) < 0.5);
        let begin = Instant::now();
        let status = mesh.get_mut(name).proxy_mut().terminate(SOON);
        // Well before the grace, which is 30 s.
        assert!(status.success() && begin.elapsed() < Duration::from_secs(8), "{status} after {:?}", begin.elapsed());
    }
}

#[test]
fn the_first_requests_to_many_new_services_are_answered_by_two_workers() {
    const SERVICES: usize = 40;
    let mut mesh = mesh([App::demo("demo-http", APP, &[])].into_iter());
    let services: Vec<SocketAddr> =
        (0..SERVICES).map(|n| mesh.service(&format!("fresh-{n}"), 80, APP).over("meshed").add().v4).collect();
    mesh.start();
    let answers = within(&mesh.get("client").host, async {
        // Four at once, so that both workers may need the same new service in the same moment.
        join_all(services.iter().flat_map(|addr| [addr; 4]).map(|addr| fetch(*addr, Version::H1, "/bytes?n=100"))).await
    });
    let failed: Vec<_> = answers
        .iter()
        .filter(|answer| !answer.as_ref().is_ok_and(|answer| answer.status == 200 && answer.body.len() == 100))
        .collect();
    assert!(failed.is_empty(), "{} of {} failed: {failed:#?}", failed.len(), answers.len());
}
