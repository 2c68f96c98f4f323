//! Policies and routes that change while requests run.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mesh_tests::client::{PATIENCE, within};
use mesh_tests::mesh::SOON;
use mesh_tests::streams;
use mesh_tests::yardstick::count;

use super::{World, app, policy};

/// Each changes something else; with the number of the change in it, so that no two are alike.
const KINDS: [fn(usize) -> String; 8] = [
    |n| format!("retries: {{on: [5xx, reset], attempts: {}, perTryTimeout: 10s}}", n % 10 + 1),
    |n| format!("timeouts: {{request: {}s, streamIdle: 10s, connect: 5s}}", 10 + n),
    |n| format!("retryBudget: {{percent: {}, minPerSecond: 1, ttl: 5s}}", n % 100 + 1),
    |n| format!("balancing: {{policy: LeastRequest, slowStart: {}s}}", n + 1),
    |n| format!("balancing: {{policy: ConsistentHash, hash: [{{header: x-{n}}}, {{sourceAddress: true}}]}}"),
    |n| format!("limits: {{requests: {}, connections: 100, requestsPerConnection: {}}}", 100 + n, 50 + n),
    |n| format!("rateLimits: {{total: {{requests: {}}}}}", 100_000 + n),
    |n| {
        format!(
            "circuitBreaker: {{consecutiveFailures: {}}}, faults: [{{delay: {{percent: 10, duration: 1ms}}}}]",
            n + 3
        )
    },
];

const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: live}
spec:
  parentRefs: [{group: '', kind: Service, name: live}]
  rules:
  - filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-change, value: 'N'}]}}]
    backendRefs: [{name: live, port: 80, weight: 1}, {name: beside, port: 80, weight: 1}]
";

#[test]
fn policies_and_routes_change_under_load_without_one_failed_request() {
    let changes = count(24, 60);
    let world = World::start(&[("live", "timeouts: {request: 20s}"), ("beside", "limits: {requests: 1000}")]);
    let (addr, stop, answered) = (world.addr("live"), AtomicBool::new(false), AtomicUsize::new(0));
    let host = &world.mesh.get("client").host;
    let failures = std::thread::scope(|scope| {
        let (stop, answered) = (&stop, &answered);
        // One connection that lasts, and many that do not.
        let lasting = scope.spawn(move || {
            let requests = async {
                let sender = streams::connect(addr).await.expect("a connection");
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let seen = app::ask(&sender, "/ok/live", &[], b"body");
                    let seen = tokio::time::timeout(PATIENCE, seen).await;
                    failures.extend(failure(&seen.unwrap_or(Err(h2::Reason::CANCEL))));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                failures
            };
            // For as long as the changes take.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            host.enter(|| runtime.expect("a runtime in a test").block_on(requests))
        });
        let brief = scope.spawn(move || {
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let seen = within(host, async {
                    let sender = streams::connect(addr).await.map_err(|_| h2::Reason::CONNECT_ERROR)?;
                    app::ask(&sender, "/ok/brief", &[], b"body").await
                });
                failures.extend(failure(&seen));
            }
            failures
        });
        for change in 0..changes {
            if change % 3 == 2 {
                match change % 2 {
                    0 => world.mesh.manifests.write("route", &ROUTE.replace("'N'", &format!("'{change}'"))),
                    _ => world.mesh.manifests.remove("route"),
                }
            } else {
                world.mesh.manifests.write("policy-live", &policy("live", &KINDS[change % KINDS.len()](change)));
            }
            // Some requests under each.
            let goal = answered.load(Ordering::Relaxed) + 20;
            let begun = Instant::now();
            while answered.load(Ordering::Relaxed) < goal && begun.elapsed() < SOON {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        stop.store(true, Ordering::Relaxed);
        [lasting, brief].map(|load| load.join().expect("a load that ends")).concat()
    });
    let answered = answered.load(Ordering::Relaxed);
    println!("{answered} answered on one connection over {changes} changes");
    assert!(failures.is_empty(), "{answered} answered, {} failed: {failures:?}", failures.len());
    assert!(answered >= changes * 20, "{answered} answered over {changes} changes");
}

fn failure(seen: &Result<app::Seen, h2::Reason>) -> Option<String> {
    let is_good = seen.as_ref().is_ok_and(|seen| seen.status == 200 && seen.body.as_deref() == Ok(b"body"));
    (!is_good).then(|| format!("{seen:?}"))
}
