//! R5: frames that carry no request, from a peer that never reads.

use mesh_tests::attacks::floods::control;

use crate::{Scene, flooded, note};

#[test]
fn r5_control_frames_of_a_deaf_peer_cost_little() {
    let scene = Scene::start(&[]);
    for surface in scene.surfaces() {
        for flood in control() {
            let seen = flooded(&surface, &flood);
            note(5, &surface, &flood.name, &flood.figure(&seen, ""));
        }
    }
}
