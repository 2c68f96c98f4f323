//! Clients that take their time, and many of them at once: R20, R21. With the limits that the rows set for the mesh.

use std::time::{Duration, Instant};

use mesh_tests::attacks::connections::{EACH, cap, come, flood, recovery, soon};
use mesh_tests::attacks::slow::{BODY, Ends, HEAD, PREFACE, Phase, READ, SILENCE, allowed, attack};
use mesh_tests::yardstick::{Peer, Setup, Source, Speaks, Who, beside, count};

use super::{judged, note};
use crate::records::Record;

/// Seconds that a head may take, and an exchange without progress.
fn limit() -> u64 {
    count(2, 10)
}

/// R20: all phases but those of TLS, which they do not speak here.
pub(super) fn slow(who: Who) -> anyhow::Result<Vec<Record>> {
    let setup = Setup { head: Some(limit()), stall: Some(limit()), ..Speaks::Http1.into() };
    let peer = Peer::start(who, setup)?;
    let _source = Source::start(&peer.front.back, peer.front.port);
    Ok([HEAD, BODY, READ, PREFACE, SILENCE].map(|phase| phase_of(&peer, phase)).into())
}

fn phase_of(peer: &Peer, phase: Phase) -> Record {
    let front = &peer.front;
    let seen = beside(front, || attack(front, front.addr, phase));
    let (Ends { connected, ended, first, last, let_go, .. }, each) = &seen.result;
    let faults = [
        (ended < connected && let_go.is_none()).then(|| "not all are ended".to_owned()),
        (*each > allowed(phase)).then(|| format!("more than {} KiB each", allowed(phase))),
    ];
    let fault = faults.into_iter().flatten().next().or_else(|| seen.fault());
    let polite = &seen.polite;
    let end = match let_go {
        Some(after) if ended < connected => format!("{connected} of {connected} let go after {after:.0?}"),
        _ => format!("{ended} of {connected} ended, first after {first:.0?}, last after {last:.0?}"),
    };
    let figure = format!("{end}, {each} KiB each; {polite}");
    let (held, figure) = judged(fault, figure);
    note(front.who, 20, phase.name, held, figure)
}

/// R21: more connections than there may be.
pub(super) fn many(who: Who) -> anyhow::Result<Vec<Record>> {
    let peer = Peer::start(who, Setup { connections: Some(cap()), ..Speaks::Http1.into() })?;
    let _source = Source::start(&peer.front.back, peer.front.port);
    let front = &peer.front;
    let seen = beside(front, || {
        let (mut held, lost) = come(front, front.addr, EACH);
        let begin = Instant::now();
        while held.open.len() >= cap() && begin.elapsed() < soon() {
            held.look();
            std::thread::sleep(Duration::from_millis(20));
        }
        let (open, refused) = (held.open.len(), held.refused + lost);
        drop(held);
        (open, refused, recovery(&front.client, front.addr))
    });
    let (open, refused, took) = seen.result;
    let faults = [
        (open >= cap()).then(|| format!("{} may be", cap())),
        (took >= soon()).then(|| "it does not come back".to_owned()),
    ];
    let fault = faults.into_iter().flatten().next().or_else(|| seen.fault());
    let (all, grown, polite) = (flood(), seen.grown, &seen.polite);
    let figure = format!("{open} held, {refused} of {all} refused, {grown} KiB, back after {took:.0?}; {polite}");
    let (held, figure) = judged(fault, figure);
    Ok(vec![note(who, 21, "a flood of connections", held, figure)])
}
