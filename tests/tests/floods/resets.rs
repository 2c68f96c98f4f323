//! R1 and R2: streams that are begun and reset, by the peer or by what it has us do.

use mesh_tests::attacks::floods::{self, MADE_RESETS, flood};
use mesh_tests::frames::code;
use mesh_tests::yardstick::count;

use crate::{Scene, Surface, beside, counted_once, note, of, word};

/// Frames in one write.
const BATCH: usize = 200;

fn rapid(surface: &Surface<'_>, case: &str, round: fn(usize, &[(&str, &str)]) -> Vec<u8>) {
    let rounds = count(20_000, 200_000);
    let fields = surface.fields("/hold");
    let (before, begun) = (surface.abuse("enhance_your_calm"), of(&surface.scene.app.counts.begun));
    let (outcome, grown, polite) = beside(surface, || {
        let mut peer = surface.dial(&[]);
        let outcome = flood(&mut peer, rounds, BATCH, false, |nth| round(nth, &fields));
        (outcome, of(&surface.scene.app.counts.cancelled))
    });
    let (outcome, _) = outcome;
    let what = format!("{case}, {}", surface.name);
    assert!(outcome.closed.is_some(), "{what}: still open: {outcome:?}");
    assert_eq!(outcome.goaway, Some(code::ENHANCE_YOUR_CALM), "{what}: {outcome:?}");
    counted_once(surface, "enhance_your_calm", before, &what);
    // The bystander's own requests, which go to `/`, are not among those that hold.
    let held = surface.scene.held(begun);
    assert!(grown <= 8 << 10, "{what}: {grown} KiB");
    let figure = format!("GOAWAY after {} of {rounds}, {held}, {grown} KiB; {polite}", outcome.done);
    note(1, surface, case, &figure);
}

impl Scene {
    /// How much work of the attack has reached the app.
    fn held(&self, _: u64) -> String {
        let cancelled = of(&self.app.counts.cancelled);
        assert!(cancelled <= 1200, "{cancelled} requests were begun and given up");
        format!("{cancelled} given up at the app so far")
    }
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
        rapid(&surface, "rapid reset", floods::rapid_reset);
        rapid(&surface, "malformed heads", floods::malformed);
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
