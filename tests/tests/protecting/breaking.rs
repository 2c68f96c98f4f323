//! Circuit breakers.

use std::time::{Duration, Instant};

use mesh_tests::mesh::SOON;
use mesh_tests::netns::until;

use crate::{World, of};

/// Longest ejection after few failures, and room for a machine that others use.
const BACK: Duration = Duration::from_secs(20);

#[test]
fn a_breaker_opens_under_load_keeps_requests_from_a_failing_endpoint_and_closes_when_it_is_well() {
    let (world, []) = World::start(3, []);
    let (client, web) = (world.mesh.get("client"), world.web.v4);
    let ejections = || client.metric("mesh_balancer_ejections_total", &[]);
    world.tally(web, 30);
    world.endpoints[0].answers(503);
    until(SOON, || {
        world.tally(web, 10);
        ejections() >= 1.0
    });
    // It was probed at most once for each second, and no more often than it was ejected.
    let (began, before) = (Instant::now(), ejections());
    let tally = world.tally(web, 300);
    let failed = tally.get(&(503, "web-1".to_owned())).copied().unwrap_or_default();
    let probes = ejections() - before;
    assert!(failed as f64 <= probes + 1.0, "{tally:?}, {probes} probes");
    assert!(probes <= began.elapsed().as_secs_f64() + 1.0, "{probes} probes in {:?}", began.elapsed());
    let state = world.state(web);
    let breaker = &state["endpoints"].as_array().expect("endpoints")[0]["breaker"];
    assert_eq!(breaker["open"], true, "{state}");
    assert!(breaker["probe_in_ms"].as_u64().is_some_and(|left| left <= 60_000), "{state}");
    assert!(breaker["failures_in_a_row"].is_u64(), "{state}");
    world.endpoints[0].answers(0);
    let healed = Instant::now();
    until(BACK, || of(&world.tally(web, 10), "web-1") > 0);
    let returned = healed.elapsed();
    until(SOON, || of(&world.tally(web, 60), "web-1") >= 12);
    println!("probed {returned:?} after it was well, and has its share {:?} after it was", healed.elapsed());
    assert_eq!(world.tally(web, 60).keys().filter(|(status, _)| *status != 200).count(), 0);
}

#[test]
fn connections_that_fail_open_a_breaker_which_waits_no_longer_than_they_fail() {
    let (mut world, []) = World::start(1, []);
    let web = world.web.v4;
    world.tally(web, 3);
    world.policy(
        "web",
        "  circuitBreaker: {consecutiveFailures: 3, ejection: {min: 60s, max: 60s, maxEndpointsPercent: 100}}\n",
    );
    world.mesh.get_mut("web-1").proxy_mut().kill();
    let reason =
        || world.get(web, "/", "").head.lines().find_map(|line| Some(line.strip_prefix("mesh-error: ")?.to_owned()));
    until(SOON, || reason().is_some_and(|reason| reason.starts_with("all_ejected")));
    assert_eq!(world.state(web)["endpoints"][0]["breaker"]["open"], true, "{}", world.state(web));
    let killed = Instant::now();
    world.mesh.get_mut("web-1").proxy_mut().restart();
    until(SOON, || world.get(web, "/", "").status == 200);
    println!("back {:?} after its sidecar was", killed.elapsed());
    assert_eq!(world.tally(web, 20).keys().filter(|(status, _)| *status != 200).count(), 0);
    assert_ne!(world.state(web)["endpoints"][0]["breaker"]["open"], true);
}

#[test]
fn at_most_half_are_out_and_refusals_of_a_request_are_no_failures() {
    let (world, [all]) = World::start(4, ["all"]);
    let client = world.mesh.get("client");
    let ejections = || client.metric("mesh_balancer_ejections_total", &[]);
    // 404, 403 and 501 are the application's word on one request.
    for status in [404, 403, 501] {
        world.endpoints[0].answers(status);
        world.tally(world.web.v4, 60);
    }
    assert!(ejections() < 0.5, "refusals eject nobody");
    // By turns, so that each one has its share whatever its latency.
    world.policy("web", "  balancing: {policy: RoundRobin}\n");
    until(SOON, || {
        world.get(world.web.v4, "/", "");
        world.state(world.web.v4)["balancing"] == "RoundRobin"
    });
    world.endpoints.iter().for_each(|endpoint| endpoint.answers(500));
    let seen: Vec<_> = world.endpoints.iter().map(|endpoint| endpoint.requests()).collect();
    world.tally(world.web.v4, 400);
    assert!(ejections() >= 3.0);
    for (endpoint, before) in world.endpoints.iter().zip(seen) {
        assert!(endpoint.requests() - before >= 40, "when too many are out all are used");
    }
    assert_eq!(world.state(world.web.v4)["panic"], true);
    // Where a policy lets all be out, nobody is asked in vain.
    world.policy(
        "all",
        "  circuitBreaker: {consecutiveFailures: 3, ejection: {min: 30s, max: 60s, maxEndpointsPercent: 100}}\n",
    );
    until(SOON, || world.get(all.v4, "/", "").head.contains("mesh-error: all_ejected"));
    let before: usize = world.endpoints.iter().map(|endpoint| endpoint.requests()).sum();
    let answer = world.get(all.v4, "/", "");
    assert_eq!((answer.status, answer.body.starts_with("mesh: all_ejected; ")), (503, true), "{}", answer.body);
    let after: usize = world.endpoints.iter().map(|endpoint| endpoint.requests()).sum();
    assert_eq!(before, after, "nobody was asked");
}
