//! R5: frames that carry no request, from a peer that never reads.

use mesh_tests::attacks::floods::{self, CONTROL, flood};
use mesh_tests::yardstick::count;

use crate::{Scene, Surface, beside, note};

/// What such a connection may cost, KiB.
const MOST: u64 = 2 << 10;

fn flooded(surface: &Surface<'_>, name: &str) {
    let rounds = count(100_000, 1_000_000);
    let (outcome, grown, polite) = beside(surface, || {
        let mut peer = surface.dial(&[]);
        let frame = floods::control(name);
        flood(&mut peer, rounds, 1000, true, |_| frame.clone())
    });
    let what = format!("{name}, {}", surface.name);
    assert!(grown <= MOST + count(1024, 0), "{what}: {grown} KiB, {outcome:?}");
    let end = match (outcome.goaway, outcome.closed, outcome.throttled) {
        (Some(_), ..) | (_, Some(_), _) => format!("{} and closed", crate::word(outcome.goaway)),
        (_, _, true) => "held back".to_owned(),
        _ => "taken, without an answer that waits".to_owned(),
    };
    note(5, surface, name, &format!("{end} after {}, {grown} KiB; {polite}", outcome.done));
}

#[test]
fn r05_control_frames_of_a_deaf_peer_cost_little() {
    let scene = Scene::start(&[]);
    for surface in scene.surfaces() {
        for name in CONTROL {
            flooded(&surface, name);
        }
    }
}
