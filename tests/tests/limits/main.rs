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

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_tests::attacks::connections::{recovery, soon};
use mesh_tests::mesh::App;
use mesh_tests::yardstick::{Front, Mesh, torture};

/// Where the apps listen.
const APP: u16 = 8000;
/// For facts that a busy machine brings about late.
const LATE: Duration = Duration::from_secs(30);

/// The app that answers.
fn demo() -> App {
    App::demo("demo-http", APP, &["--name=web"])
}

/// For those that take most of the files that this process may have, one after another at full counts.
fn alone() -> Option<MutexGuard<'static, ()>> {
    static ALONE: Mutex<()> = Mutex::new(());
    torture().then(|| ALONE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// How many connections the proxy of `front` has refused for `reason`.
fn refused(mesh: &Mesh, front: &Front, reason: &str) -> f64 {
    mesh.metric(front, "mesh_connections_refused_total", &[("reason", reason)])
}
