//! R20 on the servers of the control plane, after the handshake: clients that say nothing, half a preface, half a head, half a
//! request.

use std::time::Instant;

use mesh_tests::frames::{Frame, PREFACE, Read, flag, hpack};
use mesh_tests::netns::until;
use mesh_tests::yardstick::count;

use crate::streams::{framed, hello};
use crate::{FIELDS, LATE, Scene, Surface, note};

/// What is said, and then nothing more; and as what it is counted.
fn phases(surface: Surface) -> (Vec<(&'static str, Vec<u8>)>, &'static str, &'static str) {
    let (preface, settings) = (PREFACE.to_vec(), Frame::settings(&[]).bytes());
    let silence = ("silence after TLS", vec![]);
    if surface.name == "identity" {
        let head = Frame::headers(1, 0, &hpack::literal(&FIELDS)).bytes();
        let phases = vec![
            silence,
            ("h2 preface", preface[..16].to_vec()),
            ("no stream", [preface.clone(), settings.clone()].concat()),
            ("head", [preface, settings, head].concat()),
        ];
        (phases, "connections_refused_total", "no_stream")
    } else {
        let hello = framed(&hello());
        let phases =
            vec![silence, ("half a length", hello[..2].to_vec()), ("half a Hello", hello[..hello.len() / 2].to_vec())];
        (phases, "streams_ended_total", "hello_late")
    }
}

fn clients() -> usize {
    count(10, 200)
}

/// All are ended, and counted one by one.
fn cut(scene: &Scene, surface: Surface) -> String {
    let (phases, metric, reason) = phases(surface);
    let counted = || scene.metric(surface, metric, &[("reason", reason)]);
    let (before, start) = (counted(), Instant::now());
    let mut peers = Vec::new();
    for (phase, said) in &phases {
        for _ in 0..clients() {
            let mut peer = scene.connect(surface).expect("a connection");
            peer.write(said);
            peer.patience(LATE);
            peers.push((phase, peer));
        }
    }
    let come = peers.len();
    for (phase, peer) in &mut peers {
        let end = peer.end();
        assert!(matches!(end, Read::Closed(_)), "{phase}, {}: {end:?}", surface.name);
    }
    let wanted = before + f64::from(u32::try_from(come).expect("few"));
    until(LATE, || counted() >= wanted);
    assert_eq!(counted(), wanted, "{}: counted", surface.name);
    let names: Vec<_> = phases.iter().map(|(phase, _)| *phase).collect();
    format!("{come} of {come} ended within {:.0?}: {}", start.elapsed(), names.join(", "))
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
    let (end, _, polite) = scene.beside(scene.identity(), |scene| {
        let mut peer = scene.dial();
        peer.patience(LATE);
        peer.send(&Frame::headers(1, flag::END_HEADERS, &hpack::literal(&FIELDS)));
        peer.send(&Frame::data(1, 0, [0, 0, 0, 4, 0, 1]));
        peer.until(|frame| frame.ends(1)).frame()
    });
    let status = end.as_ref().and_then(|frame| frame.field("grpc-status"));
    assert!(status.is_some_and(|status| status != "0"), "{end:?}");
    note(20, "identity", "body", &format!("ended with gRPC status {}; {polite}", status.unwrap_or_default()));
}
