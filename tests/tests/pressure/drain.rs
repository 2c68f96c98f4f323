//! The end of a sidecar whose inbound connections outlast its grace.
//!
//! Invariant: requests of its own app are answered to the last one that was accepted.
//! Non-goal: conversations that end by themselves; `lifecycle` has those.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Response;
use mesh_tests::client::within;
use mesh_tests::mesh::{Mesh, SOON};
use mesh_tests::raw::Server;
use mesh_tests::streams;
use nix::sys::signal::Signal;

use super::{APP, dial, get};

const GRACE: Duration = Duration::from_secs(4);
/// How long an answer takes: much less than what outbound has for itself.
const SLOW: Duration = Duration::from_millis(250);
const INBOUND: u16 = 9000;

/// One request after the other until no more are taken; how many were answered.
async fn ask(sender: SendRequest<Bytes>) -> anyhow::Result<usize> {
    for answered in 0.. {
        let asked = async { sender.clone().ready().await?.send_request(get("/"), true)?.0.await };
        match asked.await {
            Ok(response) => {
                anyhow::ensure!(response.status() == 200, "{response:?}");
                let body = streams::body(response.into_body()).await;
                anyhow::ensure!(body.as_deref() == Ok(b"fine"), "{body:?}");
            }
            // Not taken any more, also where its head had not left when the connection was told to end.
            Err(error) if error.is_go_away() && error.is_remote() => return Ok(answered),
            Err(error) => return Err(error.into()),
        }
    }
    unreachable!("a range without an end")
}

/// Several at once, so that some are under way whenever the connection is told to end.
async fn ask_all(addr: SocketAddr) -> Vec<anyhow::Result<usize>> {
    let sender = streams::connect(addr).await.expect("a connection");
    let mut asking = Vec::new();
    for _ in 0..5 {
        asking.push(tokio::spawn(ask(sender.clone())));
        tokio::time::sleep(SLOW / 5).await;
    }
    let mut ends = Vec::new();
    for task in asking {
        ends.push(task.await.expect("no panic"));
    }
    ends
}

#[test]
fn r54_outbound_requests_finish_in_time_although_inbound_uses_up_its_share() {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").env("MESH_SHUTDOWN_GRACE", "4s").add();
    mesh.workload("outsider").plain().add();
    mesh.workload("web").of("web").add();
    let addr = mesh.service("web", 80, APP).add().v4;
    let _greets = Server::start(&mesh.get("client").host, INBOUND, |mut conversation| {
        conversation.say(b"hello")?;
        conversation.read().map(drop)
    });
    streams::serve(&mesh.get("web").host, APP, |_, mut respond| async move {
        tokio::time::sleep(SLOW).await;
        if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
            let _ = stream.send_data("fine".into(), true);
        }
    });
    mesh.start();
    let mut idle = dial(&mesh.get("outsider").host, mesh.get("client").at(INBOUND)[0]);
    idle.read_exact(&mut [0; 5]).expect("a greeting");
    let host = mesh.get("client").host.clone();
    let begin = Instant::now();
    mesh.get_mut("client").proxy_mut().signal(Signal::SIGTERM);
    let ends = within(&host, ask_all(addr));
    let lasted = begin.elapsed();
    assert!(ends.iter().all(|end| matches!(end, Ok(answered) if *answered > 0)), "after {lasted:?}: {ends:?}");
    // While inbound has clients, the app may need others to answer them.
    assert!(lasted >= GRACE / 2, "outbound ended after {lasted:?}");
    mesh.get_mut("client").proxy_mut().wait(SOON);
    assert!(begin.elapsed() <= GRACE + Duration::from_secs(5), "the sidecar ended after {:?}", begin.elapsed());
    drop(idle);
}
