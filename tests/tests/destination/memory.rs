//! What a connected proxy costs destination, in memory.
//!
//! Invariant: the service is known and followed before, so that what is counted is a proxy's alone.

use std::sync::mpsc;

use mesh_tests::mesh::{Mesh, SOON, Watcher};
use mesh_tests::yardstick::Process;
use tokio::sync::mpsc as tokio_mpsc;

/// Proxies that were there before, and those that are counted.
const BEFORE: usize = 100;
const COUNTED: usize = 400;
/// KiB for each, with one subscription; as released it takes 6 (`bench-control destination` has more subscriptions).
const MOST: u64 = 8;

#[test]
fn a_connected_proxy_takes_a_few_kib() {
    let mut mesh = Mesh::new();
    mesh.workload("web").of("web").add();
    let _ = mesh.service("web", 80, 8000).add();
    mesh.start();
    let host = mesh.host("watchers");
    let credentials = mesh.control().credentials(&host, "watcher");
    let addr = mesh.control().destination_addr();
    let (wish, mut wishes) = tokio_mpsc::channel(1);
    let (told, connected) = mpsc::sync_channel(1);
    let watchers = host.run_in_thread(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime in a test").block_on(async {
            let mut all = Vec::new();
            while let Some(more) = wishes.recv().await {
                for _ in 0..more {
                    let mut watcher = Watcher::follow(addr, credentials.clone(), "web").await;
                    assert!(watcher.next().await.is_some(), "a stream that was ended");
                    all.push(watcher);
                }
                told.send(all.len()).expect("the test waits");
            }
        });
    });
    let process = Process(mesh.control_mut().destination().pid().expect("destination runs"));
    let grow = |by: usize| {
        wish.blocking_send(by).expect("the watchers live");
        connected.recv_timeout(SOON).expect("all are connected");
        process.anonymous()
    };
    let before = grow(BEFORE);
    let after = grow(COUNTED);
    let each = after.saturating_sub(before).div_ceil(COUNTED as u64);
    println!("{each} KiB for a connected proxy");
    assert!((1..=MOST).contains(&each), "{each} KiB for each of {COUNTED}: {before} KiB before, {after} with them");
    drop(wish);
    watchers.join().expect("the watchers");
}
