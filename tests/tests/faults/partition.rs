//! Hosts that cannot hear each other for a while, and networks that lose packets.
//!
//! Invariant: what was known is kept and served; after the heal all converge in time. Loss costs time, not requests.
//! Non-goal: a back end that is gone; `blackhole` has it.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use mesh_tests::client::http::{Version, fetch};
use mesh_tests::client::load::Load;
use mesh_tests::client::within;
use mesh_tests::mesh::Mesh;
use mesh_tests::netns::{Filter, Reorder};
use mesh_tests::yardstick::{Who, count, record};

use super::{HTTP, PAUSE, SOON, answers, endpoint, endpoints, longest, takes, unharmed};

/// From the heal until everybody knows what is true.
const CONVERGED: Duration = Duration::from_secs(10);

fn mesh(names: &[&str]) -> (Mesh, SocketAddr) {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    for name in names {
        endpoint(&mut mesh, name, "web", true);
    }
    let addr = mesh.service("web", 80, HTTP).add().v4;
    mesh.start();
    (mesh, addr)
}

/// The control plane and the client are cut off in a way, and what is true changes meanwhile. `is_told`: updates get through.
fn cut_off_from_control(case: &str, is_told: bool, cut: impl Fn(&Mesh) -> Vec<Filter>) {
    let (mesh, addr) = mesh(&["web-1", "web-2"]);
    let load = Load::start(&mesh.get("client").host, addr, 8, PAUSE);
    answers(&load, 300);
    let known = || endpoints(&mesh, "client", addr).len();
    assert_eq!(known(), 2);
    for round in 0..2 {
        let filters = cut(&mesh);
        if round == 0 {
            mesh.withdraw("web-2")
        } else {
            mesh.publish("web-2")
        }
        thread::sleep(Duration::from_secs(count(6, 60)));
        answers(&load, 100);
        assert!(is_told || known() == 2 - round, "{case}: what was known is kept");
        drop(filters);
        let took = takes(CONVERGED, || known() == 1 + round);
        println!("{case}: converged {took:?} after the heal");
        record(62, &format!("F22, {case}"), Who::Mesh, true, &format!("converged in {took:.1?}"));
    }
    answers(&load, 300);
    unharmed(load);
}

/// All ways at once, for most of it is waiting.
#[test]
fn f22_partitions_between_a_sidecar_and_the_control_plane_heal() {
    let both = |mesh: &Mesh| Filter::apart(mesh.control().host(), &mesh.get("client").host).into();
    let towards = |mesh: &Mesh| vec![Filter::deaf(mesh.control().host(), &mesh.get("client").host)];
    let from = |mesh: &Mesh| vec![Filter::deaf(&mesh.get("client").host, mesh.control().host())];
    thread::scope(|scope| {
        scope.spawn(|| cut_off_from_control("partition both ways", false, both));
        scope.spawn(|| cut_off_from_control("partition towards the control plane", true, towards));
        scope.spawn(|| cut_off_from_control("partition towards the sidecar", false, from));
    });
}

fn lossy(percent: u8) {
    let (mesh, addr) = mesh(&["web-1", "web-2"]);
    let load = Load::patient(&mesh.get("client").host, addr, 16, PAUSE, 2 * SOON);
    answers(&load, 200);
    let filters = ["client", "web-1", "web-2"].map(|name| Filter::lose(&mesh.get(name).host, percent));
    answers(&load, count(1000, 20_000));
    drop(filters);
    answers(&load, 200);
    let report = load.stop();
    let longest = longest(&report);
    println!("{percent} %: {} answered, {} failed, the longest took {longest:?}", report.answered, report.failed);
    let figure = format!("{} of {} failed, longest {longest:.1?}", report.failed, report.answered + report.failed);
    assert!(report.failed == 0, "{percent} %: {:#?}", report.failures);
    record(62, &format!("F21, {percent} % loss both ways"), Who::Mesh, true, &figure);
}

#[test]
fn f21_requests_survive_the_loss_of_1_percent() {
    lossy(1);
}

#[test]
fn f21_requests_survive_the_loss_of_5_percent() {
    lossy(5);
}

#[test]
fn f21_requests_survive_packets_out_of_order() {
    let (mesh, addr) = mesh(&["web-1", "web-2"]);
    let hosts = ["client", "web-1", "web-2"].map(|name| &mesh.get(name).host);
    let put_in_order = || hosts.map(Reorder::put_in_order).iter().sum::<u64>();
    let load = Load::patient(hosts[0], addr, 16, PAUSE, 2 * SOON);
    answers(&load, 200);
    let before = put_in_order();
    let disorder = hosts.map(Reorder::of);
    answers(&load, count(1000, 20_000));
    // Answers of many packets, which come out of order within themselves.
    let large = get_large(&mesh, addr, count(20, 500));
    drop(disorder);
    let disordered = put_in_order() - before;
    answers(&load, 200);
    let report = unharmed(load);
    assert!(disordered > 100, "{disordered} packets came out of order");
    let (answered, longest) = (report.answered, longest(&report));
    let figure =
        format!("0 of {answered} failed, {large} MiB whole, {disordered} packets put in order, longest {longest:.1?}");
    record(62, "F21, packets out of order both ways", Who::Mesh, true, &figure);
}

/// MiB that were fetched whole, one by one.
fn get_large(mesh: &Mesh, addr: SocketAddr, times: usize) -> usize {
    for _ in 0..times {
        let answer = within(&mesh.get("client").host, fetch(addr, Version::H1, "/bytes?n=1048576"));
        let answer = answer.unwrap_or_else(|error| panic!("1 MiB out of order: {error}"));
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 1 << 20));
    }
    times
}

/// Beyond the promise: most succeed, and nobody is given up for good.
#[test]
fn f21_the_loss_of_30_percent_passes() {
    let (mesh, addr) = mesh(&["web-1", "web-2"]);
    let load = Load::patient(&mesh.get("client").host, addr, 16, PAUSE, 2 * SOON);
    answers(&load, 200);
    let before = load.answered();
    let filters = ["client", "web-1", "web-2"].map(|name| Filter::lose(&mesh.get(name).host, 30));
    thread::sleep(Duration::from_secs(count(10, 120)));
    let during = load.answered() - before;
    drop(filters);
    answers(&load, 300);
    let report = load.stop();
    println!("30 %: {during} answered during the loss, {} failed: {:#?}", report.failed, report.failures);
    assert!(during > 0, "nothing passed");
    let figure = format!("{during} answered meanwhile, {} failed", report.failed);
    record(62, "F21, 30 % loss both ways", Who::Mesh, true, &figure);
}
