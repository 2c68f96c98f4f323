//! Bulkheads: what one dependency takes is not taken from another.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use mesh_tests::mesh::{Mesh, SOON};
use mesh_tests::netns::until;
use mesh_tests::yardstick::count;

use crate::switchable::Endpoint;
use crate::{APP, World, get, policy};

/// Longer than the test.
const FOREVER: Duration = Duration::from_secs(30);

/// How much slower a call may be beside a dependency that is dead; in `make test`, where others have the processors too.
fn slower() -> f64 {
    count(1.2, 1.05)
}

#[test]
fn what_overflows_is_answered_at_once_and_a_dead_dependency_does_not_slow_another() {
    // `web` is over the first two; `dead` over all of them, which hang for it alone: its path says so.
    let (world, [dead, patient]) = World::start(2, ["dead", "patient"]);
    world.policy("dead", "  limits: {requests: 3}\n");
    world.policy("patient", "  limits: {requests: 1, pendingRequests: 1, pendingWait: 10s}\n");
    let limited = |to: SocketAddr| {
        until(SOON, || {
            world.get(to, "/", "");
            world.state(to)["policy"].is_string()
        });
    };
    limited(dead.v4);
    limited(patient.v4);
    let host = world.mesh.get("client").host.clone();
    thread::scope(|scope| {
        let held: Vec<_> = (0..3).map(|_| scope.spawn(|| get(&host, dead.v4, "/hang", ""))).collect();
        until(SOON, || world.state(dead.v4)["limits"]["requests"] == 3);
        let began = Instant::now();
        let answer = world.get(dead.v4, "/hang", "");
        assert!(began.elapsed() < FOREVER / 3, "at once, not after {:?}", began.elapsed());
        assert_eq!(answer.status, 503);
        assert!(answer.head.contains("mesh-error: overload; "), "{}", answer.head);
        assert!(answer.head.contains("limits.requests"), "{}", answer.head);
        world.endpoints.iter().for_each(Endpoint::release);
        for request in held {
            assert_eq!(request.join().expect("a request").status, 200, "what had a place is served");
        }
    });
    beside_a_dead_one(&world, dead.v4);
    queue(&world, patient.v4);
}

#[test]
fn limits_hold_for_all_workers_together() {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").env("MESH_WORKERS", "2").add();
    let host = mesh.workload("web-1").of("web").add();
    let to = mesh.service("web", 80, APP).add().v4;
    mesh.manifests.write("policy", &policy("web", "  limits: {requests: 2}\n"));
    mesh.start();
    let endpoint = Endpoint::start(&host, APP, "web-1");
    let client = mesh.get("client").host.clone();
    let labels = [("direction", "outbound"), ("target", "default/web:80")];
    let in_flight = || mesh.get("client").metric("mesh_http_requests_in_flight", &labels);
    // The kernel spreads connections over both.
    (0..16).for_each(|_| until(SOON, || get(&client, to, "/", "").status == 200));
    until(SOON, || in_flight() < 0.5);
    thread::scope(|scope| {
        let held: Vec<_> = (0..2).map(|_| scope.spawn(|| get(&client, to, "/hang", ""))).collect();
        until(SOON, || in_flight() > 1.5);
        let statuses: Vec<_> = (0..16).map(|_| get(&client, to, "/", "").status).collect();
        endpoint.release();
        held.into_iter().for_each(|held| assert_eq!(held.join().expect("a client").status, 200));
        assert_eq!(statuses, [503; 16]);
    });
}

/// Rounds with `dead` full of requests that hang alternate with rounds without, so what the machine does besides falls on both
/// alike. A busy machine gets more rounds, for chance to even out: a real difference does not.
fn beside_a_dead_one(world: &World, dead: SocketAddr) {
    let host = &world.mesh.get("client").host;
    let mut ratios = Vec::new();
    let middle = |ratios: &[f64]| {
        let mut sorted = ratios.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    while ratios.len() < count(8, 40) || (middle(&ratios) > slower() && ratios.len() < count(60, 200)) {
        world.endpoints.iter().for_each(Endpoint::hold);
        let beside = thread::scope(|scope| {
            let held: Vec<_> = (0..3).map(|_| scope.spawn(|| get(host, dead, "/hang", ""))).collect();
            until(SOON, || world.state(dead)["limits"]["requests"] == 3);
            assert_eq!(world.get(dead, "/hang", "").status, 503, "it is full");
            let beside = world.median(world.web.v4);
            assert_eq!(world.state(dead)["limits"]["requests"], 3, "and stayed so");
            world.endpoints.iter().for_each(Endpoint::release);
            held.into_iter().for_each(|request| assert_eq!(request.join().expect("a request").status, 200));
            beside
        });
        ratios.push(beside.as_secs_f64() / world.median(world.web.v4).as_secs_f64());
    }
    let found = middle(&ratios);
    println!("median of a call beside a dead dependency: {found:.3} times that without; {} rounds", ratios.len());
    assert!(found <= slower(), "{found:.3} times slower: {ratios:.3?}");
}

/// One is served, one waits, and the third is refused at once.
fn queue(world: &World, to: SocketAddr) {
    world.endpoints.iter().for_each(Endpoint::hold);
    let host = world.mesh.get("client").host.clone();
    thread::scope(|scope| {
        let one = || scope.spawn(|| get(&host, to, "/hang", ""));
        let first = one();
        until(SOON, || world.state(to)["limits"]["requests"] == 1);
        let second = one();
        until(SOON, || world.state(to)["limits"]["pending"] == 1);
        let third = world.get(to, "/hang", "");
        assert_eq!(third.status, 503);
        assert!(third.head.contains("overload; ") && third.head.contains("limits.pendingrequests"), "{}", third.head);
        world.endpoints.iter().for_each(Endpoint::release);
        for request in [first, second] {
            assert_eq!(request.join().expect("a request").status, 200);
        }
    });
}

impl World {
    /// Of some requests.
    fn median(&self, to: SocketAddr) -> Duration {
        let mut times: Vec<_> = (0..60)
            .map(|_| {
                let began = Instant::now();
                assert_eq!(self.get(to, "/", "").status, 200);
                began.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[times.len() / 2]
    }
}
