//! Conversations under pressure: cancelled, unread, cut short, and held while a sidecar ends.
//!
//! Invariant: each test holds both ends and waits for what one of them sees; what is on the way between them is known
//! to be stuck when nothing has moved for a while.
//! Non-goal: throughput.

mod answers;
mod cancels;
mod drain;
mod fields;
mod sharing;
mod upgrades;

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, StatusCode};
use mesh_tests::client::PATIENCE;
use mesh_tests::mesh::Mesh;
use mesh_tests::netns::Host;
use mesh_tests::streams;

/// Where the apps listen.
const APP: u16 = 8000;
/// What has not moved for so long is stuck.
const QUIET: Duration = Duration::from_millis(300);
const POLL: Duration = Duration::from_millis(10);

/// A way through the mesh.
#[derive(Clone, Copy, Debug)]
struct Route {
    /// Who dials.
    client: &'static str,
    addr: SocketAddr,
}

/// Clients and apps with and without a sidecar, not started: ways through two sidecars, through the app's alone, and
/// through the client's alone. The apps are on `web` and `legacy`.
fn mesh() -> (Mesh, [Route; 3]) {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").patient().add();
    mesh.workload("outsider").plain().add();
    mesh.workload("web").of("web").patient().add();
    mesh.workload("legacy").of("legacy").plain().add();
    let both = mesh.service("web", 80, APP).add().v4;
    let near = mesh.service("legacy", 80, APP).add().v4;
    let [far, _] = mesh.get("web").at(APP);
    let routes = [("client", both), ("outsider", far), ("client", near)].map(|(client, addr)| Route { client, addr });
    (mesh, routes)
}

/// A socket of `host` that gives up in time.
fn dial(host: &Host, addr: SocketAddr) -> TcpStream {
    let stream = host.enter(|| TcpStream::connect_timeout(&addr, PATIENCE)).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// Reads up to the first empty line, which is part of what is returned, in lower case.
fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    Ok(String::from_utf8_lossy(&head).to_lowercase())
}

/// A request without a body in HTTP/2.
fn get(path: &str) -> Request<()> {
    Request::builder().uri(format!("http://web{path}")).body(()).expect("a path that a test wrote")
}

/// Status, `mesh-error`, body.
type Answer = (StatusCode, Option<String>, String);

/// One GET on an HTTP/2 connection.
async fn fetch(sender: &SendRequest<Bytes>, path: &str) -> anyhow::Result<Answer> {
    let asked = async {
        let (response, _) = sender.clone().ready().await?.send_request(get(path), true)?;
        let (head, body) = response.await?.into_parts();
        let error = head.headers.get("mesh-error").map(|value| format!("{value:?}"));
        let body = streams::body(body).await.map_err(|code| anyhow::anyhow!("{code:?} amid the body"))?;
        anyhow::Ok((head.status, error, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(PATIENCE, asked).await?
}

/// Waits for a fact that is found out by looking, while the other tasks go on.
async fn eventually(fact: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < 2 * PATIENCE, "still not so: {fact}");
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until a count has grown and grows no more; its last value.
async fn settled(count: &AtomicUsize) -> usize {
    let (mut last, mut since) = (0, Instant::now());
    eventually("a count comes to rest", || {
        let now = count.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        now > 0 && since.elapsed() >= QUIET
    })
    .await;
    last
}
