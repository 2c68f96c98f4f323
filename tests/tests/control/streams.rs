//! What R2, R3, R5, R6 and R18 are on destination's messages: pings that nobody asked for, messages that never come to their end,
//! messages that are too long or none, subscriptions begun and ended one by one, by a member that may not read.

use mesh_mtls::messages::PING;
use mesh_proto::discovery as wire;
use mesh_tests::frames::{Connection, Read};
use mesh_tests::netns::until;
use mesh_tests::yardstick::count;
use prost::Message as _;
use wire::watch_request::Kind;

use crate::{LATE, Scene, note};

/// KiB that one attack may cost.
const MOST: u64 = 4 << 10;
const DESTINATION: &str = "destination";

/// A request as it stands on the wire.
pub(crate) fn framed(kind: &Kind) -> Vec<u8> {
    let message = wire::WatchRequest { kind: Some(kind.clone()) }.encode_to_vec();
    [&u32::try_from(message.len()).expect("short").to_be_bytes()[..], &message].concat()
}

pub(crate) fn hello() -> Kind {
    let addresses = vec![vec![10, 77, 0, 99].into()];
    Kind::Hello(wire::Hello { addresses, workload: "attacker".to_owned(), ..wire::Hello::default() })
}

fn subscribe(id: u64) -> Kind {
    let backend = wire::BackendRef { namespace: "default".to_owned(), service: "web".to_owned(), port: 80 };
    let resource = Some(wire::Resource { kind: Some(wire::resource::Kind::Endpoints(backend)) });
    Kind::Subscribe(wire::Subscribe { id, resource })
}

fn ended(scene: &Scene, reason: &str) -> f64 {
    scene.metric(scene.destination(), "streams_ended_total", &[("reason", reason)])
}

/// One that has said Hello, and heard the first ping.
fn dial(scene: &Scene) -> Connection {
    let mut peer = scene.connect(scene.destination()).expect("a connection");
    assert!(peer.write(&framed(&hello())));
    assert_eq!(peer.take(PING.len()).expect("a ping"), PING);
    assert!(peer.write(&PING), "its answer");
    peer
}

/// What is said ends the stream, for a reason that is counted once; what was told of it, and KiB.
fn refused(scene: &mut Scene, row: u8, case: &str, reason: &str, say: impl FnOnce(&mut Connection) -> usize) {
    let (said, grown, polite) = scene.beside(scene.destination(), |scene| {
        let (before, mut peer) = (ended(scene, reason), dial(scene));
        let said = say(&mut peer);
        let end = peer.end();
        assert!(matches!(end, Read::Closed(_)), "{case}: {end:?}");
        until(LATE, || ended(scene, reason) > before);
        assert_eq!(ended(scene, reason), before + 1.0, "{case}: streams ended");
        said
    });
    assert!(grown <= MOST, "{case}: {grown} KiB");
    note(row, DESTINATION, case, &format!("ended after {said} bytes at most, {grown} KiB; {polite}"));
}

/// Says it again and again, as long as somebody takes it.
fn repeat(peer: &mut Connection, piece: &[u8], times: usize) -> usize {
    let pieces = piece.repeat(1000);
    (0..times / 1000).take_while(|_| peer.write(&pieces)).count() * pieces.len()
}

#[test]
fn r05_pings_that_nobody_asked_for_end_their_stream() {
    let mut scene = Scene::start();
    refused(&mut scene, 5, "answers to no ping", "malformed", |peer| repeat(peer, &PING, count(50_000, 1_000_000)));
}

#[test]
fn r18_messages_that_are_too_long_or_none_end_their_stream() {
    let mut scene = Scene::start();
    for (case, said) in [
        ("a message of 4 GiB", vec![0xff; 4 << 10]),
        ("a message of 16 KiB and a byte", [&[0, 0, 0x40, 1][..], &[0; 4 << 10]].concat()),
        ("no message", [&[0, 0, 1, 0][..], &[0xff; 256]].concat()),
    ] {
        refused(&mut scene, 18, case, "malformed", |peer| {
            peer.write(&said);
            said.len()
        });
    }
}

/// Each message is begun, and its last byte not sent; the memory of all is what their longest may be.
#[test]
fn r03_messages_without_an_end_cost_little() {
    let mut scene = Scene::start();
    let most = count(100, 1_000);
    let all = f64::from(u32::try_from(most).expect("few"));
    let ((), grown, polite) = scene.beside(scene.destination(), |scene| {
        let before = ended(scene, "malformed");
        let begun = [&[0, 0, 0x40, 0][..], &[0xff; 16 << 10]].concat();
        let mut peers: Vec<_> = (0..most).map(|_| dial(scene)).collect();
        assert!(peers.iter_mut().all(|peer| peer.write(&begun[..begun.len() - 1])), "it is within what is allowed");
        // With its last byte it is no message: so the rest had come, and was held until then.
        assert!(peers.iter_mut().all(|peer| peer.write(&[0xff])));
        until(LATE, || ended(scene, "malformed") >= before + all);
    });
    let each = grown / most as u64;
    assert!(each <= 48, "{each} KiB each");
    note(3, DESTINATION, "messages without an end", &format!("{most} at once, {each} KiB each; {polite}"));
}

/// What is due to somebody who does not read is a mark for each subscription, however many there are and however they change.
#[test]
fn r02_subscriptions_of_a_deaf_peer_cost_little() {
    let mut scene = Scene::start();
    let (held, changed) = (count(5_000, 9_000), count(20_000, 500_000));
    let ((), grown, polite) = scene.beside(scene.destination(), |scene| {
        let mut peer = dial(scene);
        let mut say = |kind: Kind| assert!(peer.write(&framed(&kind)), "ended by {kind:?}");
        (1..=held).for_each(|id| say(subscribe(id)));
        for id in (held + 1)..=(held + changed) {
            say(subscribe(id));
            say(Kind::Unsubscribe(wire::Unsubscribe { id }));
        }
    });
    assert!(grown <= MOST, "{grown} KiB");
    let figure = format!("{held} held, {changed} begun and ended, {grown} KiB; {polite}");
    note(2, DESTINATION, "subscriptions of a deaf peer", &figure);
}
