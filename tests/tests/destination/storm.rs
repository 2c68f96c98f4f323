//! A thousand endpoints that never rest.
//!
//! Invariant: readers are told often enough and not more often, and the end is the truth.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mesh_tests::mesh::Mesh;
use mesh_tests::yardstick::{Process, Vitals, Who, count, record};

use mesh_tests::mesh::Watcher;

const FILES: u32 = 20;
const PER_FILE: u32 = 50;
const READERS: usize = 8;
/// Changes of each endpoint in a second.
const RATE: u32 = 10;
const SOON: Duration = Duration::from_secs(60);
/// Most growth of destination, in KiB.
const GROWTH: u64 = 32 * 1024;

/// The address of an endpoint in a round.
fn address(round: u32, endpoint: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + (round % 4096 * FILES * PER_FILE) + endpoint)
}

/// The truth of a round.
fn truth(round: u32) -> BTreeSet<Ipv4Addr> {
    (0..FILES * PER_FILE).map(|endpoint| address(round, endpoint)).collect()
}

fn write(mesh: &Mesh, round: u32, file: u32) {
    let workloads = (file * PER_FILE..(file + 1) * PER_FILE).map(|n| {
        format!(
            "---\n{{apiVersion: mesh.internal/v1alpha1, kind: Workload, metadata: {{name: w{n}, namespace: default,\n\
             \x20 labels: {{app: storm}}}}, spec: {{addresses: [{}], serviceAccount: storm, meshed: true}}}}\n",
            address(round, n)
        )
    });
    mesh.manifests.write(&format!("storm-{file}"), &workloads.collect::<String>());
}

/// Reads until the truth of the last round has come; how many messages came, and most of them within a second.
async fn read(mut watcher: Watcher, truth: BTreeSet<Ipv4Addr>, over: Arc<AtomicBool>) -> (usize, usize) {
    let mut moments = Vec::new();
    loop {
        let state = tokio::time::timeout(SOON, watcher.next()).await.expect("the truth in time");
        let state: BTreeSet<_> = state.expect("a stream that goes on").into_iter().collect();
        moments.push(Instant::now());
        if over.load(Ordering::Relaxed) && state == truth {
            break;
        }
    }
    let within =
        |first: &Instant| moments.iter().filter(|at| **at >= *first && **at - *first < Duration::from_secs(1)).count();
    (moments.len(), moments.iter().map(within).max().unwrap_or_default())
}

#[test]
fn r49_an_update_storm_is_coalesced_and_ends_in_the_truth() {
    let rounds = count(5, 300) * RATE;
    let mut mesh = Mesh::new();
    let _ = mesh.service("storm", 80, 8000).add();
    (0..FILES).for_each(|file| write(&mesh, 0, file));
    mesh.start();
    let host = mesh.host("watchers");
    let credentials = mesh.control().credentials(&host, "watcher");
    let (addr, over) = (mesh.control().destination_addr(), Arc::new(AtomicBool::new(false)));
    let (told, is_ready) = std::sync::mpsc::sync_channel(1);
    let readers = host.run_in_thread({
        let over = Arc::clone(&over);
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime in a test").block_on(async {
                let mut reading = Vec::new();
                for _ in 0..READERS {
                    let watcher = Watcher::follow(addr, credentials.clone(), "storm").await;
                    reading.push(tokio::spawn(read(watcher, truth(rounds), Arc::clone(&over))));
                }
                told.send(()).expect("the test waits");
                let all = futures_util::future::join_all(reading).await;
                all.into_iter().map(|seen| seen.expect("no panic")).collect::<Vec<_>>()
            })
        }
    });
    is_ready.recv_timeout(SOON).expect("all streams are open");
    let vitals = Vitals::of(mesh.control_mut().destination());
    let process = Process(mesh.control_mut().destination().pid().expect("destination runs"));
    let (idle, begun) = (process.anonymous(), Instant::now());
    for round in 1..=rounds {
        if round == rounds {
            // Before the last write, so that nobody waits for a message that has come.
            over.store(true, Ordering::Relaxed);
        }
        (0..FILES).for_each(|file| write(&mesh, round, file));
        thread::sleep((begun + Duration::from_secs(1) * round / RATE).saturating_duration_since(Instant::now())); // the storm's pace
    }
    let seen = readers.join().expect("every reader sees the truth");
    let took = begun.elapsed();
    let most = took.as_secs_f64() * f64::from(RATE) + 3.0;
    for (messages, within) in &seen {
        // By the reader's clock: what waited while others had the processors comes at once.
        assert!(*within <= count(20, 11), "{within} messages within a second");
        assert!(f64::from(u32::try_from(*messages).expect("few")) <= most, "{messages} messages in {took:?}");
    }
    let grown = process.anonymous().saturating_sub(idle);
    assert!(grown <= GROWTH, "{grown} KiB");
    vitals.finish(mesh.control_mut().destination(), &[]);
    let (messages, within) = seen.iter().max_by_key(|(messages, _)| *messages).expect("readers");
    let figure = format!(
        "1,000 of 1,000 true for {READERS} readers; {messages} messages for {rounds} rounds in {took:.0?}, {within} within a second at most; {grown} KiB more"
    );
    record(49, "update storm", Who::Mesh, true, &figure);
}
