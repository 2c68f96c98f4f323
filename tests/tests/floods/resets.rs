//! R1 and R2: streams that are begun and reset, by the peer or by what it has us do.

use mesh_tests::attacks::floods::{Flood, made_resets, resets};
use mesh_tests::frames::code;
use mesh_tests::netns::until;
use mesh_tests::yardstick::count;

use crate::{LATE, Scene, Surface, flooded, note, of};

fn rapid(surface: &Surface<'_>, flood: &Flood<'_>) {
    let counts = &surface.scene.app.counts;
    let (before, cancelled) = (surface.abuse("enhance_your_calm"), of(&counts.cancelled));
    let seen = flooded(surface, flood);
    let (outcome, what) = (&seen.result, format!("{}, {}", flood.name, surface.name));
    assert_eq!(outcome.goaway, Some(code::ENHANCE_YOUR_CALM), "{what}: {outcome:?}");
    until(LATE, || surface.abuse("enhance_your_calm") > before);
    assert_eq!(surface.abuse("enhance_your_calm"), before + 1.0, "{what}: connections ended");
    let reached = of(&counts.cancelled) - cancelled;
    assert!(reached <= outcome.done as u64 + 100, "{what}: {reached} reached the app; {outcome:?}");
    note(1, surface, &flood.name, &flood.figure(&seen, &format!(", {reached} reached the app")));
}

fn made(surface: &Surface<'_>, flood: &Flood<'_>) {
    let before = surface.abuses();
    let seen = flooded(surface, flood);
    let (outcome, what) = (&seen.result, format!("{}, {}", flood.name, surface.name));
    until(LATE, || surface.abuses() > before);
    assert_eq!(surface.abuses(), before + 1.0, "{what}: connections ended; {outcome:?}");
    note(2, surface, &flood.name, &flood.figure(&seen, ""));
}

#[test]
fn r1_a_rapid_reset_ends_its_connection() {
    let scene = Scene::start(&[]);
    for surface in scene.surfaces() {
        resets(&surface.target).iter().for_each(|flood| rapid(&surface, flood));
    }
}

#[test]
fn r2_made_resets_end_their_connection() {
    let scene = Scene::start(&[]);
    for surface in scene.surfaces() {
        // A tunnel carries many clients and lasts for hours: it may cause more.
        let (quick, most) = if surface.is_tunnel { (10_000, 8192) } else { (2_000, 1024) };
        let floods = made_resets(&surface.target, count(quick, 100_000), most);
        floods.iter().for_each(|flood| made(&surface, flood));
    }
}
