//! Heads that are too large and bodies without end: R18, R19.

use mesh_tests::attacks::endless::{self, GROWTH};
use mesh_tests::attacks::http1::oversize::{self, Weight};
use mesh_tests::attacks::http1::{Outcome, Recorder, attempt};
use mesh_tests::yardstick::{Source, Who, beside};

use super::{judged, note, plain};
use crate::records::Record;

pub(super) fn all(who: Who) -> anyhow::Result<Vec<Record>> {
    let mut records = heads(who)?;
    records.extend(bodies(who)?);
    Ok(records)
}

fn heads(who: Who) -> anyhow::Result<Vec<Record>> {
    let peer = plain(who)?;
    let recorder = Recorder::start(&peer.front.back, peer.front.port);
    let _polite = Source::start(&peer.polite.back, peer.polite.port);
    let (large, oversize) = (oversize::large(), oversize::oversize());
    let seen = beside(&peer.polite, || {
        let seen = |case| attempt(&peer.front, &recorder, case);
        let taken = large.iter().filter(|case| matches!(seen(case).outcome(case), Outcome::Served)).count();
        let refused = oversize.iter().filter(|case| {
            let seen = seen(case);
            let right = oversize::is_refused(&seen, case);
            if !right {
                eprintln!(
                    "  {}: {:?}, {} arrived, closed: {}",
                    case.name,
                    seen.statuses,
                    seen.arrived.len(),
                    seen.closed
                );
            }
            right
        });
        (taken, refused.count())
    });
    let (weight, (taken, refused)) = (Weight::of(&peer.front), seen.result);
    let faults = [
        (refused < oversize.len()).then(|| format!("{refused} of {} sizes refused", oversize.len())),
        (taken < large.len()).then(|| format!("{taken} of {} large ones taken", large.len())),
        (weight.each > Weight::MOST).then(|| format!("more than {} KiB for each", Weight::MOST)),
    ];
    let fault = faults.into_iter().flatten().next().or_else(|| seen.fault());
    let figure = format!("{refused} sizes refused; {weight}; peak +{} KiB; {}", seen.grown, seen.polite);
    let (held, figure) = judged(fault, figure);
    Ok(vec![note(who, 18, "heads and trailers", held, figure)])
}

fn bodies(who: Who) -> anyhow::Result<Vec<Record>> {
    let peer = plain(who)?;
    let source = Source::start(&peer.front.back, peer.front.port);
    let one = |way| {
        let seen = beside(&peer.front, || {
            if way == "down" { endless::down(&peer.front, &source) } else { endless::up(&peer.front) }
        });
        let rested = seen.result.as_ref().ok().copied().flatten();
        let held = rested.map_or("not held back".to_owned(), |bytes| format!("held back after {} KiB", bytes >> 10));
        let faults = [
            rested.is_none().then(|| "the source goes on".to_owned()),
            (seen.grown > GROWTH).then(|| format!("grew by more than {GROWTH} KiB")),
        ];
        let fault = faults.into_iter().flatten().next().or_else(|| seen.fault());
        let (held, figure) = judged(fault, format!("{held}; grew by {} KiB; {}", seen.grown, seen.polite));
        note(who, 19, way, held, figure)
    };
    Ok(["down", "up"].map(one).into())
}
