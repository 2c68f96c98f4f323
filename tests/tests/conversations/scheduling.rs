//! How the kernel schedules a sidecar: as it was told, or by what it waits.
//!
//! Non-goal: what that saves; the bench shows it.

use std::fs;

use mesh_tests::busy::Busy;
use mesh_tests::mesh::{Daemon, Mesh, SOON};
use mesh_tests::netns::until;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// `SCHED_OTHER`.
const OTHER: u32 = 0;
/// `SCHED_BATCH`.
const BATCH: u32 = 3;

/// The workers of a sidecar, and the policy of each: the 41st field, counted behind the name. Threads beside them come and go.
fn workers(mesh: &Mesh, name: &str) -> Vec<(Pid, u32)> {
    let pid = mesh.get(name).proxy().and_then(Daemon::pid).expect("a sidecar that runs");
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    let worker = |path: &str| {
        let stat = fs::read_to_string(path).ok()?;
        let (begin, rest) = stat.rsplit_once(") ").expect("a name");
        let (id, name) = begin.split_once(" (").expect("an id");
        let policy = rest.split(' ').nth(38).expect("41 fields").parse().expect("a number");
        (id == pid.to_string() || name == "worker").then(|| (Pid::from_raw(id.parse().expect("a number")), policy))
    };
    threads.filter_map(|thread| worker(&format!("{}/stat", thread.ok()?.path().display()))).collect()
}

fn policies(mesh: &Mesh, name: &str) -> Vec<u32> {
    workers(mesh, name).into_iter().map(|(_, policy)| policy).collect()
}

#[test]
fn a_sidecar_that_waits_for_a_thread_that_never_does_may_stop_it_until_it_tries_without_again() {
    let mut mesh = Mesh::new();
    mesh.workload("auto").service_account("auto").add();
    for policy in ["batch", "other"] {
        let sidecar = mesh.workload(policy).service_account(policy);
        sidecar.env("MESH_WORKERS", "2").env("MESH_SCHEDULING", policy).add();
    }
    mesh.start();
    let all = sched_getaffinity(Pid::from_raw(0)).expect("processors");
    let one = (0..CpuSet::count()).find(|number| all.is_set(*number) == Ok(true)).expect("a processor");
    let mut place = CpuSet::new();
    place.set(one).expect("a processor");
    for (worker, _) in ["auto", "batch", "other"].into_iter().flat_map(|name| workers(&mesh, name)) {
        sched_setaffinity(worker, &place).expect("a worker on one processor");
    }
    // Each question wakes the sidecars some times.
    let becomes = |policy| {
        until(SOON, || {
            for name in ["auto", "batch", "other"] {
                (0..10).for_each(|_| drop(mesh.get(name).state()));
            }
            policies(&mesh, "auto") == [policy]
        });
        assert_eq!(policies(&mesh, "batch"), [BATCH; 2]);
        assert_eq!(policies(&mesh, "other"), [OTHER; 2]);
    };
    becomes(BATCH);
    let busy = Busy::start(1, Some(place));
    becomes(OTHER);
    drop(busy);
    becomes(BATCH);
}
