//! R60, F17: no descriptors left.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use mesh_tests::attacks::connections::hold;
use mesh_tests::client;
use mesh_tests::mesh::{ADMIN_PORT, PROXY_UID};
use mesh_tests::netns::{Host, until};
use mesh_tests::yardstick::{Front, Mesh, Process, count, record};

use crate::{LATE, demo, recovery, refused, soon};

/// What the row names.
const FILES: u64 = 64;
const ATTACKERS: usize = 200;

/// Sets the soft limit; the hard one stays, so that the old one can come back.
fn limit(process: Process, files: u64) {
    // As its own user, who needs no privilege for that.
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={PROXY_UID}"), format!("--regid={PROXY_UID}")]);
    command.args(["--clear-groups", "prlimit"]);
    command.arg(format!("--pid={}", process.0)).arg(format!("--nofile={files}:"));
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// The part of a core that a process takes while nothing happens but what was begun.
fn calm(process: Process) -> f64 {
    let (begin, before) = (Instant::now(), process.cpu());
    std::thread::sleep(Duration::from_secs(count(2, 10)));
    (process.cpu() - before).as_secs_f64() / begin.elapsed().as_secs_f64()
}

/// Whether the admin port answers a probe from another host.
fn lives(from: &Host, of: &Host) -> bool {
    let admin = SocketAddr::new(of.v4.into(), ADMIN_PORT);
    from.enter(|| client::request("GET", admin, "/live").is_ok_and(|(code, _)| code == 200))
}

/// Attackers take all that connections may have; what the proxy keeps for itself is enough for probes and the control plane.
fn reserve_holds(mesh: &Mesh, front: &Front) {
    let (process, most) = (front.proxy, front.proxy.most_files());
    let proxied = if front.way == "inbound" { "web" } else { "client" };
    let (of, threads) = (&mesh.mesh.get(proxied).host, process.threads());
    let files = process.files();
    let before = refused(mesh, front, "descriptors");
    limit(process, FILES);
    let mut held = hold(&front.client, front.addr, ATTACKERS, b"");
    // All have been accepted when each has been refused or has its place.
    let counted = || refused(mesh, front, "descriptors") - before;
    until(LATE, || held.look() > ATTACKERS / 2 && counted() == f64::from(u32::try_from(held.refused).unwrap_or(0)));
    let refusals = held.refused;
    let load = calm(process);
    assert!(load < 0.05, "{}: {load:.3} of a core without descriptors", front.way);
    assert!(lives(&front.client, of), "{}: the admin port has no descriptors", front.way);
    let connected = mesh.metric(front, "mesh_discovery_connected", &[]);
    assert!(connected > 0.0, "{}: discovery is gone", front.way);
    drop(held);
    let took = recovery(&front.client, front.addr);
    assert!(took < soon(), "{}: {took:?} to recover", front.way);
    limit(process, most);
    until(Duration::from_secs(60), || process.files() <= files + 5);
    assert!(process.threads() <= threads, "{}: more threads", front.way);
    let figure = format!("{refusals} of {ATTACKERS} refused, CPU {:.1} %, back after {took:.0?}", load * 100.0);
    record(60, &format!("descriptors kept, {}", front.way), front.who, true, &figure);
    println!("{}: {figure}", front.way);
}

/// Not even the reserve is left: accept fails, which must not spin, and ends as soon as there are descriptors again.
fn nothing_left(mesh: &Mesh, front: &Front) {
    let (process, most) = (front.proxy, front.proxy.most_files());
    let errors = || mesh.metric(front, "mesh_accept_errors_total", &[]);
    let before = errors();
    limit(process, 8);
    let held = hold(&front.client, front.addr, 20, b"");
    let load = calm(process);
    limit(process, most);
    let took = recovery(&front.client, front.addr);
    assert!(load < 0.05, "{}: {load:.3} of a core while nothing can be accepted", front.way);
    assert!(took < soon(), "{}: {took:?} to recover", front.way);
    assert!(errors() > before, "{}: no accept error is counted", front.way);
    drop(held);
    let figure = format!("CPU {:.1} %, {} accept errors, back after {took:.0?}", load * 100.0, errors() - before);
    record(60, &format!("EMFILE, {}", front.way), front.who, true, &figure);
    println!("{}: {figure}", front.way);
}

#[test]
fn r60_f17_without_descriptors_the_proxy_stays_calm_and_comes_back() {
    let mesh = Mesh::start_with(|name, spec| if name == "web" { spec.app(demo()) } else { spec }, |_| {});
    for front in &mesh.fronts {
        reserve_holds(&mesh, front);
        nothing_left(&mesh, front);
    }
}
