//! R1 and R2: streams that are begun and reset, by the peer or by what it has us do.

use mesh_tests::attacks::floods::{self, MADE_RESETS, flood};
use mesh_tests::frames::code;
use mesh_tests::yardstick::count;

use crate::{Scene, Surface, beside, counted_once, note, of, word};

/// Frames in one write.
const BATCH: usize = 200;

/// What the n-th stream of an attack says.
type Round = fn(usize, &[(&str, &str)]) -> Vec<u8>;

fn rapid(surface: &Surface<'_>, case: &str, batch: usize, round: Round) {
    let rounds = count(20_000, 200_000);
    let fields = surface.fields("/hold");
    let counts = &surface.scene.app.counts;
    let (before, cancelled) = (surface.abuse("enhance_your_calm"), of(&counts.cancelled));
    let (outcome, grown, polite) = beside(surface, || {
        let mut peer = surface.dial(&[]);
        flood(&mut peer, rounds, batch, false, |nth| round(nth, &fields))
    });
    let what = format!("{case}, {}", surface.name);
    assert!(outcome.closed.is_some(), "{what}: still open: {outcome:?}");
    assert_eq!(outcome.goaway, Some(code::ENHANCE_YOUR_CALM), "{what}: {outcome:?}");
    counted_once(surface, "enhance_your_calm", before, &what);
    let reached = of(&counts.cancelled) - cancelled;
    assert!(reached <= outcome.done as u64 + 100, "{what}: {reached} reached the app; {outcome:?}");
    assert!(grown <= 8 << 10, "{what}: {grown} KiB");
    let figure = format!("GOAWAY after {} of {rounds}, {reached} reached the app, {grown} KiB; {polite}", outcome.done);
    note(1, surface, case, &figure);
}

fn made(surface: &Surface<'_>, way: &str) {
    let rounds = count(if surface.is_tunnel { 10_000 } else { 2_000 }, 100_000);
    let fields = surface.fields("/hold");
    let sum = || {
        ["enhance_your_calm", "protocol_error", "frame_size_error", "stream_closed", "flow_control_error"]
            .iter()
            .map(|word| surface.abuse(word))
            .sum::<f64>()
    };
    let before = sum();
    let (outcome, grown, polite) = beside(surface, || {
        let mut peer = surface.dial(&[]);
        flood(&mut peer, rounds, BATCH, false, |nth| floods::made_reset(way, nth, &fields))
    });
    let what = format!("{way}, {}", surface.name);
    assert!(outcome.closed.is_some(), "{what}: still open: {outcome:?}");
    // A tunnel carries many clients and lasts for hours: it may cause more.
    let most = if surface.is_tunnel { 8192 } else { 1024 };
    assert!(outcome.resets <= most, "{what}: {outcome:?}");
    mesh_tests::netns::until(crate::LATE, || sum() > before);
    assert_eq!(sum(), before + 1.0, "{what}: connections ended; {outcome:?}");
    assert!(grown <= 8 << 10, "{what}: {grown} KiB");
    let figure = format!("{} after {} resets of ours, {grown} KiB; {polite}", word(outcome.goaway), outcome.resets);
    note(2, surface, way, &figure);
}

#[test]
fn r01_a_rapid_reset_ends_its_connection() {
    let scene = Scene::start(&[]);
    for surface in scene.surfaces() {
        rapid(&surface, "rapid reset", BATCH, floods::rapid_reset);
        // Each stream is accepted before its reset comes.
        rapid(&surface, "paced reset", 10, floods::rapid_reset);
        rapid(&surface, "malformed heads", BATCH, floods::malformed);
    }
}

#[test]
fn r02_made_resets_end_their_connection() {
    let scene = Scene::start(&[]);
    for surface in scene.surfaces() {
        for way in MADE_RESETS {
            made(&surface, way);
        }
    }
}
