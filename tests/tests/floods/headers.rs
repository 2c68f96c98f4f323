//! R3 and R4: heads without end, and heads that are larger than they look.

use std::sync::Arc;
use std::time::Duration;

use mesh_tests::attacks::floods::{STREAMS, bombs, continuation, crowd};
use mesh_tests::netns::until;
use mesh_tests::yardstick::{Group, beside, count};

use crate::{LATE, Scene, Surface, flooded, note};

fn continued(surface: &Surface<'_>) {
    let before = surface.abuses();
    let flood = continuation(&surface.target);
    let seen = flooded(surface, &flood);
    until(LATE, || surface.abuses() > before);
    assert_eq!(surface.abuses(), before + 1.0, "CONTINUATION, {}: connections ended", surface.name);
    note(3, surface, &flood.name, &flood.figure(&seen, &format!(", {:.0?} of CPU", seen.cpu)));
}

#[test]
fn r3_a_head_without_end_ends_its_connection() {
    let scene = Scene::start(&[]);
    for surface in scene.surfaces() {
        continued(&surface);
    }
}

#[test]
fn r4_heads_that_unfold_cost_little() {
    let scene = Scene::start(&[]);
    for surface in scene.surfaces() {
        for mut flood in bombs(&surface.target) {
            // A proxy that gets no processor for a while finds all of them at once.
            flood.memory *= count(2, 1);
            if surface.is_tunnel {
                // A member's heads of 60 KiB are within the limits: a hundred are on their way to the application at once, each on
                // a connection of its own.
                flood.memory += flood.memory / 2;
            }
            let seen = flooded(&surface, &flood);
            note(4, &surface, &flood.name, &flood.figure(&seen, ""));
        }
    }
}

const LIMIT: u64 = 128 << 20;

#[test]
fn r4_a_hundred_such_peers_do_not_use_up_a_small_control_group() {
    let group = Arc::new(Group::new(LIMIT));
    let scene = Scene::start_in(&group);
    let [surface, ..] = scene.surfaces();
    let peers = count(50, 100);
    let metric = |name, reason| scene.mesh.metric(surface.front, name, &[("reason", reason)]) as u64;
    let seen = beside(surface.front, || {
        let peers = crowd(&surface.target, peers);
        // As long as they are there, and the polite one beside them.
        std::thread::sleep(Duration::from_secs(count(1, 60)));
        peers.len()
    });
    let (shed, refused) = (metric("mesh_errors_total", "overload"), metric("mesh_connections_refused_total", "memory"));
    let held = seen.result;
    assert_eq!(seen.fault(), None, "{seen:#?}");
    assert!(shed + refused > 0 || held == peers, "{held} peers have begun, and no refusal is counted");
    assert_eq!(group.kills(), 0, "killed for want of memory");
    let figure = format!(
        "{held} of {peers} peers with {STREAMS} streams each, {shed} requests shed, {refused} connections refused; grew by {} KiB, peak {} of {} MiB, 0 kills; {}",
        seen.grown,
        group.peak() >> 20,
        LIMIT >> 20,
        seen.polite
    );
    note(4, &surface, "100 connections", &figure);
}
