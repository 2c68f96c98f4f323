//! R11: what the standards say of requests. R15: how many Host fields.

use mesh_tests::attacks::http1::{Case, Outcome, Recorder, Right, compliance, fields};
use mesh_tests::yardstick::{Who, record};

use super::watch::Watch;
use super::{Wire, findings, refused, verdict};

/// What the standards leave to the reader and the mesh takes, reviewed one by one: each passes on as it came, so whoever judges
/// it judges what the application sees. All else that is left to the reader is refused.
const TAKEN: &[&str] = &[
    "\"⏎⏎GET /a HTTP/1.1\"",
    "\"GET /a%zz HTTP/1.1\"",
    "\"GET /a%00 HTTP/1.1\"",
    "\"GET /a\\\\b HTTP/1.1\"",
    "\"Host: web⏎X: \u{e9}\"",
];

#[test]
fn r11_requests_are_taken_or_refused_as_the_standards_say() {
    let wire = Wire::start();
    let tables = [compliance::cases(), compliance::malformed(), fields::alike(), fields::cookies()]
        .map(|table| (table.len(), table));
    let sizes: Vec<_> = tables.iter().map(|(size, _)| size.to_string()).collect();
    let cases: Vec<Case> = tables.into_iter().flat_map(|(_, table)| table).collect();
    let (mut all, mut tried) = (Vec::new(), 0);
    let recorders = [0, 2].map(|nth: usize| Recorder::start(&wire.fronts[nth].back, wire.fronts[nth].port));
    for front in wire.declared() {
        let watch = Watch::begin(&wire, front);
        let outcomes = wire.try_all(front, &recorders[1], &cases);
        let watched = watch.finish();
        let mut found = findings(front, &cases, &outcomes);
        let taken: Vec<_> = cases.iter().zip(&outcomes).filter(is_taken).map(|(case, _)| &case.name).collect();
        if taken != TAKEN {
            found.push(format!("{}: left to the reader and taken: {taken:#?}", front.way));
        }
        let figure = format!("{} cases, {} refused and counted; {watched}", sizes.join(" + "), refused(&outcomes));
        println!("{}: {figure}", front.way);
        record(11, front.way, Who::Mesh, found.is_empty(), &figure);
        tried += cases.len();
        all.extend(found);
    }
    verdict(tried, &all);
}

fn is_taken((case, outcome): &(&Case, &Outcome)) -> bool {
    matches!(case.right, Right::Either(_)) && matches!(outcome, Outcome::Served)
}

#[test]
fn r15_a_request_names_its_host_once() {
    let wire = Wire::start();
    let cases = compliance::hosts();
    let recorders = [0, 2].map(|nth: usize| Recorder::start(&wire.fronts[nth].back, wire.fronts[nth].port));
    let mut all = Vec::new();
    for (nth, front) in wire.fronts.iter().enumerate() {
        let outcomes = wire.try_all(front, &recorders[nth / 2], &cases);
        all.extend(findings(front, &cases, &outcomes));
        let figure = format!("{} of {} refused with 400", refused(&outcomes), cases.len() - 1);
        record(15, front.way, Who::Mesh, refused(&outcomes) == cases.len() - 1, &figure);
    }
    verdict(cases.len() * wire.fronts.len(), &all);
}
