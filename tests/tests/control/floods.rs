//! R1 to R6 on the servers of the control plane, by a member.

use std::time::Duration;

use mesh_tests::attacks::floods::{self, BOMBS, CONTROL, MADE_RESETS, Outcome, flood, request};
use mesh_tests::frames::{Frame, code, flag, hpack, setting};
use mesh_tests::netns::until;
use mesh_tests::yardstick::count;

use crate::{LATE, Scene, Surface, note};

/// KiB that any of it may cost.
const MOST: u64 = 8 << 10;

/// Connections that have been ended because of what their peer did.
fn abuses(scene: &Scene, surface: Surface) -> f64 {
    scene.metric(surface, "http2_abuse_total", &[])
}

/// An attack that ends its connection, which is counted once.
fn ended(scene: &Scene, surface: Surface, (row, case): (u8, &str), attack: impl FnOnce() -> Outcome) -> Outcome {
    let before = abuses(scene, surface);
    let outcome = attack();
    let what = format!("{case}, {}", surface.name);
    assert!(outcome.closed.is_some(), "{what}: still open: {outcome:?}");
    until(LATE, || abuses(scene, surface) > before);
    assert_eq!(abuses(scene, surface), before + 1.0, "{what}: connections ended; {outcome:?}");
    let figure = format!("ended with {:?} after {}, {} resets", outcome.goaway, outcome.done, outcome.resets);
    note(row, surface.name, case, &figure);
    outcome
}

/// One that need not end it, and costs little.
fn borne(surface: Surface, (row, case): (u8, &str), outcome: &Outcome) {
    let end = if outcome.closed.is_some() { "ended" } else { "borne" };
    note(row, surface.name, case, &format!("{end} after {}", outcome.done));
}

/// Attacks on each surface, beside a polite client; all of them together cost little.
fn attacked(row: u8, attacks: impl Fn(&Scene, Surface)) {
    let mut scene = Scene::start();
    for surface in scene.surfaces {
        let ((), grown, polite) = scene.beside(surface, |scene| attacks(scene, surface));
        assert!(grown <= MOST, "R{row}, {}: {grown} KiB", surface.name);
        note(row, surface.name, "all", &format!("{grown} KiB; {polite}"));
    }
}

#[test]
fn r01_a_rapid_reset_ends_its_connection() {
    let rounds = count(5_000, 200_000);
    attacked(1, |scene, surface| {
        let fields = surface.fields();
        let rapid = |batch| {
            let mut peer = scene.dial(surface, &[]);
            flood(&mut peer, rounds, batch, false, |nth| floods::rapid_reset(nth, &fields))
        };
        let outcome = ended(scene, surface, (1, "rapid reset"), || rapid(200));
        assert_eq!(outcome.goaway, Some(code::ENHANCE_YOUR_CALM), "{outcome:?}");
        // Each stream is accepted before its reset comes: of many requests, identity says no to most (R46).
        match surface.name {
            "identity" => borne(surface, (1, "paced reset"), &rapid(2)),
            _ => drop(ended(scene, surface, (1, "paced reset"), || rapid(2))),
        }
        ended(scene, surface, (1, "malformed heads"), || {
            flood(&mut scene.dial(surface, &[]), rounds, 200, false, |nth| floods::malformed(nth, &fields))
        });
    });
}

#[test]
fn r02_made_resets_end_their_connection() {
    let rounds = count(3_000, 100_000);
    attacked(2, |scene, surface| {
        let fields = surface.fields();
        for way in MADE_RESETS {
            let outcome = ended(scene, surface, (2, way), || {
                let made = |nth| floods::made_reset(way, nth, &fields);
                flood(&mut scene.dial(surface, &[]), rounds, 100, false, made)
            });
            assert!(outcome.resets <= 1024, "{way}, {}: {outcome:?}", surface.name);
        }
    });
}

#[test]
fn r03_r04_heads_without_end_and_heads_that_unfold_cost_little() {
    attacked(3, |scene, surface| {
        let (fields, cpu) = (surface.fields(), surface.process.cpu());
        ended(scene, surface, (3, "CONTINUATION"), || {
            let mut peer = scene.dial(surface, &[]);
            peer.send(&Frame::headers(1, flag::END_STREAM, &hpack::literal(&fields)));
            let more = hpack::literal(&[("x-more", &"x".repeat(1000))]);
            flood(&mut peer, count(16 << 10, 1 << 20), 4, false, |_| Frame::continuation(1, 0, &more).bytes())
        });
        let spent = surface.process.cpu().saturating_sub(cpu);
        assert!(spent < Duration::from_secs(count(20, 2)), "{}: {spent:?} of CPU", surface.name);
        for name in BOMBS {
            for size in [12 << 10, 1 << 20] {
                let mut peer = scene.dial(surface, &[(setting::INITIAL_WINDOW_SIZE, 0)]);
                let outcome = flood(&mut peer, 100, 10, false, |nth| floods::bomb(name, nth, size, &fields));
                borne(surface, (4, &format!("{name} of {} KiB", size >> 10)), &outcome);
            }
        }
    });
}

#[test]
fn r05_r06_frames_that_ask_for_nothing_cost_little() {
    let rounds = count(50_000, 1_000_000);
    attacked(5, |scene, surface| {
        for name in CONTROL {
            let frame = floods::control(name);
            let outcome = flood(&mut scene.dial(surface, &[]), rounds, 1000, true, |_| frame.clone());
            borne(surface, (5, name), &outcome);
        }
        let fields = surface.fields();
        let data = |bytes: &[u8]| {
            let mut peer = scene.dial(surface, &[]);
            peer.send(&request(0, 0, &fields));
            flood(&mut peer, rounds, 1000, false, |_| Frame::data(floods::stream(0), 0, bytes).bytes())
        };
        ended(scene, surface, (6, "empty DATA"), || data(b""));
        borne(surface, (6, "DATA of one byte"), &data(b"x"));
    });
}
