//! Names without end: hosts, paths, ids, destinations, server names, endpoints.
//!
//! Invariant: only what discovery names, or what the application itself dials, gets series of its own, under a cap.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::Request;
use mesh_tests::body;
use mesh_tests::client::http::{Connection, Version};
use mesh_tests::client::within;
use mesh_tests::mesh::{Mesh, Metrics};
use mesh_tests::netns::{Host, until};
use mesh_tests::raw;
use mesh_tests::yardstick::{Bystander, Process, Vitals, Who, count, record};

use crate::mesh;

/// Most series, whatever happens.
const MOST: usize = 5000;
/// Most growth of the process's own memory, in KiB.
const GROWTH: u64 = 16 * 1024;
/// Idle times of the sidecar under test, so that nobody waits for minutes.
const IDLE: &[(&str, &str)] = &[("MESH_METRICS_IDLE", "10s"), ("MESH_TARGET_IDLE", "10s")];
const SOON: Duration = Duration::from_secs(60);

fn series(mesh: &Mesh, workload: &str) -> usize {
    let page = mesh.get(workload).admin("GET", "/metrics").expect("a page").1;
    page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count()
}

/// Requests of one connection.
const AT_ONCE: u32 = 2000;

/// Requests of which no two have a host, a path or an id in common.
async fn distinct(addr: SocketAddr, requests: std::ops::Range<u32>) {
    let mut connection = Connection::open(addr, Version::H1).await.expect("a connection");
    for n in requests {
        let request = Request::builder().uri(format!("/path-{n}?id={n}"));
        let request = request.header("host", format!("host-{n}.example")).header("x-request-id", n.to_string());
        let answer = connection.fetch(request.body(body::empty()).expect("a request")).await;
        answer.unwrap_or_else(|error| panic!("request {n}: {error}"));
    }
}

/// Plain requests to ports where nobody listens: each is a destination of its own.
fn destinations(mesh: &Mesh, target: Ipv4Addr, count: u16) {
    for port in 20_000..20_000 + count {
        assert!(nobody(mesh, (target, port).into()), "port {port}");
    }
}

/// A service whose only endpoint is another one each time.
fn churn(mesh: &Mesh, changes: u32) {
    let addr = |n: u32| Ipv4Addr::from(0x0a58_0000 + n);
    for n in 0..changes {
        let manifest = format!(
            "apiVersion: mesh.internal/v1alpha1\nkind: Workload\n\
             metadata: {{name: churn-{n}, namespace: default, labels: {{app: churn}}}}\n\
             spec: {{addresses: [\"{}\"], serviceAccount: churn-{n}, meshed: true}}\n",
            addr(n)
        );
        mesh.manifests.write("workload-churn", &manifest);
    }
}

/// Has the addresses of [`churn`] lead to the outsider, where nobody listens.
fn lead(mesh: &Mesh) {
    let outsider = &mesh.get("outsider").host;
    let ip = |host: &Host, args: &str| {
        let status = host.command("ip").args(args.split(' ')).status();
        assert!(status.is_ok_and(|status| status.success()), "ip {args}");
    };
    ip(outsider, "route add local 10.88.0.0/16 dev lo");
    ip(&mesh.get("client").host, &format!("route add 10.88.0.0/16 via {}", outsider.v4));
}

/// Whether the answer is that nobody is there. A client that a busy machine keeps from speaking at once is reset: asked again.
fn nobody(mesh: &Mesh, addr: SocketAddr) -> bool {
    let ask =
        || raw::send(&mesh.get("client").host, addr, b"GET / HTTP/1.1\r\nhost: churn\r\nconnection: close\r\n\r\n");
    (0..5).find_map(|_| raw::status(&ask().ok()?)) == Some(503)
}

#[test]
fn r36_series_are_bounded_whatever_is_named_and_end_when_nobody_uses_them() {
    let (mut mesh, service) = mesh(IDLE);
    let churned = mesh.service("churn", 80, 8000).add();
    mesh.start();
    lead(&mesh);
    let proxy = mesh.get("client").proxy().expect("a sidecar");
    let process = Process(proxy.pid().expect("a sidecar that runs"));
    let bystander = Bystander::start(&mesh.get("client").host, service);
    let (before, idle, vitals) = (series(&mesh, "client"), process.anonymous(), Vitals::of(proxy));

    let requests = count(2_000, 100_000);
    for begin in (0..requests).step_by(AT_ONCE as usize) {
        let some = begin..begin + AT_ONCE;
        within(&mesh.get("client").host, distinct(service, some.clone()));
        within(&mesh.get("outsider").host, distinct(mesh.get("web").at(8000)[0], some));
    }
    for workload in ["client", "web"] {
        let page = mesh.get(workload).admin("GET", "/metrics").expect("a page").1;
        assert!(!page.contains("host-") && !page.contains("path-"), "a peer's name is a label of {workload}");
    }
    let (changes, mut tried) = (count(200, 10_000), 0);
    while tried < changes {
        churn(&mesh, 10);
        assert!(nobody(&mesh, churned.v4), "somebody is there");
        tried += 10;
    }
    // One target of HTTP has 40 series: this is more than there is room for.
    destinations(&mesh, mesh.get("outsider").host.v4, count(300, 10_000));
    let peak = series(&mesh, "client");
    assert!(peak > before && peak <= MOST, "{peak} series, {before} before");
    let (overflow, page) = ("target=\"overflow\"", mesh.get("client").admin("GET", "/metrics").expect("a page").1);
    assert!(page.contains(overflow), "nothing was counted as overflow");
    assert!(mesh.get("client").metric("mesh_series_overflow_total", &[]) > 0.0);
    let grown = process.anonymous().saturating_sub(idle);
    assert!(grown <= GROWTH, "{grown} KiB more");

    // What overflowed stays, one label set a kind; the rest is gone with its targets.
    until(SOON, || series(&mesh, "client") <= before + 100);
    let page = mesh.get("client").admin("GET", "/metrics").expect("a page").1;
    assert!(!page.contains(":20001\""), "an idle target is still there");
    let after = page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
    assert_eq!(
        Metrics::parse(&page).sum("mesh_series", &[]),
        f64::from(u32::try_from(after).expect("a few")) - ours(&page)
    );
    let beside = bystander.finish();
    vitals.finish(proxy, &[]);
    let figure = format!("{before} series, {peak} at most, {after} afterwards; {grown} KiB more; {beside}");
    record(36, "hosts, paths, ids, destinations, endpoints", Who::Mesh, true, &figure);
}

/// Series that are not the registry's: those that Prometheus names.
fn ours(page: &str) -> f64 {
    f64::from(u32::try_from(page.lines().filter(|line| line.starts_with("process_")).count()).expect("a few"))
}
