//! What a sidecar and the control plane do at the end of their means: connections, descriptors, memory, and clients that take
//! their time.
//!
//! Invariant: what is refused is counted, one by one, under a reason; who behaves notices nothing; all is as before when it is
//! over. Non-goal: frames; `floods` has those.

mod connections;
mod descriptors;
mod endless;
mod memory;
mod slow;

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_tests::mesh::App;
use mesh_tests::netns::{Host, until};
use mesh_tests::raw;
use mesh_tests::yardstick::{Front, Mesh, Stopwatch, count, torture};

/// Where the apps listen.
const APP: u16 = 8000;
/// For facts that a busy machine brings about late.
const LATE: Duration = Duration::from_secs(30);

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";

/// The app that answers.
fn demo() -> App {
    App::demo("demo-http", APP, &["--name=web"])
}

/// How long it takes until a new connection is answered with 200, on a machine of its own.
fn recovery(host: &Host, addr: SocketAddr) -> Duration {
    let watch = Stopwatch::start();
    until(LATE, || raw::send(host, addr, GET).is_ok_and(|answer| raw::status(&answer) == Some(200)));
    watch.apart()
}

/// For those that take most of the files that this process may have, one after another at full counts.
fn alone() -> Option<MutexGuard<'static, ()>> {
    static ALONE: Mutex<()> = Mutex::new(());
    torture().then(|| ALONE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A second, and more beside other tests.
fn soon() -> Duration {
    Duration::from_secs(count(10, 1))
}

/// How many connections the proxy of `front` has refused for `reason`.
fn refused(mesh: &Mesh, front: &Front, reason: &str) -> f64 {
    mesh.metric(front, "mesh_connections_refused_total", &[("reason", reason)])
}
