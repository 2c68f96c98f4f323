//! R20 on the servers of the control plane, after the handshake: clients that say nothing, half a preface, half a head, half a
//! request.

use std::time::Instant;

use mesh_tests::frames::{Connection, Frame, PREFACE, Read, flag, hpack};
use mesh_tests::netns::until;
use mesh_tests::yardstick::count;

use crate::{LATE, Scene, Surface, note};

/// What is said, and then nothing more.
const PHASES: [&str; 4] = ["silence after TLS", "h2 preface", "no stream", "head"];

fn clients() -> usize {
    count(10, 200)
}

fn begin(peer: &mut Connection, phase: &str, surface: Surface) {
    match phase {
        "silence after TLS" => {}
        "h2 preface" => drop(peer.write(&PREFACE[..16])),
        "no stream" => drop(peer.begin(&[])),
        _ => {
            drop(peer.begin(&[]));
            peer.send(&Frame::headers(1, 0, &hpack::literal(&surface.fields())));
        }
    }
}

/// All are ended, and counted one by one.
fn cut(scene: &Scene, surface: Surface) -> String {
    let counted = || scene.metric(surface, "connections_refused_total", &[("reason", "no_stream")]);
    let (before, start) = (counted(), Instant::now());
    let phases = PHASES.iter().flat_map(|phase| std::iter::repeat_n(*phase, clients()));
    let mut peers: Vec<_> = phases.map(|phase| (phase, scene.connect(surface).expect("a connection"))).collect();
    for (phase, peer) in &mut peers {
        begin(peer, phase, surface);
        peer.patience(LATE);
    }
    let come = peers.len();
    for (phase, peer) in &mut peers {
        let end = peer.until(|_| false);
        assert!(matches!(end, Read::Closed(_)), "{phase}, {}: {end:?}", surface.name);
    }
    let wanted = before + f64::from(u32::try_from(come).expect("few"));
    until(LATE, || counted() >= wanted);
    assert_eq!(counted(), wanted, "{}: counted", surface.name);
    format!("{come} of {come} ended within {:.0?}: {}", start.elapsed(), PHASES.join(", "))
}

#[test]
fn r20_who_asks_for_nothing_in_time_is_ended_and_counted() {
    let mut scene = Scene::start();
    for surface in scene.surfaces {
        let (figure, _, polite) = scene.beside(surface, |scene| cut(scene, surface));
        note(20, surface.name, "nothing asked", &format!("{figure}; {polite}"));
    }
}

/// A request whose message never comes is answered, and the connection goes on.
#[test]
fn r20_a_request_without_its_message_is_ended() {
    let mut scene = Scene::start();
    for surface in scene.surfaces {
        let (end, _, polite) = scene.beside(surface, |scene| {
            let mut peer = scene.dial(surface, &[]);
            peer.patience(LATE);
            peer.send(&Frame::headers(1, flag::END_HEADERS, &hpack::literal(&surface.fields())));
            peer.send(&Frame::data(1, 0, [0, 0, 0, 4, 0, 1]));
            peer.until(|frame| frame.ends(1)).frame()
        });
        let status = end.as_ref().and_then(|frame| frame.field("grpc-status"));
        assert!(status.is_some_and(|status| status != "0"), "{}: {end:?}", surface.name);
        note(20, surface.name, "body", &format!("ended with gRPC status {}; {polite}", status.unwrap_or_default()));
    }
}
