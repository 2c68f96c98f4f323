//! How the kernel schedules a sidecar: as it was told, or by what it waits.
//!
//! Non-goal: what that saves; the bench shows it.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mesh_tests::mesh::{Daemon, Mesh, SOON};
use mesh_tests::netns::until;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// `SCHED_OTHER`.
const OTHER: u32 = 0;
/// `SCHED_BATCH`.
const BATCH: u32 = 3;

/// The threads of a sidecar, and the policy of each: the 41st field, counted behind the name.
fn threads(mesh: &Mesh, name: &str) -> Vec<(Pid, u32)> {
    let pid = mesh.get(name).proxy().and_then(Daemon::pid).expect("a sidecar that runs");
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    let thread = threads.map(|thread| {
        let path = thread.expect("a thread").path();
        let stat = fs::read_to_string(path.join("stat")).expect("proc");
        let (begin, rest) = stat.rsplit_once(") ").expect("a name");
        let (id, _) = begin.split_once(" (").expect("an id");
        let policy = rest.split(' ').nth(38).expect("41 fields").parse().expect("a number");
        (Pid::from_raw(id.parse().expect("a number")), policy)
    });
    thread.collect()
}

fn policies(mesh: &Mesh, name: &str) -> Vec<u32> {
    let mut policies: Vec<_> = threads(mesh, name).into_iter().map(|(_, policy)| policy).collect();
    policies.dedup();
    policies
}

#[test]
fn all_workers_are_scheduled_as_they_are_told() {
    let mut mesh = Mesh::new();
    for policy in ["batch", "other"] {
        let sidecar = mesh.workload(policy).service_account(policy);
        sidecar.env("MESH_WORKERS", "2").env("MESH_SCHEDULING", policy).add();
    }
    mesh.start();
    for (name, policy) in [("batch", BATCH), ("other", OTHER)] {
        assert!(threads(&mesh, name).len() >= 2);
        assert_eq!(policies(&mesh, name), [policy], "{name}");
    }
}

#[test]
fn a_sidecar_that_waits_for_a_thread_that_never_does_may_stop_it_until_it_tries_without_again() {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    mesh.start();
    let all = sched_getaffinity(Pid::from_raw(0)).expect("processors");
    let one = (0..CpuSet::count()).find(|number| all.is_set(*number) == Ok(true)).expect("a processor");
    let mut place = CpuSet::new();
    place.set(one).expect("a processor");
    let stay = |thread| sched_setaffinity(thread, &place).expect("a thread on one processor");
    threads(&mesh, "client").into_iter().for_each(|(thread, _)| stay(thread));
    // Each of them wakes the sidecar some times.
    let becomes = |policy| {
        until(SOON, || {
            (0..10).for_each(|_| drop(mesh.get("client").state()));
            policies(&mesh, "client") == [policy]
        });
    };
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            stay(Pid::from_raw(0));
            while !is_over.load(Ordering::Relaxed) {}
        });
        becomes(OTHER);
        is_over.store(true, Ordering::Relaxed);
    });
    becomes(BATCH);
}
