//! R6 and R7: data in tiny pieces, and answers that nobody takes.

use mesh_tests::attacks::floods::{flood, request, stream};
use mesh_tests::frames::{Frame, flag, setting};
use mesh_tests::netns::until;
use mesh_tests::yardstick::count;

use crate::{LATE, Scene, Surface, beside, note, of, word};

fn tiny(surface: &Surface<'_>, name: &str, bytes: &[u8]) {
    // More than a window's worth, so that what is not read comes to an end.
    let rounds = count(400_000, 1_000_000);
    let mut fields = surface.fields("/deaf");
    fields[0] = (":method", "POST");
    let (outcome, grown, polite) = beside(surface, || {
        let mut peer = surface.dial(&[]);
        peer.send(&request(0, 0, &fields));
        flood(&mut peer, rounds, 1000, false, |_| Frame::data(stream(0), 0, bytes).bytes())
    });
    let what = format!("{name}, {}", surface.name);
    // What is handed on as it comes is no flood: then nothing may gather.
    assert!(!bytes.is_empty() || outcome.closed.is_some(), "{what}: goes on: {outcome:?}");
    assert!(grown <= count(3, 1) << 10, "{what}: {grown} KiB; {outcome:?}");
    let figure =
        format!("{} after {}, {} resets, {grown} KiB; {polite}", word(outcome.goaway), outcome.done, outcome.resets);
    note(6, surface, name, &figure);
}

/// Bytes of each answer.
const ANSWER: u64 = 8 << 20;
const STREAMS: usize = 100;

fn unread(surface: &Surface<'_>) {
    let fields = surface.fields("/bytes/8388608");
    let counts = &surface.scene.app.counts;
    let too_slow = || surface.scene.mesh.metric(surface.front, "mesh_errors_total", &[("reason", "too_slow")]);
    let before = too_slow();
    let (result, grown, polite) = beside(surface, || {
        let pushed = of(&counts.pushed);
        let mut peer = surface.dial(&[(setting::INITIAL_WINDOW_SIZE, 0)]);
        for nth in 0..STREAMS {
            peer.send(&request(nth, flag::END_STREAM, &fields));
        }
        let outcome = flood(&mut peer, 0, 1, false, |_| Vec::new());
        until(LATE, || too_slow() - before >= STREAMS as f64);
        (of(&counts.pushed) - pushed, outcome)
    });
    let (pushed, _) = result;
    let what = format!("zero window, {}", surface.name);
    assert_eq!(too_slow() - before, STREAMS as f64, "{what}: streams ended");
    let each = grown / STREAMS as u64;
    // What the app has sent and nobody took is in the kernel's buffers, or in ours.
    assert!(pushed < STREAMS as u64 * ANSWER, "{what}: nobody held the app back");
    assert!(each <= 400, "{what}: {each} KiB of each stream");
    let figure = format!(
        "{each} KiB of each stream, the app sent {} of {} MiB, {STREAMS} ended; {polite}",
        pushed >> 20,
        STREAMS * 8
    );
    note(7, surface, "zero window", &figure);
}

#[test]
fn r06_data_in_tiny_pieces_ends_its_connection() {
    let scene = Scene::start(&[]);
    for surface in scene.surfaces() {
        tiny(&surface, "empty DATA", b"");
        tiny(&surface, "DATA of one byte", b"x");
    }
}

#[test]
fn r07_answers_that_nobody_takes_are_held_back_and_end() {
    let scene = Scene::start(&[("MESH_HTTP_STALL_TIMEOUT", count("3s", "10m"))]);
    for surface in scene.surfaces() {
        unread(&surface);
    }
}
