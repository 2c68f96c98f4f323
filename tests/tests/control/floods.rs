//! R1 to R6 on identity's HTTP/2, by a member.

use mesh_tests::attacks::floods::{self, Flood};
use mesh_tests::attacks::h2spec::{Answers, Target};
use mesh_tests::frames::{Frame, Read, flag, hpack};
use mesh_tests::netns::until;
use mesh_tests::yardstick::count;

use crate::{FIELDS, LATE, Scene, note};

const IDENTITY: &str = "identity";

/// KiB that all floods of a row may cost together.
const MOST: u64 = 8 << 10;

/// Connections that have been ended because of what their peer did.
fn abuses(scene: &Scene) -> f64 {
    scene.metric(scene.identity(), "http2_abuse_total", &[])
}

/// Identity bears requests that are begun and reset one by one: to most of many it says no (R46).
fn must_end(flood: &Flood<'_>) -> bool {
    flood.must_end && flood.name != "paced reset"
}

/// One flood: what has to end its connection does, and is counted once.
fn flooded(scene: &Scene, target: &Target<'_>, flood: &Flood<'_>) {
    let before = abuses(scene);
    let outcome = flood.run(target).unwrap_or_else(|error| panic!("{}: {error}", flood.name));
    let what = format!("{}: {outcome:?}", flood.name);
    assert!(outcome.resets <= flood.resets, "{what}: more than {} resets", flood.resets);
    if must_end(flood) {
        assert!(outcome.closed.is_some(), "{what}: still open");
        until(LATE, || abuses(scene) > before);
        assert_eq!(abuses(scene), before + 1.0, "{what}: connections ended");
    }
    let figure = format!("{} after {} of {}, {} resets", outcome.end(), outcome.done, flood.rounds, outcome.resets);
    note(flood.row, IDENTITY, &flood.name, &figure);
}

/// The floods of a row, beside a polite client.
fn attacked(row: u8, all: impl for<'a> Fn(&'a Target<'a>) -> Vec<Flood<'a>>) {
    let mut scene = Scene::start();
    let ((), grown, polite) = scene.beside(scene.identity(), |scene| {
        let fields = [("content-type", "application/grpc"), ("te", "trailers")];
        let target = Target {
            dial: Box::new(move || scene.connect(scene.identity())),
            fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            answers: Answers::Anything,
        };
        for flood in all(&target) {
            flooded(scene, &target, &flood);
        }
    });
    assert!(grown <= MOST, "R{row}: {grown} KiB");
    note(row, IDENTITY, "all", &format!("{grown} KiB; {polite}"));
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
    let (sent, grown, polite) = scene.beside(scene.identity(), |scene| {
        let (before, mut peer, mut sent) = (abuses(scene), scene.dial(), 0);
        peer.send(&Frame::headers(1, flag::END_HEADERS, &hpack::literal(&FIELDS)));
        let pieces = Frame::data(1, 0, *b"").bytes().repeat(1000);
        while sent < count(50_000, 1_000_000) && peer.write(&pieces) {
            sent += 1000;
        }
        let end = peer.until(|_| false);
        assert!(matches!(end, Read::Closed(_)), "{end:?}");
        until(LATE, || abuses(scene) > before);
        assert_eq!(abuses(scene), before + 1.0, "connections ended");
        sent
    });
    assert!(grown <= MOST, "{grown} KiB");
    note(6, IDENTITY, "empty DATA", &format!("ended after {sent} at most, {grown} KiB; {polite}"));
}
