//! The steps in which something breaks or changes under load, and the memory that all this took.
//!
//! Invariant: a load of real requests runs while it happens, and none of them may fail.
//! Non-goal: requests that change something; a GET that a dying server took with it may be sent again.

use std::time::{Duration, Instant};

use mesh_tests::client::load::{Load, Report};
use mesh_tests::client::{self, http};
use mesh_tests::mesh::{Pending, Rotation};

use crate::scene::{Held, Scene, wait};

const PAUSE: Duration = Duration::from_millis(1);
/// Between two looks at the certificates.
const LOOK: Duration = Duration::from_millis(100);
const SETTLE: Duration = Duration::from_secs(10);

fn load(scene: &Scene) -> Load {
    Load::start(&scene.mesh.get("client").host, scene.web.v4, 8, PAUSE)
}

/// Lets the load go on for this many more answers.
fn go_on(load: &Load, answers: u64) -> Held {
    let from = load.answered();
    wait(SETTLE, "the load goes on", || load.answered() >= from + answers)
}

fn since(begin: Instant) -> String {
    format!("{:.2} s", begin.elapsed().as_secs_f64())
}

fn none_failed(report: &Report) -> Held {
    println!("   {} requests meanwhile, {} failed", report.answered, report.failed);
    match report.failed {
        0 => Ok(()),
        _ => Err(report.failures.join("\n      ")),
    }
}

pub(crate) fn rollout(scene: &mut Scene) -> Held {
    let load = load(scene);
    go_on(&load, 500)?;
    scene.mesh.get_mut("web-1").kill();
    println!("   web-1 killed with its sidecar (SIGKILL, nobody told)");
    go_on(&load, 1000)?;
    let begin = Instant::now();
    scene.add_replica("web-4");
    let knows = |scene: &Scene, name: &str| {
        let endpoint = scene.mesh.get(name).at(8080)[0].to_string();
        scene.mesh.get("client").state().to_string().contains(&endpoint)
    };
    wait(SETTLE, "the client's sidecar knows web-4", || knows(scene, "web-4"))?;
    println!("   web-4 started, its manifest written: known to the client's sidecar after {}", since(begin));
    go_on(&load, 1000)?;
    let begin = Instant::now();
    scene.mesh.withdraw("web-1");
    wait(SETTLE, "the client's sidecar forgets web-1", || !knows(scene, "web-1"))?;
    println!("   web-1's manifest removed: forgotten after {}", since(begin));
    go_on(&load, 1000)?;
    let report = load.stop();
    let elsewhere = scene.mesh.get("client").metric("mesh_retries_total", &[]);
    println!("   {elsewhere:.0} requests were sent elsewhere by the client's sidecar");
    for name in ["web-1", "web-2", "web-3", "web-4"] {
        println!("   {name}: {:5.1} %", report.share(name));
    }
    none_failed(&report)?;
    if report.share("web-4") < 5.0 {
        return Err("the new replica got next to nothing".to_owned());
    }
    Ok(())
}

pub(crate) fn headless(scene: &mut Scene) -> Held {
    let load = load(scene);
    go_on(&load, 500)?;
    scene.mesh.control_mut().kill();
    println!("   identity and destination killed");
    go_on(&load, 2000)?;
    // A service that nobody has asked for since, over a new connection.
    let addr = scene.legacy.v4;
    let answer = client::within(&scene.mesh.get("client").host, http::fetch(addr, http::Version::H1, "/"));
    answer.map_err(|error| format!("a known service on a new connection: {error}"))?;
    let begin = Instant::now();
    scene.mesh.control_mut().restart();
    let connected = |scene: &Scene| scene.mesh.get("client").metric("mesh_discovery_connected", &[]) > 0.5;
    wait(SETTLE * 2, "the client's sidecar is connected again", || connected(scene))?;
    println!("   both started again; the client's sidecar is back after {}", since(begin));
    go_on(&load, 500)?;
    none_failed(&load.stop())
}

pub(crate) fn rotated(scene: &mut Scene) -> Held {
    let load = load(scene);
    let Scene { mesh, onlooker, .. } = scene;
    let rotation = Rotation::begin(&mesh.control().issuer_dir());
    let mut pending = Pending::of(mesh);
    let meshed = pending.count();
    let begin = Instant::now();
    rotation.trust_both();
    wait(SETTLE, "every sidecar has both anchors", || pending.have_new_anchors(mesh))?;
    println!("   old and new root trusted by {meshed} sidecars after {}", since(begin));
    let begin = Instant::now();
    let mut pending = Pending::of(mesh);
    rotation.issue_from_next();
    let issuer = rotation.next_issuer();
    wait(SETTLE * 2, "every sidecar has a certificate of the new issuer", || {
        let have = pending.have_issuer(mesh, onlooker, &issuer);
        if !have {
            std::thread::sleep(LOOK);
        }
        have
    })?;
    println!("   each presents a certificate of the new issuer after {}", since(begin));
    let begin = Instant::now();
    let mut pending = Pending::of(mesh);
    rotation.trust_next_only();
    wait(SETTLE, "every sidecar has only the new anchor", || pending.have_new_anchors(mesh))?;
    println!("   old root gone everywhere after {}", since(begin));
    go_on(&load, 500)?;
    none_failed(&load.stop())
}

/// Workloads whose sidecar runs.
fn alive(scene: &Scene) -> impl Iterator<Item = String> {
    let running = scene.mesh.workloads().filter(|workload| workload.proxy().is_some_and(|proxy| proxy.pid().is_some()));
    running.map(|workload| workload.name.clone())
}

pub(crate) fn memory(scene: &mut Scene) -> Held {
    let names: Vec<String> = alive(scene).collect();
    println!("               VmRSS   RssAnon");
    for name in &names {
        let memory = scene.mesh.get(name).proxy().and_then(|proxy| proxy.memory());
        let memory = memory.ok_or_else(|| format!("{name}: its sidecar has ended"))?;
        println!("   {name:<8} {:>6} KiB {:>6} KiB", memory.rss, memory.anonymous);
    }
    Ok(())
}
