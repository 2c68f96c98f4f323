//! Policies that change while requests run.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mesh_tests::client::within;
use mesh_tests::streams;

use super::{World, app, policy};

#[test]
fn a_policy_changes_under_load_without_one_failed_request() {
    const CHANGES: usize = 20;
    let world = World::start(&[("live", "timeouts: {request: 20s}")]);
    let (addr, stop, answered) = (world.addr("live"), AtomicBool::new(false), AtomicUsize::new(0));
    let host = &world.mesh.get("client").host;
    let failures = std::thread::scope(|scope| {
        let (stop, answered) = (&stop, &answered);
        let load = scope.spawn(move || {
            within(host, async {
                let sender = streams::connect(addr).await.expect("a connection");
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match app::ask(&sender, "/ok/live", &[], b"body").await {
                        Ok(seen) if seen.status == 200 && seen.body.as_deref() == Ok(b"body") => {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        other => failures.push(format!("{other:?}")),
                    }
                }
                failures
            })
        });
        for change in 0..CHANGES {
            let attempts = change % 10 + 1;
            let spec = match change % 3 {
                0 => format!("retries: {{on: [5xx, reset], attempts: {attempts}, perTryTimeout: 10s}}"),
                1 => format!("timeouts: {{request: {}s, streamIdle: 10s}}", 10 + attempts),
                _ => format!("retryBudget: {{percent: {attempts}, minPerSecond: 1, ttl: 5s}}"),
            };
            world.mesh.manifests.write("policy-live", &policy("live", &spec));
            // Some requests under each.
            let goal = answered.load(Ordering::Relaxed) + 20;
            let begun = std::time::Instant::now();
            while answered.load(Ordering::Relaxed) < goal && begun.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        stop.store(true, Ordering::Relaxed);
        load.join().expect("a load that ends")
    });
    let answered = answered.load(Ordering::Relaxed);
    println!("{answered} answered over {CHANGES} changes");
    assert!(
        failures.is_empty() && answered >= CHANGES * 20,
        "{answered} answered, {} failed: {failures:?}",
        failures.len()
    );
}
