//! R18: heads and trailers that are larger than anybody needs.

use mesh_tests::attacks::http1::{Outcome, Recorder, attempt, oversize};
use mesh_tests::yardstick::{Front, Who, count, record};

use super::watch::Watch;
use super::{Wire, findings, verdict};

/// The largest head that sidecars take, KiB.
const HEAD: u64 = 64;

#[test]
fn r18_a_head_that_is_too_large_is_refused_and_costs_no_more_than_twice_its_limit() {
    let wire = Wire::start();
    let recorder = Recorder::start(&wire.fronts[0].back, wire.fronts[0].port);
    let (large, oversize) = (oversize::large(), oversize::oversize());
    let mut all = Vec::new();
    for front in &wire.fronts[..2] {
        let watch = Watch::begin(&wire, front);
        all.extend(findings(front, &large, &wire.try_all(front, &recorder, &large)));
        for case in &oversize {
            let seen = attempt(front, &recorder, case);
            // A client that goes on sending may see the reset before the answer.
            let reset =
                seen.statuses.is_empty() && seen.closed && seen.arrived.is_empty() && seen.contaminated.is_none();
            match seen.outcome(case) {
                Outcome::Refused(400 | 414 | 431) => {}
                _ if reset => {}
                other => all.push(format!("{}, {}: {other:?}", front.way, case.name)),
            }
        }
        let watched = watch.finish();
        let (each, answered) = weight(front);
        if each > 2 * HEAD {
            all.push(format!("{}: {each} KiB for each connection", front.way));
        }
        let figure = format!(
            "{} sizes refused; {each} KiB for each of {} heads at once, {answered} of them answered; {watched}",
            oversize.len(),
            connections()
        );
        println!("{}: {figure}", front.way);
        record(18, front.way, Who::Mesh, all.is_empty(), &figure);
    }
    verdict(2 * (large.len() + oversize.len()), &all);
}

fn connections() -> usize {
    count(32, 200)
}

/// KiB for each of many large heads at once, and how many were answered.
fn weight(front: &Front) -> (u64, usize) {
    let bytes = oversize::cookie(1 << 20).bytes;
    let before = front.proxy.resident();
    front.proxy.forget_peak();
    let answered = oversize::flood(front, connections(), &bytes);
    (front.proxy.peak().saturating_sub(before) / connections() as u64, answered)
}
