//! A reader that does not read, among many that do.
//!
//! Invariant: latency counts from before a manifest is written to when the reader has the state that says it.

use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use mesh_tests::mesh::{Mesh, Metrics};
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Process, Vitals, Who, count, record};
use tokio::sync::{Barrier, oneshot};

use mesh_tests::mesh::{Watcher, deaf};

const SERVICES: usize = 20;
const ENDPOINTS: usize = 50;
const SOON: Duration = Duration::from_secs(60);
/// Between two changes.
const PACE: Duration = Duration::from_millis(10);
/// Most growth of destination under changes, in KiB.
const GROWTH: u64 = 16 * 1024;

/// When each change was begun.
type Begun = Arc<Vec<OnceLock<Instant>>>;

fn service(n: usize) -> String {
    format!("s{}", n % SERVICES)
}

/// The file of a service's workloads; the first one has the change's address.
fn write(mesh: &Mesh, change: usize) {
    let name = service(change);
    let address = |nth: usize| match nth {
        0 => changed(change).to_string(),
        nth => Ipv4Addr::from(0x0a5c_0000 + u32::try_from(change % SERVICES * 256 + nth).expect("few")).to_string(),
    };
    let workloads = (0..ENDPOINTS).map(|nth| {
        format!(
            "---\n{{apiVersion: mesh.internal/v1alpha1, kind: Workload, metadata: {{name: {name}-{nth}, namespace: default,\n\
             \x20 labels: {{app: {name}}}}}, spec: {{addresses: [{}], serviceAccount: {name}, meshed: true}}}}\n",
            address(nth)
        )
    });
    mesh.manifests.write(&format!("workloads-{name}"), &workloads.collect::<String>());
}

fn changed(change: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a5a_0000 + u32::try_from(change).expect("few"))
}

fn change_in(addresses: &[Ipv4Addr]) -> Option<usize> {
    let number =
        addresses.iter().find_map(|address| u32::from(*address).checked_sub(0x0a5a_0000).filter(|n| *n < 1 << 16));
    number.map(|number| number as usize)
}

/// The changes that a watcher saw with their latencies, to the last one of its service.
async fn watch(mut watcher: Watcher, begun: Begun, last: usize, ready: Arc<Barrier>) -> Vec<(usize, Duration)> {
    let (mut seen, mut latencies) = (watcher.next().await.as_deref().and_then(change_in), Vec::new());
    ready.wait().await;
    while seen.is_none_or(|seen| seen < last) {
        let Some(addresses) = watcher.next().await else { panic!("a stream that reads was ended") };
        let now = Instant::now();
        let change = change_in(&addresses);
        if change > seen {
            let begun = change.and_then(|change| Some((change, begun.get(change)?.get()?)));
            latencies.extend(begun.map(|(change, begun)| (change, now.saturating_duration_since(*begun))));
            seen = change;
        }
    }
    latencies
}

fn p99(mut latencies: Vec<(usize, Duration)>) -> Duration {
    latencies.sort_unstable_by_key(|(_, latency)| *latency);
    latencies[latencies.len() * 99 / 100].1
}

/// Makes a change, and leaves it a moment.
fn make(mesh: &Mesh, begun: &Begun, change: usize) {
    begun[change].set(Instant::now()).expect("once");
    write(mesh, change);
    thread::sleep(PACE); // the storm's pace
}

fn ended(mesh: &Mesh, reason: &str) -> f64 {
    let page = Metrics::parse(&mesh.control().destination_metrics());
    page.sum("mesh_destination_streams_ended_total", &[("reason", reason)])
}

#[test]
fn r48_f27_one_deaf_reader_is_ended_and_delays_none_of_the_others() {
    let (streams, changes) = (count(100, 1_000), count(500, 10_000));
    let mut mesh = Mesh::new();
    mesh.control_mut().destination_args(&["--stall-timeout=8s"]);
    for n in 0..SERVICES {
        let _ = mesh.service(&service(n), 80, 8000).add();
        write(&mesh, n);
    }
    mesh.start();
    let host = mesh.host("watchers");
    let credentials = mesh.control().credentials(&host, "watcher");
    let (addr, begun) = (mesh.control().destination_addr(), Begun::default());
    let begun = Arc::new((0..changes).map(|_| OnceLock::new()).chain(begun.iter().cloned()).collect::<Vec<_>>());
    let pid = mesh.control_mut().destination().pid().expect("destination runs");
    let ready = Arc::new(Barrier::new(streams + 1));
    let (told, is_ready) = std::sync::mpsc::sync_channel(1);
    let watchers = host.run_in_thread({
        let (begun, credentials) = (Arc::clone(&begun), credentials.clone());
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime in a test").block_on(async {
                let mut watching = Vec::new();
                for n in 0..streams {
                    let watcher = Watcher::follow(addr, credentials.clone(), &service(n)).await;
                    let last = (0..changes).rev().find(|change| change % SERVICES == n % SERVICES).expect("a change");
                    watching.push(tokio::spawn(watch(watcher, Arc::clone(&begun), last, Arc::clone(&ready))));
                }
                ready.wait().await;
                told.send(()).expect("the test waits");
                // The changes take their time, and more of it where writing one is slow.
                let patience = SOON + 4 * PACE * u32::try_from(changes).expect("few");
                let all = tokio::time::timeout(patience, futures_util::future::join_all(watching));
                all.await
                    .expect("every watcher sees its last change")
                    .into_iter()
                    .map(|seen| seen.expect("no panic"))
                    .collect::<Vec<_>>()
            })
        }
    });
    is_ready.recv_timeout(SOON).expect("all streams are open");
    let calm = changes / 5;
    (SERVICES..calm).for_each(|change| make(&mesh, &begun, change));
    let (listen, listens) = oneshot::channel();
    let deaf = host.run_in_thread(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime in a test").block_on(deaf(addr, credentials, "s0", listens));
    });
    let vitals = Vitals::of(mesh.control_mut().destination());
    let idle = Process(pid).anonymous();
    (calm..changes).for_each(|change| make(&mesh, &begun, change));
    let latencies = watchers.join().expect("watchers").concat();
    until(SOON, || ended(&mesh, "stalled") >= 1.0);
    listen.send(()).expect("the deaf one lives");
    deaf.join().expect("the deaf one's connection ends");
    assert_eq!(ended(&mesh, "stalled"), 1.0);
    let grown = Process(pid).anonymous().saturating_sub(idle);
    assert!(grown <= GROWTH, "{grown} KiB");
    let destination = mesh.control_mut().destination();
    // The metric may be seen before the line of the same moment.
    until(SOON, || destination.log().contains("a proxy does not read, disconnected"));
    vitals.finish(destination, &[]);
    let (before, beside) = latencies.into_iter().partition(|(change, _)| *change < calm);
    let (before, p99) = (p99(before), p99(beside));
    // Or three times that before it: on a machine that others use, as other tests may since then, all is late.
    let most = count(Duration::from_secs(1), Duration::from_millis(100)).max(3 * before);
    assert!(p99 < most, "p99 is {p99:?}, {before:?} before");
    let figure = format!(
        "1 ended as stalled, {streams} others: p99 {p99:.0?} over {changes} changes, {before:.0?} before; {grown} KiB more"
    );
    record(48, "a deaf reader", Who::Mesh, true, &figure);
}
