//! R10: requests with two readings.

use mesh_tests::attacks::http1::{Recorder, smuggling};
use mesh_tests::yardstick::{Who, record};

use super::watch::Watch;
use super::{Wire, findings, refused, verdict};

#[test]
fn r10_a_request_with_two_readings_is_refused_or_has_one() {
    let wire = Wire::start();
    let cases = smuggling::cases();
    let mut all = Vec::new();
    let recorders = [0, 2].map(|nth: usize| Recorder::start(&wire.fronts[nth].back, wire.fronts[nth].port));
    for (nth, front) in wire.fronts.iter().enumerate() {
        let watch = Watch::begin(&wire, front);
        let outcomes = wire.try_all(front, &recorders[nth / 2], &cases);
        let watched = watch.finish();
        let found = findings(front, &cases, &outcomes);
        let figure = format!(
            "{} cases: {} refused, counted and closed, the others one clean request each; {watched}",
            cases.len(),
            refused(&outcomes)
        );
        println!("{} {}: {figure}", front.way, front.addr.port());
        record(10, &format!("two readings, {}", front.way), Who::Mesh, found.is_empty(), &figure);
        all.extend(found);
    }
    verdict(cases.len() * wire.fronts.len(), &all);
}
