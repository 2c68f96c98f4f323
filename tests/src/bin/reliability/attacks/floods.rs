//! Floods of HTTP/2 frames: R1 to R7. The back end speaks HTTP/2 as well, as the application behind a sidecar does; where an
//! attack can be passed on to it, also HTTP/1.1, which hides the attack from it.

use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use mesh_tests::attacks::floods::{self, Flood, Held, STREAMS};
use mesh_tests::attacks::h2spec::Target;
use mesh_tests::yardstick::{Group, Peer, Setup, Source, Speaks, Who, beside, count};

use super::{judged, note};
use crate::records::Record;

/// Memory of the group in which 100 connections are held.
const LIMIT: u64 = 128 << 20;
/// After how many seconds a stream is given up that does not move, in the row that sets this for the mesh.
const STALL: u64 = 3;

/// Runs what `floods` gives, one by one, against one proxy whose back end speaks HTTP/2.
fn run(who: Who, floods: impl for<'a> Fn(&'a Target<'a>) -> Vec<Flood<'a>>) -> anyhow::Result<Vec<Record>> {
    with(who, Speaks::Http2, &floods)
}

/// Runs them where the back end speaks HTTP/1.1, in which each request has a connection of its own there, and against Envoy again
/// where it speaks HTTP/2: what HAProxy does with others' requests on a connection that its back end ends is not understood yet.
fn run_both(who: Who, floods: impl for<'a> Fn(&'a Target<'a>) -> Vec<Flood<'a>>) -> anyhow::Result<Vec<Record>> {
    let mut records = with(who, Speaks::Http1, &floods)?;
    if who == Who::Envoy {
        records.extend(with(who, Speaks::Http2, &floods)?);
    }
    Ok(records)
}

fn with(
    who: Who,
    speaks: Speaks,
    floods: &impl for<'a> Fn(&'a Target<'a>) -> Vec<Flood<'a>>,
) -> anyhow::Result<Vec<Record>> {
    let peer = Peer::start(who, speaks)?;
    let source = Source::start(&peer.front.back, peer.front.port);
    let target = Target::front(&peer.front);
    let one = |flood: &Flood<'_>| {
        let reached = source.counts.cancelled.load(Relaxed);
        let seen = beside(&peer.front, || flood.run(&target).unwrap_or_default());
        let reached = source.counts.cancelled.load(Relaxed) - reached;
        let more = match flood.row {
            1 => format!(", {reached} reached the app"),
            3 => format!(", {:.0?} of CPU", seen.cpu),
            _ => String::new(),
        };
        let (held, figure) = judged(flood.fault(&seen), flood.figure(&seen, &more));
        let behind = if speaks == Speaks::Http1 { ", HTTP/1.1 behind" } else { "" };
        note(who, flood.row, &format!("{}{behind}", flood.name), held, figure)
    };
    Ok(floods(&target).iter().map(one).collect())
}

pub(super) fn resets(who: Who) -> anyhow::Result<Vec<Record>> {
    run_both(who, floods::resets)
}

pub(super) fn made_resets(who: Who) -> anyhow::Result<Vec<Record>> {
    run_both(who, |target| floods::made_resets(target, count(2_000, 100_000), 1024))
}

pub(super) fn continuation(who: Who) -> anyhow::Result<Vec<Record>> {
    run(who, |target| vec![floods::continuation(target)])
}

pub(super) fn bombs(who: Who) -> anyhow::Result<Vec<Record>> {
    run(who, floods::bombs)
}

pub(super) fn control(who: Who) -> anyhow::Result<Vec<Record>> {
    run(who, |_| floods::control())
}

pub(super) fn tiny(who: Who) -> anyhow::Result<Vec<Record>> {
    run_both(who, |target| floods::tiny(target))
}

/// R4: 100 connections, in little memory.
pub(super) fn crowd(who: Who) -> anyhow::Result<Vec<Record>> {
    let group = Group::new(LIMIT);
    let peer = Peer::start(who, Setup { group: Some(&group), ..Speaks::Http2.into() })?;
    let _source = Source::start(&peer.front.back, peer.front.port);
    let (target, peers) = (Target::front(&peer.front), count(50, 100));
    let seen = beside(&peer.front, || {
        let held = floods::crowd(&target, peers);
        thread::sleep(Duration::from_secs(count(1, 60)));
        held.len()
    });
    let (held, kills, peak) = (seen.result, group.kills(), group.peak() >> 20);
    let killed = (kills > 0).then(|| "killed for want of memory".to_owned());
    let figure = format!(
        "{held} of {peers} peers with {STREAMS} streams each; grew by {} KiB, peak {peak} of {} MiB, {kills} kills; {}",
        seen.grown,
        LIMIT >> 20,
        seen.polite
    );
    let (held, figure) = judged(killed.or_else(|| seen.fault()), figure);
    Ok(vec![note(who, 4, "100 connections", held, figure)])
}

/// R7: with the time-out that the row sets for the mesh.
pub(super) fn held(who: Who) -> anyhow::Result<Vec<Record>> {
    let peer = Peer::start(who, Setup { stall: Some(STALL), ..Speaks::Http2.into() })?;
    let source = Source::start(&peer.front.back, peer.front.port);
    let target = Target::front(&peer.front);
    let patience = Duration::from_secs(30);
    let seen = beside(&peer.front, || floods::hold_answers(&target, &source.counts, patience).unwrap_or_default());
    let (held, figure) = judged(Held::fault(&seen), Held::figure(&seen));
    Ok(vec![note(who, 7, "zero window", held, figure)])
}
