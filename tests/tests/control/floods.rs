//! R1 to R6 on the servers of the control plane, by a member.

use mesh_tests::attacks::floods::{self, Flood};
use mesh_tests::attacks::h2spec::{Answers, Target};
use mesh_tests::frames::{Frame, Read, flag, hpack};
use mesh_tests::netns::until;
use mesh_tests::yardstick::count;

use crate::{LATE, Scene, Surface, note};

/// KiB that all floods of a row may cost together.
const MOST: u64 = 8 << 10;

/// Connections that have been ended because of what their peer did.
fn abuses(scene: &Scene, surface: Surface) -> f64 {
    scene.metric(surface, "http2_abuse_total", &[])
}

/// Identity bears requests that are begun and reset one by one: to most of many it says no (R46).
fn must_end(flood: &Flood<'_>, surface: Surface) -> bool {
    flood.must_end && !(surface.name == "identity" && flood.name == "paced reset")
}

/// One flood: what has to end its connection does, and is counted once.
fn flooded(scene: &Scene, surface: Surface, target: &Target<'_>, flood: &Flood<'_>) {
    let before = abuses(scene, surface);
    let outcome = flood.run(target).unwrap_or_else(|error| panic!("{}, {}: {error}", flood.name, surface.name));
    let what = format!("{}, {}: {outcome:?}", flood.name, surface.name);
    assert!(outcome.resets <= flood.resets, "{what}: more than {} resets", flood.resets);
    if must_end(flood, surface) {
        assert!(outcome.closed.is_some(), "{what}: still open");
        until(LATE, || abuses(scene, surface) > before);
        assert_eq!(abuses(scene, surface), before + 1.0, "{what}: connections ended");
    }
    let figure = format!("{} after {} of {}, {} resets", outcome.end(), outcome.done, flood.rounds, outcome.resets);
    note(flood.row, surface.name, &flood.name, &figure);
}

/// The floods of a row on each surface, beside a polite client.
fn attacked(row: u8, all: impl for<'a> Fn(&'a Target<'a>) -> Vec<Flood<'a>>) {
    let mut scene = Scene::start();
    for surface in scene.surfaces {
        let ((), grown, polite) = scene.beside(surface, |scene| {
            let member = &scene.member;
            let fields = [("content-type", "application/grpc"), ("te", "trailers")];
            let target = Target {
                dial: Box::new(move || member.dial_in("mesh-system", surface.addr, surface.name)),
                fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
                answers: Answers::Anything,
            };
            for flood in all(&target) {
                flooded(scene, surface, &target, &flood);
            }
        });
        assert!(grown <= MOST, "R{row}, {}: {grown} KiB", surface.name);
        note(row, surface.name, "all", &format!("{grown} KiB; {polite}"));
    }
}

#[test]
fn r01_a_rapid_reset_ends_its_connection() {
    attacked(1, floods::resets);
}

#[test]
fn r02_made_resets_end_their_connection() {
    attacked(2, |target| floods::made_resets(target, count(3_000, 100_000), 1024));
}

#[test]
fn r03_a_head_without_end_ends_its_connection() {
    attacked(3, |target| vec![floods::continuation(target)]);
}

#[test]
fn r04_heads_that_unfold_cost_little() {
    attacked(4, floods::bombs);
}

#[test]
fn r05_control_frames_of_a_deaf_peer_cost_little() {
    attacked(5, |_| floods::control());
}

/// In the message of a call that the server waits for.
#[test]
fn r06_a_message_of_empty_frames_ends_its_connection() {
    let mut scene = Scene::start();
    for surface in scene.surfaces {
        let (sent, grown, polite) = scene.beside(surface, |scene| {
            let (before, mut peer, mut sent) = (abuses(scene, surface), scene.dial(surface, &[]), 0);
            peer.send(&Frame::headers(1, flag::END_HEADERS, &hpack::literal(&surface.fields())));
            let pieces = Frame::data(1, 0, *b"").bytes().repeat(1000);
            while sent < count(50_000, 1_000_000) && peer.write(&pieces) {
                sent += 1000;
            }
            let end = peer.until(|_| false);
            assert!(matches!(end, Read::Closed(_)), "{}: {end:?}", surface.name);
            until(LATE, || abuses(scene, surface) > before);
            assert_eq!(abuses(scene, surface), before + 1.0, "{}: connections ended", surface.name);
            sent
        });
        assert!(grown <= MOST, "{}: {grown} KiB", surface.name);
        note(6, surface.name, "empty DATA", &format!("ended after {sent} at most, {grown} KiB; {polite}"));
    }
}
