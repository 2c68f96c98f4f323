//! The same words where the Gateway API has them: `timeouts` and `retry` of an `HTTPRoute`'s rules; for rules of a `GRPCRoute`,
//! which have none, a policy says them.
//!
//! Invariant: a backoff is the least time between two tries, and a rule's words hold for its own requests only.

use std::time::{Duration, Instant};

use super::{Policy, World};

const GRPC: (&str, &str) = ("content-type", "application/grpc");
/// A breaker or an empty budget would take away what is to be seen.
const PATIENT: &str = "circuitBreaker: {enabled: false}, retryBudget: {percent: 100, minPerSecond: 100, ttl: 10s}";
const POLICIES: [Policy; 2] = [("ruled", PATIENT), ("called", PATIENT)];

const HTTP: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: ruled}
spec:
  parentRefs: [{group: '', kind: Service, name: ruled}]
  rules:
  - {matches: [{path: {value: /silent/whole}}], timeouts: {request: 500ms}, backendRefs: &to [{name: ruled, port: 80}]}
  - matches: [{path: {value: /silent/each}}]
    timeouts: {request: 20s, backendRequest: 400ms}
    retry: {attempts: 2, backoff: 200ms}
    backendRefs: *to
  - matches: [{path: {value: /status-2}}, {path: {value: /early-9}}]
    retry: {codes: [500, 503], attempts: 2, backoff: 300ms}
    backendRefs: *to
  - {matches: [{path: {value: /early-1}}], retry: {codes: [500], attempts: 2}, backendRefs: *to}
  - {matches: [{path: {value: /reset-1}}], retry: {attempts: 1}, backendRefs: *to}
  - matches: [{path: {value: /early-99}}]
    timeouts: {request: 1s}
    retry: {codes: [503], attempts: 10, backoff: 300ms}
    backendRefs: *to
  - {matches: [{path: {value: /ok}}, {path: {value: /silent-1}}], backendRefs: *to}
";
const CALLS: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: called}
spec:
  parentRefs: [{group: '', kind: Service, name: called}]
  rules:
  - {name: whole, matches: [{method: {method: whole}}], backendRefs: &to [{name: called, port: 80}]}
  - {name: again, matches: [{method: {method: again}}], backendRefs: *to}
  - {matches: [{method: {method: known}}, {method: {method: once}}], backendRefs: *to}
---
apiVersion: mesh.internal/v1alpha1
kind: TrafficPolicy
metadata: {name: whole}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: GRPCRoute, name: called, sectionName: whole}]
  timeouts: {request: 500ms}
---
apiVersion: mesh.internal/v1alpha1
kind: TrafficPolicy
metadata: {name: again}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: GRPCRoute, name: called, sectionName: again}]
  retries: {on: [grpc-unavailable], attempts: 2, perTryTimeout: 500ms, backoff: {initial: 1ms, max: 5ms}}
";

#[test]
fn rules_say_how_long_requests_take_and_how_often_they_are_sent() {
    let world = World::with(&POLICIES, &[("ruled", HTTP), ("called", CALLS)]);
    let addr = world.addr("ruled");
    assert_eq!(world.ask(addr, "/nowhere", &[]).map(|seen| seen.status), Ok(404), "the route is in force");
    // Path, status, the mesh's word for it, tries, and how long that takes at least.
    for (path, status, word, tries, least) in [
        ("/silent/whole", 504, "request_timeout", 1, 500),
        ("/silent/each", 504, "response_timeout", 3, 3 * 400 + 2 * 200),
        ("/status-2/listed", 200, "", 3, 2 * 300),
        ("/early-9/too-often", 503, "", 3, 2 * 300),
        ("/early-1/not-listed", 503, "", 1, 0),
        ("/reset-1/lost", 200, "", 2, 0),
    ] {
        let began = Instant::now();
        let seen = world.send(addr, path, &[], b"body").expect("an answer");
        let took = began.elapsed();
        let word_seen = seen.error.split(';').next().unwrap_or_default();
        assert_eq!((seen.status, word_seen), (status, word), "{path}: {seen:?}");
        assert_eq!(world.arrivals.of(path).len(), tries, "{path}");
        assert!(took >= Duration::from_millis(least), "{path}: {tries} tries in {took:?}");
        println!("{path}: {tries} tries in {took:?}");
    }
    // All of it is one request: retries do not make it longer, and none that could not begin in time begins.
    let seen = world.send(addr, "/early-99/bounded", &[], b"").expect("an answer");
    let tries = world.arrivals.of("/early-99/bounded").len();
    assert!([503, 504].contains(&seen.status) && (1..=4).contains(&tries), "{tries} tries: {seen:?}");
    calls(&world);
}

fn calls(world: &World) {
    let addr = world.addr("called");
    let call = |path| world.send(addr, path, &[GRPC], b"body").expect("an answer");
    assert_eq!(call("/nowhere/at-all").grpc.as_deref(), Some("12"), "UNIMPLEMENTED: the route is in force");
    for (path, status, tries) in [
        ("/mute/whole", "4", 1),
        ("/mute-1/again", "4", 1),
        ("/grpc-2/again", "0", 3),
        ("/trailers-2/again", "0", 3),
        ("/trailers-9/again", "14", 3),
        ("/trailers-1/once", "14", 1),
    ] {
        let seen = call(path);
        assert_eq!(seen.grpc.as_deref(), Some(status), "{path}: {seen:?}");
        assert_eq!(world.arrivals.of(path).len(), tries, "{path}");
    }
}
