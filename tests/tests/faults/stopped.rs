//! Programs that are suspended (SIGSTOP) and go on later: the kernel still takes connections for them, and nothing answers.
//!
//! Invariant: others serve meanwhile, nothing is lost when it goes on, and nobody storms it: one attempt at a time, a pause
//! between two.
//! Non-goal: programs that end; `lifecycle` has those.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use mesh_tests::client::load::Load;
use mesh_tests::mesh::{Daemon, INBOUND_PORT, Mesh};
use mesh_tests::netns::{Attempts, until};
use mesh_tests::yardstick::{Who, count, record};
use nix::sys::signal::Signal;

use super::{HTTP, PAUSE, SOON, answers, endpoint, is_failing, unharmed};

/// How long; a sidecar of somebody else is given up first.
fn stop() -> Duration {
    Duration::from_secs(count(8, 60))
}

fn mesh() -> (Mesh, SocketAddr) {
    let mut mesh = Mesh::new();
    mesh.workload("client").service_account("client").add();
    for name in ["web-1", "web-2"] {
        endpoint(&mut mesh, name, "web", true);
    }
    let addr = mesh.service("web", 80, HTTP).add().v4;
    mesh.start();
    (mesh, addr)
}

/// A load whose clients wait for longer than anything is stopped.
fn load(mesh: &Mesh, addr: SocketAddr) -> Load {
    Load::patient(&mesh.get("client").host, addr, 8, PAUSE, stop() + SOON)
}

/// Requests that a sidecar took for its app.
fn inbound(mesh: &Mesh, name: &str) -> f64 {
    mesh.get(name).metric("mesh_http_requests_total", &[("direction", "inbound")])
}

#[test]
fn f29_a_sidecar_that_is_suspended_is_left_and_taken_back() {
    let (mut mesh, addr) = mesh();
    let load = load(&mesh, addr);
    answers(&load, 300);
    let attempts = Attempts::count(&mesh.get("web-1").host, INBOUND_PORT);
    let begun = Instant::now();
    mesh.get_mut("web-1").proxy_mut().signal(Signal::SIGSTOP);
    until(SOON, || is_failing(&mesh, "client", addr, "web-1"));
    answers(&load, 300);
    thread::sleep(stop());
    // An attempt takes 3 s (MESH_TUNNEL_TIMEOUT) and is followed by a pause.
    let (tried, most) = (attempts.so_far(), 4 + begun.elapsed().as_secs() / 3);
    mesh.get_mut("web-1").proxy_mut().signal(Signal::SIGCONT);
    until(SOON, || !is_failing(&mesh, "client", addr, "web-1"));
    let before = inbound(&mesh, "web-1");
    until(SOON, || inbound(&mesh, "web-1") > before);
    let after = attempts.so_far() - tried;
    let report = unharmed(load);
    println!("{tried} attempts in {:?}, {after} after it went on", stop());
    assert!((1..=most).contains(&tried), "{tried} attempts to reach who is suspended, of {most} that are due");
    assert!(after <= 4, "{after} connections when it went on");
    let figure = format!("0 of {} failed, {tried} attempts in {:?}", report.answered, stop());
    record(57, "F29, a sidecar suspended", Who::Mesh, true, &figure);
}

#[test]
fn f29_an_app_that_is_suspended_answers_later_and_others_serve() {
    let (mut mesh, addr) = mesh();
    let load = load(&mesh, addr);
    answers(&load, 300);
    mesh.get_mut("web-1").app_mut(0).signal(Signal::SIGSTOP);
    thread::sleep(stop() / 2);
    answers(&load, 300);
    mesh.get_mut("web-1").app_mut(0).signal(Signal::SIGCONT);
    answers(&load, 300);
    unharmed(load);
}

#[test]
fn f29_the_clients_own_sidecar_that_is_suspended_goes_on_where_it_was() {
    let (mut mesh, addr) = mesh();
    let load = load(&mesh, addr);
    answers(&load, 300);
    let attempts = ["web-1", "web-2"].map(|name| Attempts::count(&mesh.get(name).host, INBOUND_PORT));
    mesh.get_mut("client").proxy_mut().signal(Signal::SIGSTOP);
    thread::sleep(stop());
    mesh.get_mut("client").proxy_mut().signal(Signal::SIGCONT);
    answers(&load, 500);
    unharmed(load);
    let tried: u64 = attempts.iter().map(Attempts::so_far).sum();
    assert!(tried <= 4, "{tried} new tunnels after a pause");
}

#[test]
fn f29_a_control_plane_that_is_suspended_is_not_stormed_and_goes_on() {
    let (mut mesh, addr) = mesh();
    let load = load(&mesh, addr);
    answers(&load, 300);
    let host = mesh.control().host().clone();
    let ports = [mesh.control().identity_addr().port(), mesh.control().destination_addr().port()];
    let attempts = ports.map(|port| Attempts::count(&host, port));
    let both = |mesh: &mut Mesh, signal| {
        let signalled: [fn(&mut Mesh) -> &mut Daemon; 2] =
            [|mesh| mesh.control_mut().identity(), |mesh| mesh.control_mut().destination()];
        signalled.iter().for_each(|daemon| daemon(mesh).signal(signal));
    };
    let begun = Instant::now();
    both(&mut mesh, Signal::SIGSTOP);
    // Something to be said meanwhile.
    mesh.withdraw("web-2");
    answers(&load, 300);
    thread::sleep(stop());
    both(&mut mesh, Signal::SIGCONT);
    let known = |mesh: &Mesh| super::endpoints(mesh, "client", addr).len();
    until(SOON, || known(&mesh) == 1);
    answers(&load, 300);
    let report = unharmed(load);
    // Three sidecars, two services; an attempt may take 5 s or more, and is followed by a pause.
    let (tried, most) = (attempts.iter().map(Attempts::so_far).sum::<u64>(), 6 * (1 + begun.elapsed().as_secs() / 5));
    println!("{tried} attempts in {:?}", stop());
    assert!(tried <= most, "{tried} attempts, of {most} that are due");
    let figure = format!("0 of {} failed, {tried} attempts of 3 sidecars in {:?}", report.answered, stop());
    record(52, "F29, the control plane suspended", Who::Mesh, true, &figure);
}
