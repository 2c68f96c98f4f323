//! R60, F17 on the control plane: no descriptors left.

use std::process::Command;
use std::time::{Duration, Instant};

use mesh_tests::attacks::connections::hold;
use mesh_tests::client;
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Process, Vitals, count};

use crate::polite::Polite;
use crate::{LATE, Scene, Surface, note};

/// What the row names.
const FILES: u64 = 64;
const ATTACKERS: usize = 200;

/// Sets the soft limit; the hard one stays, so that the old one can come back.
fn limit(process: Process, files: u64) {
    let mut command = Command::new("prlimit");
    command.arg(format!("--pid={}", process.0)).arg(format!("--nofile={files}:"));
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// The part of a core that a process takes.
fn load(process: Process) -> f64 {
    let (begin, before) = (Instant::now(), process.cpu());
    std::thread::sleep(Duration::from_secs(count(2, 10)));
    (process.cpu() - before).as_secs_f64() / begin.elapsed().as_secs_f64()
}

fn refused(scene: &Scene, surface: Surface) -> f64 {
    scene.metric(surface, "connections_refused_total", &[("reason", "descriptors")])
}

/// Attackers take what connections may have; probes are answered all the same.
fn reserve_holds(scene: &Scene, surface: Surface) -> String {
    let (process, most, before) = (surface.process, surface.process.most_files(), refused(scene, surface));
    limit(process, FILES);
    let mut held = hold(&scene.attacker, surface.addr, ATTACKERS, b"");
    until(LATE, || held.look() > ATTACKERS / 2 && refused(scene, surface) - before >= (ATTACKERS / 2) as f64);
    let alive = scene.attacker.enter(|| client::request("GET", surface.admin, "/live"));
    assert_eq!(alive.ok().map(|(code, _)| code), Some(200), "{}: the admin port", surface.name);
    let load = load(process);
    assert!(load < 0.05, "{}: {load:.3} of a core without descriptors", surface.name);
    let counted = refused(scene, surface) - before;
    drop(held);
    limit(process, most);
    format!("{counted} of {ATTACKERS} refused, CPU {:.1} %", load * 100.0)
}

/// Not even the reserve is left.
fn nothing_left(scene: &Scene, surface: Surface) -> String {
    let (process, most) = (surface.process, surface.process.most_files());
    let errors = || scene.metric(surface, "accept_errors_total", &[]);
    let before = errors();
    limit(process, 8);
    let held = hold(&scene.attacker, surface.addr, 20, b"");
    let load = load(process);
    limit(process, most);
    drop(held);
    assert!(load < 0.05, "{}: {load:.3} of a core while nothing can be accepted", surface.name);
    until(LATE, || errors() > before);
    format!("CPU {:.1} %, {} accept errors", load * 100.0, errors() - before)
}

#[test]
fn r60_f17_without_descriptors_the_control_plane_stays_calm_and_comes_back() {
    let mut scene = Scene::start();
    for surface in scene.surfaces {
        let vitals = Vitals::of(scene.daemon(surface));
        // Who is polite is refused like others meanwhile, so that it begins and ends around each part.
        let reserve = reserve_holds(&scene, surface);
        let back = Polite::start(&scene.mesh, &scene.other).finish();
        note(60, surface.name, "descriptors kept", &format!("{reserve}; back: {back}"));
        let nothing = nothing_left(&scene, surface);
        let back = Polite::start(&scene.mesh, &scene.other).finish();
        note(60, surface.name, "EMFILE", &format!("{nothing}; back: {back}"));
        vitals.finish(scene.daemon(surface), &[]);
    }
}
