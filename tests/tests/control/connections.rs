//! R21 on the servers of the control plane: more connections than there may be.

use mesh_mtls::messages::PING;
use mesh_tests::attacks::connections::hold;
use mesh_tests::frames::{Frame, Read, flag, hpack};
use mesh_tests::netns::until;
use mesh_tests::yardstick::count;

use crate::streams::{framed, hello};
use crate::{FIELDS, LATE, Scene, Surface, note};

/// Of one address, and how many come from it.
const MOST: usize = 20;
const COME: usize = 30;

fn refused(scene: &Scene, surface: Surface) -> f64 {
    scene.metric(surface, "connections_refused_total", &[("reason", "too_many_connections_of_address")])
}

/// Members with a stream each, which are at their limit: those beyond it are closed and counted, one by one.
fn members(scene: &Scene, surface: Surface) -> usize {
    let before = refused(scene, surface);
    let mut peers: Vec<_> = (0..COME).filter_map(|_| scene.connect(surface).ok()).collect();
    let mut closed = COME - peers.len();
    for peer in &mut peers {
        let heard = if surface.name == "identity" {
            peer.begin(&[]).is_ok()
                && peer.send(&Frame::headers(1, flag::END_HEADERS, &hpack::literal(&FIELDS)))
                && !matches!(peer.read(), Read::Closed(_))
        } else {
            peer.write(&framed(&hello())) && peer.take(PING.len()).is_ok()
        };
        closed += usize::from(!heard);
    }
    until(LATE, || refused(scene, surface) - before >= 1.0);
    let counted = refused(scene, surface) - before;
    assert_eq!(
        counted,
        f64::from(u32::try_from(COME - MOST).expect("few")),
        "{}: refused; {closed} closed",
        surface.name
    );
    closed
}

#[test]
fn r21_connections_beyond_the_limit_of_their_address_are_refused_and_counted() {
    let mut scene = Scene::start_with(&[&format!("--source-connections={MOST}")]);
    for surface in scene.surfaces {
        let (closed, grown, polite) = scene.beside(surface, |scene| members(scene, surface));
        note(21, surface.name, "members", &format!("{closed} of {COME} closed, {MOST} allowed, {grown} KiB; {polite}"));
    }
}

#[test]
fn r21_a_flood_of_handshakes_that_never_come_keeps_nobody_out() {
    let mut scene = Scene::start();
    for surface in scene.surfaces {
        let ((), grown, polite) = scene.beside(surface, |scene| {
            let mut held = hold(&scene.attacker, surface.addr, count(1_000, 20_000), &[22, 3, 1, 2, 4]);
            // The far end makes room for others, or gives each its time.
            until(LATE, || held.look() >= count(600, 15_000));
        });
        assert!(grown <= count(32 << 10, 64 << 10), "{}: {grown} KiB", surface.name);
        note(21, surface.name, "handshakes", &format!("{} half-open, {grown} KiB; {polite}", count(1_000, 20_000)));
    }
}
