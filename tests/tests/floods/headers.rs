//! R3 and R4: heads without end, and heads that are larger than they look.

use std::sync::Arc;
use std::time::Duration;

use mesh_tests::attacks::floods::{self, BOMBS, flood};
use mesh_tests::frames::{Frame, flag, hpack, setting};
use mesh_tests::yardstick::{Group, count};

use crate::{Scene, Surface, beside, note, word};

const PIECE: usize = 1024;
/// Four times the largest head (`MESH_HTTP_MAX_HEAD`, 64 KiB), and what is on its way meanwhile.
const MOST: usize = (4 * (64 << 10)) / PIECE;

fn continued(surface: &Surface<'_>) {
    let words = ["enhance_your_calm", "protocol_error", "compression_error", "frame_size_error"];
    let sum = || words.iter().map(|word| surface.abuse(word)).sum::<f64>();
    let before = sum();
    let rounds = count(16 << 10, 1 << 20);
    let cpu = surface.process().cpu();
    let (outcome, grown, polite) = beside(surface, || {
        let mut peer = surface.dial(&[]);
        let begin = Frame::headers(1, flag::END_STREAM, &hpack::literal(&surface.fields("/hold")));
        peer.send(&begin);
        let field = hpack::literal(&[("x-more", &"x".repeat(PIECE - 16))]);
        let outcome = flood(&mut peer, rounds, 4, false, |_| Frame::continuation(1, 0, &field).bytes());
        (outcome, surface.process().cpu())
    });
    let (outcome, after) = outcome;
    let what = format!("CONTINUATION, {}", surface.name);
    assert!(outcome.closed.is_some(), "{what}: still open: {outcome:?}");
    mesh_tests::netns::until(crate::LATE, || sum() > before);
    assert_eq!(sum(), before + 1.0, "{what}: connections ended");
    let spent = after.saturating_sub(cpu);
    assert!(spent < Duration::from_secs(count(5, 1)), "{what}: {spent:?} of CPU");
    assert!(grown <= 8 << 10, "{what}: {grown} KiB");
    let kib = (outcome.done * PIECE) >> 10;
    assert!(outcome.done <= MOST + 2048, "{what}: {kib} KiB were taken");
    let figure = format!("{} after {kib} KiB, {spent:.0?} of CPU, {grown} KiB; {polite}", word(outcome.goaway));
    note(3, surface, "CONTINUATION", &figure);
}

/// Under the limit of a head, and far above it.
const SIZES: [usize; 2] = [60 << 10, 4 << 20];
const STREAMS: usize = 100;

fn bombed(surface: &Surface<'_>, name: &str, size: usize) {
    let fields = surface.fields("/hold");
    let (outcome, grown, polite) = beside(surface, || {
        let mut peer = surface.dial(&[(setting::INITIAL_WINDOW_SIZE, 0)]);
        let outcome = flood(&mut peer, STREAMS, 10, false, |nth| floods::bomb(name, nth, size, &fields));
        (outcome, peer.seen.iter().filter_map(Frame::status).next_back())
    });
    let (outcome, status) = outcome;
    let what = format!("{name} of {} KiB, {}", size >> 10, surface.name);
    assert!(grown <= 8 << 10, "{what}: {grown} KiB; {outcome:?}");
    let end = match outcome.goaway {
        Some(_) => word(outcome.goaway).to_owned(),
        None => format!("status {status:?}, {} resets", outcome.resets),
    };
    note(4, surface, &format!("{name} of {} KiB", size >> 10), &format!("{end}; {grown} KiB; {polite}"));
}

#[test]
fn r03_a_head_without_end_ends_its_connection() {
    let scene = Scene::start(&[]);
    for surface in scene.surfaces() {
        continued(&surface);
    }
}

/// As many peers as one row has streams.
fn peers() -> usize {
    count(50, 100)
}
const LIMIT: u64 = 128 << 20;

/// Each peer holds its streams with heads that just fit, whose answers it does not let come.
fn hold_all(surface: &Surface<'_>) -> Vec<mesh_tests::frames::Connection> {
    let fields = surface.fields("/bytes/65536");
    let begin = |nth: usize| {
        let mut peer = surface.try_dial(&[(setting::INITIAL_WINDOW_SIZE, 0)]).ok()?;
        let name = BOMBS[nth % BOMBS.len()];
        for stream in 0..STREAMS {
            // A hundredth of the fields that a head may have, so that none is refused for their number.
            let size = if name == "one large entry" { 56 << 10 } else { 3 << 10 };
            if !peer.write(&floods::bomb(name, stream, size, &fields)) {
                break;
            }
        }
        Some(peer)
    };
    (0..peers()).filter_map(begin).collect()
}

#[test]
fn r04_a_hundred_such_peers_do_not_use_up_a_small_control_group() {
    let group = Arc::new(Group::new(LIMIT));
    let scene = Scene::start_in(&group);
    let [surface, ..] = scene.surfaces();
    let shed = || scene.mesh.metric(surface.front, "mesh_errors_total", &[("reason", "overload")]);
    let refused = || scene.mesh.metric(surface.front, "mesh_connections_refused_total", &[("reason", "memory")]);
    let (held, grown, polite) = beside(&surface, || {
        let peers = hold_all(&surface);
        // As long as they are there, and the polite one beside them.
        std::thread::sleep(Duration::from_secs(count(1, 60)));
        peers.len()
    });
    assert!(shed() + refused() > 0.0 || held == peers(), "{held} peers have begun, and no refusal is counted");
    assert_eq!(group.kills(), 0, "killed for want of memory");
    let figure = format!(
        "{held} of {} peers with {STREAMS} streams each: {} requests shed, {} connections refused, grew by {grown} KiB, peak {} of {} MiB; {polite}",
        peers(),
        shed(),
        refused(),
        group.peak() >> 20,
        LIMIT >> 20
    );
    note(4, &surface, "100 connections", &figure);
}

#[test]
fn r04_heads_that_unfold_cost_little() {
    let scene = Scene::start(&[]);
    for surface in scene.surfaces() {
        for name in BOMBS {
            for size in SIZES {
                bombed(&surface, name, size);
            }
        }
    }
}
