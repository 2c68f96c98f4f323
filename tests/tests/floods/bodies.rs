//! R6 and R7: data in tiny pieces, and answers that nobody takes.

use mesh_tests::attacks::floods::{Held, STREAMS, hold_answers, tiny};
use mesh_tests::netns::until;
use mesh_tests::yardstick::{beside, count};

use crate::{LATE, SURFACES, Scene, Surface, flooded, note};

fn unread(surface: &Surface<'_>) {
    let too_slow = || surface.scene.mesh.metric(surface.front, "mesh_errors_total", &[("reason", "too_slow")]);
    let (before, counts) = (too_slow(), &surface.scene.app.counts);
    let seen = beside(surface.front, || {
        hold_answers(&surface.target, counts, count(LATE, 25 * LATE)).expect("a connection that begins honestly")
    });
    assert_eq!(Held::fault(&seen), None, "zero window, {}: {seen:#?}", surface.name);
    until(LATE, || too_slow() - before >= STREAMS as f64);
    assert_eq!(too_slow() - before, STREAMS as f64, "{}: streams ended and counted", surface.name);
    note(7, surface, "zero window", &Held::figure(&seen));
}

#[test]
fn r6_data_in_tiny_pieces_ends_its_connection() {
    let scene = Scene::start(&[]);
    for surface in scene.surfaces() {
        for flood in tiny(&surface.target) {
            let seen = flooded(&surface, &flood);
            note(6, &surface, &flood.name, &flood.figure(&seen, ""));
        }
    }
}

/// On all surfaces at once, each of a mesh of its own, for most of it is waiting.
#[test]
fn r7_answers_that_nobody_takes_are_held_back_and_end() {
    std::thread::scope(|scope| {
        for nth in 0..SURFACES {
            scope.spawn(move || {
                let scene = Scene::start(&[("MESH_HTTP_STALL_TIMEOUT", count("3s", "10m"))]);
                unread(&scene.surfaces()[nth]);
            });
        }
    });
}
