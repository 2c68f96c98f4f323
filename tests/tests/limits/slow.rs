//! R20: clients that take their time.

use std::net::SocketAddr;

use mesh_tests::attacks::slow::{
    BODY, Ends, HEAD, HELLO, PREFACE, Phase, READ, SILENCE, allowed, attack, clients, drip, pace, patience,
};
use mesh_tests::mesh::{ADMIN_PORT, INBOUND_PORT};
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Bystander, Front, Mesh, Process, Source, count, record};

use crate::{APP, LATE, alone};

/// A port of the app that is declared to speak HTTP/2.
const DECLARED: u16 = 8001;

fn mesh() -> Mesh {
    // The app has time to accept them all.
    const PATIENT: (&str, &str) = ("MESH_INBOUND_CONNECT_TIMEOUT", "60s");
    let variables: &[(&str, &str)] = count(
        &[PATIENT, ("MESH_HTTP_HEAD_TIMEOUT", "2s"), ("MESH_HTTP_STALL_TIMEOUT", "2s")][..],
        &[PATIENT, ("MESH_HTTP_STALL_TIMEOUT", "10s"), ("MESH_MAX_CONNECTIONS", "30000")][..],
    );
    Mesh::start_with(
        |name, spec| {
            let spec = variables.iter().fold(spec, |spec, (name, value)| spec.env(name, value));
            if name == "web" { spec.port(DECLARED, "http2") } else { spec }
        },
        |_| {},
    )
}

/// All are ended, counted one by one, and cost little. What is wrong with that, if each has cost more than it may.
fn cut(mesh: &Mesh, front: &Front, addr: SocketAddr, phase: Phase, counter: (&str, &[(&str, &str)])) -> Option<String> {
    let counted = || mesh.metric(front, counter.0, counter.1);
    let before = counted();
    let case = format!("{}, {}", phase.name, front.way);
    let (ends, each) = attack(front, addr, phase);
    let Ends { connected, ended, first, last, told, .. } = ends;
    assert_eq!(
        (connected, ended),
        (clients(phase), clients(phase)),
        "{case}, counted {}: connected, ended after {last:?}; {told}",
        counted() - before
    );
    let wanted = before + f64::from(u32::try_from(ended).unwrap_or(0));
    until(LATE, || counted() >= wanted);
    assert_eq!(counted(), wanted, "{case}: counted in {counter:?}");
    println!(
        "{case}: {ended} of {connected} ended, first after {first:.0?}, last after {last:.0?}, {each} KiB each; {told}"
    );
    let figure =
        format!("{ended} of {connected} ended, first after {first:.0?}, last after {last:.0?}, {each} KiB each");
    let held = each <= allowed(phase);
    record(20, &case, front.who, held, &figure);
    (!held).then(|| format!("{case}: {each} KiB each"))
}

const TOO_SLOW: (&str, &[(&str, &str)]) = ("mesh_errors_total", &[("reason", "too_slow")]);

#[test]
fn r20_slow_clients_are_ended_in_each_phase_and_counted() {
    let _alone = alone();
    let mesh = mesh();
    let _app = Source::start(&mesh.mesh.get("web").host, APP);
    let mut faults = Vec::new();
    for front in &mesh.fronts {
        let (files, threads) = (front.proxy.files(), front.proxy.threads());
        let bystander = Bystander::start(&front.client, front.addr);
        for phase in [HEAD, BODY, READ] {
            faults.extend(cut(&mesh, front, front.addr, phase, TOO_SLOW));
        }
        if front.way == "inbound" {
            faults.extend(cut(&mesh, front, (front.back.v4, DECLARED).into(), PREFACE, TOO_SLOW));
            let tunnel = (front.back.v4, INBOUND_PORT).into();
            let late = ("mesh_tls_handshakes_total", &[("result", "timeout")][..]);
            faults.extend(cut(&mesh, front, tunnel, HELLO, late));
            let silent = ("mesh_connections_refused_total", &[("reason", "too_slow")][..]);
            faults.extend(cut(&mesh, front, tunnel, SILENCE, silent));
        }
        let polite = bystander.finish();
        println!("{}: {polite}", front.way);
        record(20, &format!("bystander, {}", front.way), front.who, true, &format!("beside all phases; {polite}"));
        until(2 * LATE, || front.proxy.files() <= files + 5);
        assert!(front.proxy.threads() <= threads, "{}: more threads", front.way);
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The programs of the control plane, and admin ports: slow clients go, and do not keep others out.
#[test]
fn r20_slow_clients_keep_nobody_from_the_control_plane_and_from_admin_ports() {
    let _alone = alone();
    let mut mesh = mesh();
    let [front, _] = mesh.fronts.clone();
    let control = mesh.mesh.control();
    let (identity, destination) = (control.identity_addr(), control.destination_addr());
    let admin: SocketAddr = (front.back.v4, ADMIN_PORT).into();
    let pids = [mesh.mesh.control_mut().identity().pid(), mesh.mesh.control_mut().destination().pid()];
    let [identity_process, destination_process] = pids.map(|pid| Process(pid.expect("it runs")));
    let surfaces = [
        (identity, HELLO, identity_process, "identity"),
        (destination, HELLO, destination_process, "destination"),
        (admin, HEAD, front.proxy, "admin"),
    ];
    std::thread::scope(|scope| {
        for (addr, phase, process, name) in surfaces {
            let client = &front.client;
            scope.spawn(move || {
                let (idle, files) = (process.anonymous(), process.files());
                let (mut most, clients) = (0, clients(phase));
                let ends = drip(client, addr, (phase, clients), (pace(), LATE + patience(clients)), || {
                    most = most.max(process.anonymous());
                    false
                });
                assert_eq!((ends.connected, ends.ended), (clients, clients), "{name}: connected, ended: {ends:?}");
                let each = most.saturating_sub(idle) / clients as u64;
                assert!(each <= allowed(phase), "{name}: {each} KiB each");
                until(2 * LATE, || process.files() <= files + 5);
                let figure = format!(
                    "{} ended, first after {:.0?}, last after {:.0?}, {each} KiB each",
                    ends.ended, ends.first, ends.last
                );
                println!("{name}: {figure}");
                record(20, &format!("{}, {name}", phase.name), mesh_tests::yardstick::Who::Mesh, true, &figure);
            });
        }
        // Meanwhile somebody new gets a certificate, and learns of destinations.
        mesh.mesh.workload("late").of("late").add();
        assert_eq!(mesh.mesh.get("late").admin("GET", "/ready").ok().map(|(code, _)| code), Some(200));
    });
}
