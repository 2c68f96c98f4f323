//! Endpoints that cannot be connected: nobody listens, or the whole sidecar is gone.
//!
//! Invariant: nothing was sent, so everything is sent elsewhere, whatever its method and however long its body.
//! Non-goal: when they are tried again.

use futures_util::future::join_all;
use http::Method;
use mesh_tests::client::within;
use mesh_tests::mesh::Mesh;
use mesh_tests::streams;

use super::{Arrivals, Pair, REPLAYABLE, ask, good, mesh, verdict};

/// At a time. While one waits for the good endpoint, the next one is for the bad one.
const TOGETHER: usize = 8;

/// Requests of one kind at once: answered, and once at the good endpoint.
async fn all_arrive_once(pair: &Pair, what: &str, body: usize, arrived: &Arrivals) -> Vec<String> {
    let sender = streams::connect(pair.addr).await.expect("a connection to the sidecar");
    let requests = (0..TOGETHER).map(|number| {
        let (path, sender) = (format!("/{what}/{body}/{number}"), &sender);
        async move {
            let answer = ask(sender, Method::POST, &path, body).await;
            let at_good = arrived.of(&path);
            let held = answer == Ok((200, "good".to_owned())) && at_good == [body];
            (!held).then(|| format!("{} {path}: {answer:?}, at the good one {at_good:?}", pair.name))
        }
    });
    join_all(requests).await.into_iter().flatten().collect()
}

fn sent_elsewhere(mesh: &Mesh) -> f64 {
    mesh.get("client").metric("mesh_retries_total", &[("reason", "connect_failed")])
}

#[test]
fn a_refused_connection_sends_requests_elsewhere_once() {
    let (mut mesh, pairs) = mesh();
    let arrived = pairs.each_ref().map(|pair| good(&pair.good));
    mesh.start();
    let mut findings = Vec::new();
    for (pair, arrived) in pairs.iter().zip(&arrived) {
        let before = sent_elsewhere(&mesh);
        for body in [100, 0, REPLAYABLE - 4096] {
            let client = &mesh.get("client").host;
            findings.extend(within(client, all_arrive_once(pair, "refused", body, arrived)));
        }
        let more = sent_elsewhere(&mesh) - before;
        println!("{}: {more} sent elsewhere", pair.name);
        assert!(more > 0.0, "{}: the bad endpoint was never tried", pair.name);
    }
    verdict(2 * 3 * TOGETHER, &findings);
}

#[test]
fn a_sidecar_that_is_gone_sends_requests_elsewhere_once() {
    let (mut mesh, pairs) = mesh();
    let arrived = good(&pairs[0].good);
    mesh.start();
    mesh.get_mut("bad").kill();
    let before = sent_elsewhere(&mesh);
    let mut findings = Vec::new();
    // Longer than what is kept: nothing of it has been taken.
    for body in [REPLAYABLE * 2, 0, 100] {
        findings.extend(within(&mesh.get("client").host, all_arrive_once(&pairs[0], "gone", body, &arrived)));
    }
    assert!(sent_elsewhere(&mesh) > before, "the bad endpoint was never tried");
    verdict(3 * TOGETHER, &findings);
}
