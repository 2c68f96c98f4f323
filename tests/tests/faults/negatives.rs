//! HTTP/2 back ends that do what the protocol lets them, at bad moments and under load.
//!
//! Invariant: an idempotent call that can be made again is answered; one whose answer has begun ends with the back end's
//! code; no other call suffers.
//! Non-goal: frames that break the protocol.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use mesh_tests::attacks::negatives::{Ends, GOOD, PATHS, RESETS, calls, good, leaving, narrow, pinging, resetting};
use mesh_tests::mesh::Mesh;
use mesh_tests::netns::Host;
use mesh_tests::yardstick::{Who, count, record};

use super::HTTP;

/// All calls to `path` ended like this.
fn all_ended(ends: &Ends, path: &str, how: &str) {
    let (right, all) = (ends.count(path, |end| end == how), ends.count(path, |_| true));
    assert!(right == all && right > 0, "{path} did not always end with {how}: {ends:#?}");
}

/// The two ways to a back end: through its sidecar, and without one.
struct Scene {
    mesh: Mesh,
    ways: [(&'static str, SocketAddr, Host); 2],
}

impl Scene {
    fn calls(&self, addr: SocketAddr, all: usize, paths: &'static [&'static str]) -> Ends {
        calls(&self.mesh.get("client").host, addr, all, paths)
    }
}

/// Services over one endpoint, or over another one that is good as well.
fn scene(with_a_good_one: bool) -> Scene {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    let bad = [("meshed", true), ("plain", false)].map(|(name, meshed)| {
        let spec = mesh.workload(name).of(name);
        let host = if meshed { spec.add() } else { spec.plain().add() };
        if with_a_good_one {
            let spec = mesh.workload(&format!("{name}-good")).of(name);
            good(&if meshed { spec.add() } else { spec.plain().add() }, HTTP);
        }
        (name, mesh.service(name, 80, HTTP).add().v4, host)
    });
    mesh.start();
    Scene { mesh, ways: bad }
}

#[test]
fn r59_f13_goaway_under_load_costs_no_call() {
    let scene = scene(true);
    for (way, addr, host) in &scene.ways {
        let (_server, told) = leaving(host, HTTP);
        let all = count(2_000, 100_000);
        let ends = scene.calls(*addr, all, &[GOOD]);
        let told = told.load(Ordering::Relaxed);
        println!("{way}: {ends:?}, {told} GOAWAY");
        all_ended(&ends, GOOD, "ok");
        assert!(told >= all / 1000, "{way}: only {told} connections were told");
        record(59, &format!("goaway, {way}"), Who::Mesh, true, &format!("0 of {all} failed, {told} GOAWAY"));
    }
}

#[test]
fn r59_a_reset_ends_its_own_call_with_its_code_and_no_other() {
    let scene = scene(false);
    for (way, addr, host) in &scene.ways {
        resetting(host, HTTP);
        let all = count(800, 20_000);
        let ends = scene.calls(*addr, all, &PATHS);
        println!("{way}: {ends:?}");
        all_ended(&ends, GOOD, "ok");
        for path in RESETS {
            all_ended(&ends, path, "INTERNAL_ERROR");
        }
        let reset: usize = RESETS.iter().map(|path| ends.count(path, |_| true)).sum();
        let figure = format!("{reset} of {all} reset with their code, 0 others failed");
        record(59, &format!("rst after header, in and after data, {way}"), Who::Mesh, true, &figure);
    }
}

#[test]
fn r59_no_more_streams_are_opened_than_the_back_end_takes() {
    let scene = scene(false);
    for (way, addr, host) in &scene.ways {
        narrow(host, HTTP);
        let all = count(800, 20_000);
        let ends = scene.calls(*addr, all, &[GOOD]);
        println!("{way}: {ends:?}");
        all_ended(&ends, GOOD, "ok");
        let refused = scene.mesh.get("client").metric("mesh_retries_total", &[("reason", "unprocessed")]);
        assert_eq!(refused, 0.0, "{way}: streams beyond the limit");
        record(59, &format!("max_streams, {way}"), Who::Mesh, true, &format!("0 of {all} failed, 0 refused"));
    }
}

#[test]
fn r59_pings_of_the_back_end_are_answered_under_load() {
    let scene = scene(false);
    for (way, addr, host) in &scene.ways {
        let pongs = pinging(host, HTTP);
        let all = count(2_000, 50_000);
        let ends = scene.calls(*addr, all, &[GOOD]);
        let pongs = pongs.load(Ordering::Relaxed);
        println!("{way}: {ends:?}, {pongs} pings answered");
        all_ended(&ends, GOOD, "ok");
        assert!(pongs >= 20, "{way}: {pongs} answers");
        record(59, &format!("ping, {way}"), Who::Mesh, true, &format!("0 of {all} failed, {pongs} pings answered"));
    }
}
