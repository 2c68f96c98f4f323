//! R12: chunks as no standard spells them.

use mesh_tests::attacks::http1::{Recorder, chunks};
use mesh_tests::yardstick::{Who, record};

use super::watch::Watch;
use super::{Wire, findings, refused, verdict};

#[test]
fn r12_a_request_in_malformed_chunks_is_refused() {
    let wire = Wire::start();
    let recorder = Recorder::start(&wire.fronts[0].back, wire.fronts[0].port);
    let cases = chunks::uploads();
    let mut all = Vec::new();
    for front in &wire.fronts[..2] {
        let watch = Watch::begin(&wire, front);
        let outcomes = wire.try_all(front, &recorder, &cases);
        let found = findings(front, &cases, &outcomes);
        let figure = format!("{} of {} refused; {}", refused(&outcomes), cases.len(), watch.finish());
        println!("{}: {figure}", front.way);
        record(12, &format!("chunks of requests, {}", front.way), Who::Mesh, found.is_empty(), &figure);
        all.extend(found);
    }
    verdict(2 * cases.len(), &all);
}

#[test]
fn r12_a_response_in_malformed_chunks_is_cut_and_its_connection_is_not_used_again() {
    let wire = Wire::start();
    let speller = chunks::Speller::start(&wire.fronts[0].back, wire.fronts[0].port);
    let mut all = Vec::new();
    for front in &wire.fronts[..2] {
        let watch = Watch::begin(&wire, front);
        let before = all.len();
        for (nth, spelling) in chunks::SPELLINGS.iter().enumerate() {
            let seen = chunks::download(front, &speller, nth);
            if seen.taken || seen.reused {
                all.push(format!("{}, {spelling:?}: {seen:?}", front.way));
            }
        }
        let figure = format!(
            "{} spellings, {} taken or reused; {}",
            chunks::SPELLINGS.len(),
            all.len() - before,
            watch.finish()
        );
        println!("{}: {figure}", front.way);
        record(12, &format!("chunks of responses, {}", front.way), Who::Mesh, all.len() == before, &figure);
    }
    verdict(2 * chunks::SPELLINGS.len(), &all);
}
