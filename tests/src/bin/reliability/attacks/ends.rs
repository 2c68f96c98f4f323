//! Back ends that break off: R58, R59.

use std::sync::atomic::Ordering;

use mesh_tests::attacks::negatives::{Ends, GOOD, PATHS, RESETS, calls, good, leaving, narrow, pinging, resetting};
use mesh_tests::attacks::truncated::{Framing, cut_everywhere, server};
use mesh_tests::yardstick::{Peer, Setup, Speaks, Who, count};

use super::{judged, note};
use crate::records::Record;

/// R58: answers that are cut, each in the version in which it is asked for.
pub(super) fn cut(who: Who) -> anyhow::Result<Vec<Record>> {
    let ways = [
        (Speaks::Http1, "HTTP/1.1", &[Framing::Length, Framing::Chunked][..]),
        (Speaks::Http2, "HTTP/2", &[Framing::Http2][..]),
    ];
    let one = |(speaks, case, framings)| {
        let peer = Peer::start(who, speaks)?;
        let (_server, plan) = server(&peer.front.back, peer.front.port);
        let (tried, findings) = cut_everywhere(&peer.front.client, peer.front.addr, &plan, framings);
        findings.iter().for_each(|finding| eprintln!("  {finding}"));
        let figure = format!("{} of {tried} cuts were errors for the client", tried - findings.len());
        Ok(note(who, 58, case, findings.is_empty(), figure))
    };
    ways.map(one).into_iter().collect()
}

/// Where the other back end of R59 listens.
const GOOD_PORT: u16 = 8010;

/// R59: the negative cases.
pub(super) fn negatives(who: Who) -> anyhow::Result<Vec<Record>> {
    let mut records = vec![resets(who)?, pings(who)?];
    for again in [false, true] {
        records.extend([goaway(who, again)?, streams(who, again)?]);
    }
    Ok(records)
}

fn ask(peer: &Peer, all: usize, paths: &'static [&'static str]) -> Ends {
    let ends = calls(&peer.front.client, peer.front.addr, all, paths);
    eprintln!("  {ends:?}");
    ends
}

fn goaway(who: Who, again: bool) -> anyhow::Result<Record> {
    let peer = Peer::start(who, Setup { second: Some(GOOD_PORT), again, ..Speaks::Http2.into() })?;
    good(&peer.front.back, GOOD_PORT);
    let (_server, told) = leaving(&peer.front.back, peer.front.port);
    let all = count(2_000, 100_000);
    let failed = ask(&peer, all, &[GOOD]).failed(GOOD);
    let told = told.load(Ordering::Relaxed);
    let fault = (told < all / 1000).then(|| "few connections were told".to_owned());
    let (held, figure) = judged(fault, format!("{failed} of {all} failed, {told} GOAWAY"));
    Ok(note(who, 59, &case("goaway", again), held && failed == 0, figure))
}

/// By themselves they do not try again what the back end did not process; the mesh does.
fn case(name: &str, again: bool) -> String {
    if again { format!("{name}, told to try again") } else { name.to_owned() }
}

/// A reset that follows an answer's beginning has to end its call as an error, with whichever code.
fn resets(who: Who) -> anyhow::Result<Record> {
    let peer = Peer::start(who, Speaks::Http2)?;
    resetting(&peer.front.back, peer.front.port);
    let all = count(800, 20_000);
    let ends = ask(&peer, all, &PATHS);
    let sum = |how: fn(&str) -> bool| RESETS.iter().map(|path| ends.count(path, how)).sum::<usize>();
    let coded = sum(|end| end == "INTERNAL_ERROR");
    // Without a length, whoever reads `200` and the end has no sign that more was to come.
    let (whole, hung) = (sum(|end| end == "ok" || end.starts_with("200")), sum(|end| end == "hung"));
    let others = ends.failed(GOOD);
    let faults =
        [(whole > 0).then(|| format!("{whole} looked whole")), (hung > 0).then(|| format!("{hung} did not end"))];
    let (held, figure) = judged(
        faults.into_iter().flatten().next(),
        format!("{coded} of {all} reset with their code, {others} others failed"),
    );
    Ok(note(who, 59, "rst after header, in and after data", held && others == 0, figure))
}

fn streams(who: Who, again: bool) -> anyhow::Result<Record> {
    let peer = Peer::start(who, Setup { again, ..Speaks::Http2.into() })?;
    narrow(&peer.front.back, peer.front.port);
    let all = count(800, 20_000);
    let failed = ask(&peer, all, &[GOOD]).failed(GOOD);
    Ok(note(who, 59, &case("max_streams", again), failed == 0, format!("{failed} of {all} failed")))
}

fn pings(who: Who) -> anyhow::Result<Record> {
    let peer = Peer::start(who, Speaks::Http2)?;
    let pongs = pinging(&peer.front.back, peer.front.port);
    let all = count(2_000, 50_000);
    let failed = ask(&peer, all, &[GOOD]).failed(GOOD);
    let pongs = pongs.load(Ordering::Relaxed);
    let fault = (pongs < 20).then(|| "few pings were answered".to_owned());
    let (held, figure) = judged(fault, format!("{failed} of {all} failed, {pongs} pings answered"));
    Ok(note(who, 59, "ping", held && failed == 0, figure))
}
